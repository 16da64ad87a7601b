"""The order in which documents are read: new each epoch, the same in every run and for every model."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor

from trainer.config import Recipe
from trainer.corpus import Cell
from trainer.tokenizer import end_of_text


class Batches:
    """Training documents of all cells, cut into windows of `recipe.length` tokens and their successors."""

    def __init__(self, cells: list[Cell], tokenizer: Tokenizer, recipe: Recipe) -> None:
        end = end_of_text(tokenizer)
        texts = [text for cell in cells for text in cell.training]
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        self._documents = [torch.tensor([end, *encoding.ids]) for encoding in encodings]
        self._recipe = recipe
        self.token_count = sum(len(document) for document in self._documents)
        self._windows_per_epoch = (self.token_count - 1) // recipe.length
        self._epoch = -1
        self._stream = torch.empty(0, dtype=torch.int64)

    def epochs(self, steps: int) -> float:
        """How often `steps` steps see the corpus."""
        return steps * self._recipe.tokens_per_step / self.token_count

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and their successors, both [sequences, length], of step `step`."""
        first = step * self._recipe.sequences
        windows = [self._window(index) for index in range(first, first + self._recipe.sequences)]
        stacked = torch.stack(windows)
        return stacked[:, :-1], stacked[:, 1:]

    def _window(self, index: int) -> Tensor:
        epoch, position = divmod(index, self._windows_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._recipe.seed + epoch)
            order = torch.randperm(len(self._documents), generator=generator).tolist()
            self._stream = torch.cat([self._documents[document] for document in order])
            self._epoch = epoch
        start = position * self._recipe.length
        return self._stream[start : start + self._recipe.length + 1]
