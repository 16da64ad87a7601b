"""Muon: momentum whose matrices are made orthogonal, for the matrices inside the layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Linear, cubic and quintic coefficient of the iteration.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Steps along the nearest orthogonal matrix of a Nesterov momentum, all singular values about one
    (K. Jordan, https://kellerjordan.github.io/posts/muon, 2024), scaled to the size of an AdamW step
    (arXiv:2502.16982). A parameter [n, out, in] is n matrices. A group's `scale` multiplies its steps.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], learning_rate: float, momentum: float, weight_decay: float
    ) -> None:
        """`groups`: `params`, of two or three dimensions, and `scale`."""
        defaults = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay, "scale": 1.0}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step for all parameters that have a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonal(parameter.grad.lerp(momentum, group["momentum"]))
                size = 0.2 * max(parameter.shape[-2:]) ** 0.5 * group["scale"]
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest orthogonal matrix of each of `matrices` [..., rows, columns], by a Newton-Schulz
    iteration in bfloat16."""
    linear, cubic, quintic = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = linear * x + (cubic * square + quintic * square @ square) @ x
    result: Tensor = x.mT if tall else x
    return result.to(matrices.dtype)
