"""What the matrices of a model are multiplied with: calibration text read by the float32 twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from sampan.hub.home import Progress
from sampan.models.reference import ReferenceModel, ReferenceSpan
from sampan.quantize.compensate import Compensation
from sampan.quantize.sensitivity import output_sensitivity
from sampan.weights.layout import pack_layout

Array = npt.NDArray[np.float32]

# Rows of inputs whose products are summed at once, so that no copy of all of them is made.
_CHUNK = 4096
_UNSEEN = 0.01
# Of the mean square of an output's inputs: how much an error of a tied embedding counts, in any column, for
# what is looked up in it. On the models of assets/, rounded to nearest, it costs a quarter to a third of what
# the same error costs in the output.
_LOOKED_UP = 0.25
# Added to the hessian's diagonal for a correction, of the diagonal's mean.
_CORRECTION_DAMPING = 0.05
# What these give is added to the hidden state as it is, unless a norm comes between.
_ADDED = ("attention.output", "linear.output", "mlp.down")


@dataclass(frozen=True, eq=False)
class OutputMatrix:
    """The unrounded matrix, float32 [rows, columns], whose products times `scale` are the logits."""

    weights: Array
    scale: float


class MatrixInputs:
    """All that a matrix is multiplied with on the calibration text: `rows` float32 [tokens, columns].

    `weights` [tokens], for an expert, is what each token's output counts for in the layer's; an error there
    counts by its square. Of a matrix that is `looked_up` as well, a tied embedding, rows are inputs
    themselves. `exact`, like `rows`: what the inputs are in a model that is not rounded. `lacking` [tokens,
    rows of the matrix], float32: what should be added to its outputs. `sensitivity` [rows of the matrix,
    rows]: how much errors of two outputs count together, see `sensitivity.py`. `output`: the matrix itself,
    where it is the one that logits come from. Sums are worked out when they are asked for, once.
    """

    def __init__(
        self,
        rows: Array,
        weights: Array | None = None,
        *,
        looked_up: bool = False,
        exact: Array | None = None,
        lacking: Array | None = None,
        sensitivity: Array | None = None,
        output: OutputMatrix | None = None,
    ) -> None:
        self.rows = rows
        self.weights = weights
        self.exact = exact
        self.lacking = lacking
        self.sensitivity = sensitivity
        self.output = output
        self.looked_up = looked_up
        self._everywhere = _LOOKED_UP if looked_up else 0.0

    @property
    def tokens(self) -> int:
        """How many rows there are: of an expert, the tokens that were sent to it."""
        return len(self.rows)

    @property
    def rows_together(self) -> bool:
        """Whether the rows of the matrix are compensated with regard to each other, or in classes."""
        return self.sensitivity is not None or self.output is not None

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

    @cached_property
    def compensation(self) -> Compensation:
        """Of the hessian: queries, keys and values share it, a gate and its up projection, and all formats
        that are tried.
        """
        return Compensation.of(self.hessian)

    @cached_property
    def correction(self) -> Array | None:
        """What to multiply the matrix with before it is rounded, [columns, columns], so that its products
        with `rows` come nearer to those with `exact`; None where these are not known.

        The least squares solution of (weight correction) rows^T = weight exact^T (as in GPTAQ, Li et al.
        2025, arXiv:2504.02692), damped, and as much of the way to it as there are tokens.
        """
        if self.exact is None:
            return None
        exact = self.exact
        correction = self._fitted(lambda part: exact[part] - self.rows[part], exact.shape[1])
        correction[np.diag_indices(len(correction))] += 1
        return correction

    @cached_property
    def addition(self) -> Array | None:
        """What to add to the matrix before it is rounded, of its shape, so that its products with `rows` gain
        what is `lacking`, in the same way; None where nothing is.
        """
        if self.lacking is None:
            return None
        return self._fitted(self.lacking.__getitem__, self.lacking.shape[1])

    def _fitted(self, wanted: Callable[[slice], Array], outputs: int) -> Array:
        """The least squares solution [outputs, columns] of solution rows^T = wanted^T, damped, and as much of
        the way to it as there are tokens. `wanted` gives some rows of [tokens, outputs].
        """
        # As many tokens as there are columns can be met exactly, whatever others would say.
        known = self.tokens / (self.tokens + self.rows.shape[1])
        if self.tokens < self.rows.shape[1]:
            return np.asarray(known * self._fitted_by_token(wanted(slice(None))), np.float32)
        return np.asarray(known * self._fitted_by_column(wanted, outputs), np.float32)

    def _fitted_by_column(self, wanted: Callable[[slice], Array], outputs: int) -> npt.NDArray[np.float64]:
        """The damped solution, by a system of as many equations as there are columns."""
        columns = self.rows.shape[1]
        products = np.zeros((outputs, columns), np.float64)
        for start in range(0, len(self.rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows = self.rows[part].astype(np.float64)
            if self.weights is not None:
                rows *= np.square(self.weights[part], dtype=np.float64)[:, None]
            products += wanted(part).astype(np.float64).T @ rows
        hessian = self.hessian.astype(np.float64)
        hessian[np.diag_indices(columns)] += _CORRECTION_DAMPING * np.diag(hessian).mean()
        if not hessian.any():
            return np.zeros_like(products)
        return np.asarray(np.linalg.solve(hessian, products.T / self.tokens).T, np.float64)

    def _fitted_by_token(self, wanted: Array) -> Array:
        """The same by one of as many as there are tokens, which an expert has few of: X^T (X X^T + d)^-1 is
        (X^T X + d)^-1 X^T.
        """
        weights = np.ones(self.tokens) if self.weights is None else self.weights.astype(np.float64)
        rows = self.rows * weights[:, None]
        gram = rows @ rows.T
        if not gram.any():
            return np.zeros((wanted.shape[1], rows.shape[1]), np.float32)
        damping = self._everywhere + _CORRECTION_DAMPING * (1 + self._everywhere)
        gram[np.diag_indices(self.tokens)] += damping * np.trace(gram) / rows.shape[1]
        solved = np.linalg.solve(gram, rows).astype(np.float32)
        return (wanted * weights[:, None].astype(np.float32)).T @ solved

    def _weighted_rows(self) -> Iterator[Array]:
        for start in range(0, len(self.rows), _CHUNK):
            rows = self.rows[start : start + _CHUNK]
            yield rows if self.weights is None else rows * self.weights[start : start + _CHUNK, None]


def read_inputs(
    model: ReferenceModel,
    texts: Sequence[npt.NDArray[np.integer]],
    visit: Callable[[str, MatrixInputs], None],
    progress: Progress | None = None,
    *,
    exact: ReferenceModel | None = None,
    finish: Callable[[Array, Array], None] | None = None,
) -> frozenset[str]:
    """Read texts, token ids [n] each on its own, and hand every matrix that they reach to `visit`, in the
    order of use: layer by layer, the output matrix last, by the name under which the pack has it.

    `visit` is called before the model asks for the matrix, with all inputs it will have. So where the
    model's `get_matrix` gives the rounded matrix from then on, what follows sees the outputs of the rounded
    ones before it. A tied embedding is visited as the output matrix, after its use for the tokens.

    With `exact`, the same model with weights that are not rounded, which reads along, inputs know what they
    would be there, and each token keeps the experts that it has there. Where a matrix's outputs are added to
    the hidden state as they are, its inputs know what the hidden state lacks of that there. A tied embedding
    is then visited first, with its inputs there, so that all others make up for what is lost in it; the texts
    are read once more for that, and so it is known how much errors in the hidden state count together. An
    embedding that is not tied may be rounded before. When all have been visited, `finish` gets what the last
    layer gives in the model and in the exact one, [tokens, hidden_size].

    Returns the names that no token reached: experts, and an embedding that is not tied, whose use is no
    product. Memory: the inputs and outputs of all tokens for one matrix, keys and values of one layer, and
    one matrix as floats; with `exact` all inputs of one layer.
    """
    config = model.config
    unreached = set(pack_layout(config).matrices)
    known: MatrixInputs | None = None
    sensitivity: Array | None = None

    def observe(name: str, rows: Array, weights: Array | None) -> None:
        nonlocal known
        model.release("")
        unreached.discard(name)
        # Queries, keys and values share their inputs, as do a gate and its up projection.
        if known is None or known.rows is not rows:
            aim = aims[name]() if name in aims else None
            # An expert's weight may be 0 in one of both, and then it is not asked there.
            aim = aim if aim is not None and aim.shape == rows.shape else None
            lacking = None
            if name in residuals:
                lacking = (residuals[name] - model.residual) / np.float32(config.residual_scale)
            matrix = logit_matrix(exact) if exact is not None and name == output else None
            known = MatrixInputs(
                rows,
                weights,
                looked_up=name == "embedding",
                exact=aim,
                lacking=lacking,
                sensitivity=sensitivity if name.endswith((*_ADDED, ".down")) else None,
                output=matrix,
            )
        visit(name, known)

    def observe_exact(name: str, rows: Array, _weights: Array | None) -> None:
        assert exact is not None
        exact.release("")
        if ".experts." in name and name.endswith((".gate", ".up")):
            # Those of all experts together would be as many times their source as a token has experts.
            aims[name] = partial(np.take, exact.expert_inputs, exact.expert_tokens, axis=0)
        else:
            aims[name] = partial(np.asarray, rows)
        if name.endswith(_ADDED) and not config.sandwich_norms:
            residuals[name] = exact.residual

    aims: dict[str, Callable[[], Array]] = {}
    residuals: dict[str, Array] = {}
    lengths = [len(text) for text in texts]
    ends = np.cumsum(lengths).tolist()
    tokens = np.concatenate(texts)
    layers = range(config.layer_count)
    output = "embedding" if config.tied_embeddings else "output"
    first = exact is not None and config.tied_embeddings
    steps = config.layer_count * (2 if first else 1)

    def logit_matrix(twin: ReferenceModel) -> OutputMatrix:
        return OutputMatrix(twin.output_matrix(), config.logit_scale)

    def through(twin: ReferenceModel, layer: int, hidden: Array) -> Array:
        spans = [
            ReferenceSpan(twin.new_cache(), slice(end - length, end))
            for end, length in zip(ends, lengths, strict=True)
        ]
        return twin.layer(layer, hidden, spans)

    def advance(done: int) -> None:
        if progress is not None:
            progress("reading the calibration text", done, steps)

    previous, model.observe, followed = model.observe, observe, model.follow
    try:
        if exact is not None and first:
            exact.observe = lambda _name, _rows, _weights: exact.release("")
            hidden = exact.embed(tokens)
            for layer in layers:
                hidden = through(exact, layer, hidden)
                advance(layer + 1)
            unreached.discard(output)
            inputs = exact.output_norm(hidden)
            visit(output, MatrixInputs(inputs, looked_up=True, output=logit_matrix(exact)))
            sensitivity = None if config.sandwich_norms else output_sensitivity(exact, hidden)
            exact.release("")
            model.release("")
        hidden = model.embed(tokens)
        aim = hidden if exact is None else exact.embed(tokens)
        for layer in layers:
            if exact is not None:
                aims.clear()
                residuals.clear()
                exact.observe = observe_exact
                aim = through(exact, layer, aim)
                routes = exact.layer_routes(layer)
                if routes is not None:
                    model.follow = np.broadcast_to(routes, (config.sparse_count, *routes.shape))
            hidden = through(model, layer, hidden)
            advance(steps - config.layer_count + layer + 1)
        if not first:
            if exact is not None:
                aims[output] = partial(exact.output_norm, aim)
            observe(output, model.output_norm(hidden), None)
    finally:
        model.observe, model.follow = previous, followed
        model.release("")
        if exact is not None:
            exact.observe = None
            exact.release("")
    if finish is not None and exact is not None:
        finish(hidden, aim)
    return frozenset(unreached)
