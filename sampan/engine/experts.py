"""The dial: to how many experts a request's tokens are sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sampan.errors import ParameterError

if TYPE_CHECKING:
    from sampan.config import ModelConfig


@dataclass(frozen=True)
class ExpertDial:
    """`count`: experts per token, None for as many as the model was trained with. `mass`: of these the fewest
    that hold this share of the routing weight. models/routing.py has both, step by step.
    """

    count: int | None = None
    mass: float = 1.0

    def count_for(self, config: ModelConfig) -> int:
        """Experts per token, before `mass` drops any."""
        return config.experts_per_token if self.count is None else self.count


FULL = ExpertDial()


def most_experts(config: ModelConfig, wanted: int | None) -> int:
    """To how many experts a token can be sent in a model loaded for `wanted`, and never fewer than it was
    trained with. ParameterError when it has no experts or not so many.
    """
    if wanted is None:
        return config.experts_per_token
    check_dial(ExpertDial(wanted), config, config.experts_in_reach)
    return max(wanted, config.experts_per_token)


def check_dial(dial: ExpertDial, config: ModelConfig, most: int) -> None:
    """ParameterError when a model that is loaded for `most` experts per token cannot do this."""
    if dial == FULL:
        return
    if not config.sparse_count:
        raise ParameterError(
            "experts_per_token",
            "this model has no experts, so there is no number or mass of experts to choose",
        )
    count = dial.count_for(config)
    if not 1 <= count <= config.experts_in_reach:
        groups = f" in {config.expert_groups} groups" if config.expert_groups > 1 else ""
        raise ParameterError(
            "experts_per_token",
            f"{count} experts per token: this model has {config.expert_count}{groups} and can use 1 to"
            f" {config.experts_in_reach} for a token",
        )
    if count > most:
        raise ParameterError(
            "experts_per_token",
            f"{count} experts per token, but the model was loaded for at most {most}; "
            f"load it with max_experts={count}",
        )
