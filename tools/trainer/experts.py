"""The mixture-of-experts MLP for a CPU: tokens sorted by expert, a matrix product each, none dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import ModelShape


class _GroupedLinear(torch.autograd.Function):
    """Rows in groups, each group times its own matrix. In one node of the graph: 32 experts in 5 layers would
    otherwise cost more in bookkeeping than in arithmetic."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, ends: list[int]) -> Tensor:
        """`rows` [n, in] sorted by group, `weights` [groups, out, in] -> [n, out] in the rows' dtype."""
        matrices = weights.to(rows.dtype)
        ctx.save_for_backward(rows, matrices)
        ctx.ends = ends
        out = rows.new_empty(rows.shape[0], weights.shape[1])
        for group, (start, end) in enumerate(_ranges(ends)):
            torch.mm(rows[start:end], matrices[group].T, out=out[start:end])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        rows, matrices = ctx.saved_tensors
        out_gradient = gradients[0].contiguous()
        row_gradient = torch.empty_like(rows)
        weight_gradient = torch.empty_like(matrices)
        for group, (start, end) in enumerate(_ranges(ctx.ends)):
            torch.mm(out_gradient[start:end], matrices[group], out=row_gradient[start:end])
            torch.mm(out_gradient[start:end].T, rows[start:end], out=weight_gradient[group])
        return row_gradient, weight_gradient.float(), None


def _grouped_linear(rows: Tensor, weights: Tensor, ends: list[int]) -> Tensor:
    out: Tensor = _GroupedLinear.apply(rows, weights, ends)  # type: ignore[no-untyped-call]
    return out


def _ranges(ends: list[int]) -> list[tuple[int, int]]:
    return list(zip([0, *ends[:-1]], ends, strict=True))


class Experts(nn.Module):
    """Qwen3-MoE's sparse MLP: softmax over all experts, the best k, their weights normalised to one."""

    load: Tensor
    choices: Tensor | None

    def __init__(self, shape: ModelShape, balance_memory: float) -> None:
        """`balance_memory`: how much of the running load a step keeps."""
        super().__init__()
        hidden, width, count = shape.hidden_size, shape.mlp_width, shape.expert_count
        self.count = count
        self.per_token = shape.experts_per_token
        self.memory = balance_memory
        self.router = nn.Parameter(torch.empty(count, hidden))
        self.gate_up = nn.Parameter(torch.empty(count, 2 * width, hidden))
        self.down = nn.Parameter(torch.empty(count, hidden, width))
        self.register_buffer("load", torch.full((count,), 1.0 / count))
        self.choices = None

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`rows` [n, hidden] -> the weighted sum of the experts' outputs [n, hidden], and the balance loss.

        The balance loss is that of the Switch Transformer (arXiv:2101.03961): experts x sum of (share of
        choices x mean probability); 1 when balanced. The shares are a running mean over steps, so that a
        batch may be of one domain and use few experts, as long as many batches together use all
        (arXiv:2501.11873 gets there by counting over a very large batch).
        """
        probabilities = functional.linear(rows.float(), self.router).softmax(dim=-1)
        weights, experts = probabilities.topk(self.per_token, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        counts = torch.bincount(experts.flatten(), minlength=self.count)
        if self.training:
            shares = counts / counts.sum()
            self.load = self.memory * self.load + (1 - self.memory) * shares
        else:
            self.choices = experts
        balance = self.count * (self.load * probabilities.mean(dim=0)).sum()

        order = experts.flatten().argsort(stable=True)
        token = order // self.per_token
        ends: list[int] = counts.cumsum(0).tolist()
        with torch.autocast("cpu", enabled=False):
            gate, up = _grouped_linear(rows[token], self.gate_up, ends).chunk(2, dim=-1)
            outputs = _grouped_linear(functional.silu(gate) * up, self.down, ends)
            weighted = outputs * weights.flatten()[order, None].to(outputs.dtype)
            return torch.zeros_like(rows).index_add(0, token, weighted), balance
