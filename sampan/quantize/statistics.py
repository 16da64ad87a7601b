"""What the matrices of a model are multiplied with: calibration text read by the float32 twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sampan.hub.home import Progress
from sampan.models.reference import ReferenceModel, ReferenceSpan
from sampan.weights.layout import pack_layout

Array = npt.NDArray[np.float32]

# Rows of inputs whose products are summed at once, so that no copy of all of them is made.
_CHUNK = 4096
_UNSEEN = 0.01
# Of the mean square of an output's inputs: how much an error of a tied embedding counts, in any column, for
# what is looked up in it. On the models of assets/, rounded to nearest, it costs a quarter to a third of what
# the same error costs in the output.
_LOOKED_UP = 0.25


class MatrixInputs:
    """All that a matrix is multiplied with on the calibration text: `rows` float32 [tokens, columns].

    `weights` [tokens], for an expert, is what each token's output counts for in the layer's; an error there
    counts by its square. Of a matrix that is `looked_up` as well, a tied embedding, rows are inputs
    themselves. Sums are worked out when they are asked for, once.
    """

    def __init__(self, rows: Array, weights: Array | None = None, *, looked_up: bool = False) -> None:
        self.rows = rows
        self.weights = weights
        self._everywhere = _LOOKED_UP if looked_up else 0.0

    @property
    def tokens(self) -> int:
        """How many rows there are: of an expert, the tokens that were sent to it."""
        return len(self.rows)

    @cached_property
    def second_moments(self) -> Array:
        """The mean square of each column, [columns], weighted."""
        total = np.zeros(self.rows.shape[1], np.float64)
        for rows in self._weighted_rows():
            total += np.einsum("tc,tc->c", rows, rows)
        total += self._everywhere * total.mean()
        return (total / self.tokens).astype(np.float32)

    @property
    def importance(self) -> Array:
        """How much an error in each column counts, [columns]: the second moments, and a little for columns
        that the text never used.
        """
        moments = self.second_moments
        importance: Array = moments + np.float32(_UNSEEN) * moments.mean()
        return importance

    @cached_property
    def hessian(self) -> Array:
        """The mean product of any two columns, [columns, columns], weighted: half the second derivative of
        the mean squared error of an output by the weights of its row.
        """
        columns = self.rows.shape[1]
        total = np.zeros((columns, columns), np.float32)
        for rows in self._weighted_rows():
            total += rows.T @ rows
        diagonal = np.diag_indices(columns)
        total[diagonal] += np.float32(self._everywhere) * total[diagonal].mean()
        return total / np.float32(self.tokens)

    def _weighted_rows(self) -> Iterator[Array]:
        for start in range(0, len(self.rows), _CHUNK):
            rows = self.rows[start : start + _CHUNK]
            yield rows if self.weights is None else rows * self.weights[start : start + _CHUNK, None]


def read_inputs(
    model: ReferenceModel,
    texts: Sequence[npt.NDArray[np.integer]],
    visit: Callable[[str, MatrixInputs], None],
    progress: Progress | None = None,
) -> frozenset[str]:
    """Read texts, token ids [n] each on its own, and hand every matrix that they reach to `visit`, in the
    order of use: layer by layer, the output matrix last, by the name under which the pack has it.

    `visit` is called before the model asks for the matrix, with all inputs it will have. So where the model's
    `get_matrix` gives the rounded matrix from then on, what follows sees the outputs of the rounded ones
    before it. A tied embedding is visited as the output matrix, after its use for the tokens.

    Returns the names that no token reached: experts, and an embedding that is not tied, whose use is no
    product. Memory: the inputs and outputs of all tokens for one matrix, keys and values of one layer, and
    one matrix as floats.
    """
    config = model.config
    unreached = set(pack_layout(config).matrices)
    known: MatrixInputs | None = None

    def observe(name: str, rows: Array, weights: Array | None) -> None:
        nonlocal known
        model.release("")
        unreached.discard(name)
        # Queries, keys and values share their inputs, as do a gate and its up projection.
        if known is None or known.rows is not rows:
            known = MatrixInputs(rows, weights, looked_up=name == "embedding")
        visit(name, known)

    lengths = [len(text) for text in texts]
    ends = np.cumsum(lengths).tolist()
    hidden = model.embed(np.concatenate(texts))
    previous, model.observe = model.observe, observe
    try:
        for layer in range(config.layer_count):
            spans = [
                ReferenceSpan(model.new_cache(), slice(end - length, end))
                for end, length in zip(ends, lengths, strict=True)
            ]
            hidden = model.layer(layer, hidden, spans)
            if progress is not None:
                progress("reading the calibration text", layer + 1, config.layer_count)
        observe("embedding" if config.tied_embeddings else "output", model.output_norm(hidden), None)
    finally:
        model.observe = previous
        model.release("")
    return frozenset(unreached)
