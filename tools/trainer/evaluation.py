"""Held-out loss per domain and language, and which experts each of them uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log, log2

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from trainer.corpus import Cell
from trainer.experts import Experts
from trainer.model import Decoder
from trainer.tokenizer import end_of_text


@dataclass(frozen=True)
class CellLoss:
    """The loss on a cell's held-out text: every token predicted once, each document by itself, from
    <|endoftext|> to the <|endoftext|> after it, in windows of the model's context."""

    documents: int
    text_bytes: int
    tokens: int
    nats: float

    def figures(self) -> dict[str, float]:
        """As JSON: nats and perplexity per token, bits per byte of text (whatever the tokenizer)."""
        return {
            "documents": self.documents,
            "bytes": self.text_bytes,
            "tokens": self.tokens,
            "nats_per_token": round(self.nats / self.tokens, 4),
            "perplexity": round(exp(self.nats / self.tokens), 3),
            "bits_per_byte": round(self.nats / log(2) / self.text_bytes, 4),
        }


def total(losses: Iterable[CellLoss]) -> CellLoss:
    """The loss on all text of several cells."""
    parts = list(losses)
    return CellLoss(
        sum(part.documents for part in parts),
        sum(part.text_bytes for part in parts),
        sum(part.tokens for part in parts),
        sum(part.nats for part in parts),
    )


def held_out_loss(
    model: Decoder, cells: list[Cell], tokenizer: Tokenizer
) -> tuple[dict[str, CellLoss], dict[str, Tensor]]:
    """Loss by cell, and by cell how often each expert is chosen: int64 [layers, experts], empty if dense."""
    losses, usage = {}, {}
    for cell in cells:
        losses[cell.name], usage[cell.name] = _cell_loss(model, cell, tokenizer)
    return losses, usage


@torch.no_grad()
def _cell_loss(model: Decoder, cell: Cell, tokenizer: Tokenizer) -> tuple[CellLoss, Tensor]:
    end = end_of_text(tokenizer)
    length = model.shape.context
    layers = [layer.mlp for layer in model.layers if isinstance(layer.mlp, Experts)]
    chosen = torch.zeros(len(layers), model.shape.expert_count, dtype=torch.int64)
    nats, tokens = 0.0, 0
    for encoding in tokenizer.encode_batch(cell.held_out, add_special_tokens=False):
        ids = torch.tensor([end, *encoding.ids, end])
        for start in range(0, len(ids) - 1, length):
            window = ids[start : start + length + 1]
            logits = model(window[None, :-1])[0]
            nats += functional.cross_entropy(logits, window[1:], reduction="sum").item()
            tokens += len(window) - 1
            for index, experts in enumerate(layers):
                if experts.choices is not None:
                    chosen[index] += torch.bincount(experts.choices.flatten(), minlength=chosen.shape[1])
    size = sum(len(text.encode()) for text in cell.held_out)
    return CellLoss(len(cell.held_out), size, tokens, nats), chosen


def specialisation(usage: dict[str, Tensor]) -> dict[str, object]:
    """How much an expert says about the text, as JSON.

    `shares`: by cell, the part of its choices that goes to each expert, [layers][experts].
    `mutual_information_bits`: by layer, between expert and cell when cells are equally frequent; 0 when all
    cells use experts alike, at most `mutual_information_bound`. `largest_lift`: by cell, the layer, expert
    and ratio where its share exceeds the mean share of all cells most.
    """
    shares = {name: counts / counts.sum(dim=1, keepdim=True) for name, counts in usage.items()}
    stacked = torch.stack(list(shares.values()))
    mean = stacked.mean(dim=0)
    information = torch.special.xlogy(stacked, stacked / mean.clamp_min(1e-9)).sum(dim=2).mean(dim=0) / log(2)
    lift = {}
    for name, share in shares.items():
        ratio = share / mean.clamp_min(1e-6)
        layer, expert = divmod(int(ratio.argmax()), ratio.shape[1])
        lift[name] = {"layer": layer, "expert": expert, "ratio": round(float(ratio[layer, expert]), 2)}
    return {
        "mutual_information_bits": [round(value, 4) for value in information.tolist()],
        "mutual_information_bound": round(log2(len(usage)), 4),
        "largest_lift": lift,
        "shares": {name: [[round(v, 4) for v in row] for row in s.tolist()] for name, s in shares.items()},
    }
