"""How much errors in the last hidden state count, two of its columns together.

To second order the divergence of a model whose last hidden state is off by e is half of e F e^T, with F the
Fisher information of the next token about the hidden state. What a matrix adds to the hidden state reaches
the end as it is, besides what the layers between make of it. So F says which outputs' errors should make up
for each other, as the hessian of the inputs says it of columns (both sides of a Kronecker product, as in
YAQA, Tseng et al. 2025, arXiv:2505.22988).
"""

from __future__ import annotations

import numpy as np

from sampan.models.reference import Array, ReferenceModel

# Positions that are looked at; and numbers that are worked on at once.
_POSITIONS, _AT_ONCE = 4096, 1 << 24
# Of the mean of the diagonal, added to it: what the layers between make of an error may lie in any direction.
_ELSEWHERE = 0.2


def output_sensitivity(model: ReferenceModel, hidden: Array) -> Array:
    """F for what the last layer gave, `hidden` [tokens, hidden_size]: the mean over evenly spread positions,
    float32 [hidden_size, hidden_size], in units of the mean of its diagonal, and damped. The last norm's root
    mean square is held to be constant.
    """
    count = min(len(hidden), _POSITIONS)
    states = hidden[np.arange(count) * len(hidden) // count]
    matrix, scale = model.output_matrix(), np.float32(model.config.logit_scale)
    gain = model.output_norm(np.ones((1, states.shape[1]), np.float32))
    likely = np.zeros(len(matrix), np.float32)
    total = np.zeros((states.shape[1], states.shape[1]), np.float32)
    step = max(1, _AT_ONCE // len(matrix))
    for start in range(0, count, step):
        rows = states[start : start + step]
        probabilities = model.output_norm(rows) @ matrix.T
        probabilities *= scale
        probabilities -= probabilities.max(axis=1, keepdims=True)
        np.exp(probabilities, out=probabilities)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        # What the norm divides by shrinks errors too.
        weights = 1 / (np.mean(rows * rows, axis=1) + np.float32(model.config.norm_epsilon))
        likely += weights @ probabilities
        means = (probabilities @ matrix) * np.sqrt(weights)[:, None]
        total -= means.T @ means
    for start in range(0, len(matrix), step):
        part = slice(start, start + step)
        total += (matrix[part].T * likely[part]) @ matrix[part]
    total *= gain.T * gain
    mean = np.diag(total).mean()
    if not mean > 0:
        return np.eye(len(total), dtype=np.float32)
    total /= mean
    total[np.diag_indices(len(total))] += np.float32(_ELSEWHERE)
    return total
