"""The Qwen3 decoder in plain torch: grouped-query attention, RMS norm on query and key heads, SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import INITIAL_DEVIATION, NORM_EPSILON, ModelShape
from trainer.experts import Experts


class _Norm(nn.Module):
    """RMS norm over the last axis, in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, values: Tensor) -> Tensor:
        normed = functional.rms_norm(values.float(), self.weight.shape, self.weight, NORM_EPSILON)
        return normed.to(values.dtype)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


class _Attention(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        hidden, dim = shape.hidden_size, shape.head_dim
        self.query = _linear(hidden, shape.query_heads * dim)
        self.key = _linear(hidden, shape.kv_heads * dim)
        self.value = _linear(hidden, shape.kv_heads * dim)
        self.output = _linear(shape.query_heads * dim, hidden)
        self.query_norm = _Norm(dim)
        self.key_norm = _Norm(dim)

    def forward(self, values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """`values` [batch, length, hidden]; `cosine`, `sine` [length, head_dim]."""
        batch, length, _ = values.shape
        heads = (batch, length, -1, self.shape.head_dim)
        query = _rotate(self.query_norm(self.query(values).view(heads)).transpose(1, 2), cosine, sine)
        key = _rotate(self.key_norm(self.key(values).view(heads)).transpose(1, 2), cosine, sine)
        value = self.value(values).view(heads).transpose(1, 2)
        group = self.shape.query_heads // self.shape.kv_heads
        mixed = functional.scaled_dot_product_attention(
            query, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1), is_causal=True
        )
        mixed = mixed.transpose(1, 2).reshape(batch, length, -1)
        projected: Tensor = self.output(mixed)
        return projected


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864) over halves."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((-second, first), dim=-1) * sine


class _DenseMLP(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_up = _linear(shape.hidden_size, 2 * shape.mlp_width)
        self.down = _linear(shape.mlp_width, shape.hidden_size)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = self.gate_up(rows).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up), torch.zeros(())


class _Layer(nn.Module):
    def __init__(self, shape: ModelShape, balance_memory: float) -> None:
        super().__init__()
        self.attention_norm = _Norm(shape.hidden_size)
        self.attention = _Attention(shape)
        self.mlp_norm = _Norm(shape.hidden_size)
        self.mlp = Experts(shape, balance_memory) if shape.expert_count else _DenseMLP(shape)

    def forward(self, values: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        values = values + self.attention(self.attention_norm(values), cosine, sine)
        rows, balance = self.mlp(self.mlp_norm(values).flatten(0, 1))
        return values + rows.view_as(values), balance


class Decoder(nn.Module):
    """A Qwen3 or Qwen3-MoE language model with tied embeddings."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, shape: ModelShape, balance_memory: float = 0.0, seed: int = 0) -> None:
        """Weights drawn with `seed`. `balance_memory`: see Experts."""
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.hidden_size))
        self.layers = nn.ModuleList(_Layer(shape, balance_memory) for _ in range(shape.layer_count))
        self.norm = _Norm(shape.hidden_size)
        pairs = torch.arange(0, shape.head_dim, 2) / shape.head_dim
        angles = torch.outer(torch.arange(shape.context).float(), shape.rope_base**-pairs).repeat(1, 2)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        """Normal weights; those that write to the residual stream smaller, by its number of writers."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                writes = name.endswith(("output.weight", "down.weight", "mlp.down"))
                deviation = INITIAL_DEVIATION / ((2 * self.shape.layer_count) ** 0.5 if writes else 1.0)
                nn.init.normal_(parameter, std=deviation, generator=generator)

    def hidden(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`tokens` [batch, length] -> normed hidden states [batch, length, hidden], mean balance loss []."""
        values = self.embedding[tokens].to(self.dtype)
        cosine = self.cosine[: tokens.shape[1]].to(self.dtype)
        sine = self.sine[: tokens.shape[1]].to(self.dtype)
        balances = []
        for layer in self.layers:
            values, balance = layer(values, cosine, sine)
            balances.append(balance)
        return self.norm(values), torch.stack(balances).mean()

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in: bfloat16 within autocast, else float32."""
        return torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, length, vocab_size]."""
        hidden, _ = self.hidden(tokens)
        return functional.linear(hidden, self.embedding)

    def loss(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in nats of `targets` [batch, length] after `tokens`, and the balance loss."""
        hidden, balance = self.hidden(tokens)
        logits = functional.linear(hidden, self.embedding).flatten(0, 1)
        return functional.cross_entropy(logits.float(), targets.flatten()), balance
