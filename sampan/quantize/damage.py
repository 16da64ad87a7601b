"""The damage of every format of every matrix: by how much it is expected to raise the mean KL divergence.

To second order, the divergence is quadratic in the rounding errors, and the errors of different weights are
independent of each other, so that damages add up. Of a matrix of a layer,

    damage(format) = divergence of its site
                     * its share of the error that the site leaves in the layer's output
                     * error of its weights in the format / error in the format that the site was probed with

The share of a matrix that is a site by itself is 1; only experts have others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sampan.convert.policy import ALWAYS_EIGHT_BITS, ALWAYS_EIGHT_BITS_IN_LAYERS
from sampan.formats import Q2C, Q3C, Q4, Q4C, Q8
from sampan.quantize.sites import Site, SiteMeasures, site_of

# An expert that few tokens reached is held to be like the others of its layer, as much as if so many more
# tokens had shown that.
_PRIOR_TOKENS = 8.0
# Added to every expert's count of tokens: the estimate of a rate from few events by Krichevsky and Trofimov
# (1981), under which an expert that no token reached counts for half of one.
_UNSEEN_TOKENS = 0.5

_FORMATS = (Q2C.name, Q3C.name, Q4C.name, Q4.name, Q8.name)


@dataclass(frozen=True)
class DamageTable:
    """Damages in nats by matrix and by the format's name. `sites`: what was measured of each; `tokens`: of
    the experts' matrices, how many of `all_tokens` reached them.
    """

    damages: Mapping[str, Mapping[str, float]]
    sites: Mapping[str, Site]
    tokens: Mapping[str, int]
    all_tokens: int

    @property
    def unreached_experts(self) -> tuple[str, ...]:
        """The experts that no token reached, such as `layers.0.experts.7`."""
        return tuple(
            dict.fromkeys(name.rpartition(".")[0] for name, count in self.tokens.items() if not count)
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> DamageTable:
        """The inverse of `to_dict`."""
        sites = {name: Site(**site) for name, site in values["sites"].items()}
        return DamageTable(values["damages"], sites, values["tokens"], values["all_tokens"])


def candidate_formats(name: str) -> tuple[str, ...]:
    """The formats, in order of size, that a matrix of the pack may be given for a size.

    What every token goes through is protected by what was measured: an error there counts for all tokens, one
    of an expert for those that are sent to it. Besides, the embedding and the output have 3 bits at least: at
    2 their errors are no longer small, and every text pays for them, those too that were not measured. The
    few rows that rule a linear layer's state have 8 (see `convert.policy`).
    """
    if name.endswith(ALWAYS_EIGHT_BITS_IN_LAYERS):
        return (Q8.name,)
    return _FORMATS[1:] if name in ALWAYS_EIGHT_BITS else _FORMATS


def damage_table(measures: SiteMeasures) -> DamageTable:
    """What the measurements say of every matrix."""
    divergences = _all_divergences(measures.sites)
    members = defaultdict(list)
    for name in measures.probed:
        members[site_of(name)].append(name)
    damages: dict[str, Mapping[str, float]] = dict(measures.direct)
    for site, names in members.items():
        for name, share in zip(names, _shares(measures, names), strict=True):
            errors = measures.rounding_errors[name]
            probed = errors[measures.probed[name]]
            scale = divergences[site] * share / probed if probed else 0.0
            damages[name] = {format: scale * error for format, error in errors.items()}
    return DamageTable(damages, measures.sites, measures.expert_tokens, measures.tokens)


def _shares(measures: SiteMeasures, names: Sequence[str]) -> list[float]:
    """Of a site's error, those of its matrices."""
    if len(names) == 1 or names[0] not in measures.expert_tokens:
        return [1 / len(names)] * len(names)
    tokens = [measures.expert_tokens[name] for name in names]
    errors = [measures.expert_errors[name] for name in names]
    mean = sum(errors) / sum(tokens)
    expected = [
        (count + _UNSEEN_TOKENS) * (error + _PRIOR_TOKENS * mean) / (count + _PRIOR_TOKENS)
        for count, error in zip(tokens, errors, strict=True)
    ]
    return [error / sum(expected) if mean else 1 / len(names) for error in expected]


def _all_divergences(sites: Mapping[str, Site]) -> dict[str, float]:
    """The divergence of every site. Where it was not measured: from the error that the site leaves and what
    an error of that size does in the nearest layers where such a site was measured, on a logarithmic scale.
    """
    known: dict[str, dict[int, float]] = defaultdict(dict)
    for name, site in sites.items():
        if site.divergence is not None and site.divergence > 0 and site.error > 0:
            layer, kind = _layer_and_kind(name)
            known[kind][layer] = math.log(site.divergence / site.error)
    divergences = {}
    for name, site in sites.items():
        layer, kind = _layer_and_kind(name)
        if site.divergence is not None:
            divergences[name] = max(site.divergence, 0.0)
        elif known[kind]:
            layers = sorted(known[kind])
            effect = np.interp(layer, layers, [known[kind][at] for at in layers])
            divergences[name] = site.error * math.exp(float(effect))
        else:
            divergences[name] = 0.0
    return divergences


def _layer_and_kind(site: str) -> tuple[int, str]:
    _, layer, kind = site.split(".", 2)
    return int(layer), kind
