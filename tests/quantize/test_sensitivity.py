"""How much errors in the last hidden state count, against the divergence that they end in."""

from __future__ import annotations

import numpy as np
import pytest

from sampan.measure.compare import compare
from sampan.quantize.sensitivity import output_sensitivity
from tests.quantize.test_statistics import model_of


@pytest.mark.parametrize("case", ["llama", "qwen3"])
def test_errors_in_directions_that_count_end_in_more_divergence(case: str) -> None:
    model = model_of(case)
    size = model.config.hidden_size
    random = np.random.default_rng(8)
    hidden = random.normal(size=(400, size)).astype(np.float32)
    found = output_sensitivity(model, hidden)
    np.testing.assert_allclose(found, found.T, rtol=1e-3, atol=1e-5)
    values, directions = np.linalg.eigh(found - 0.2 * np.eye(size))
    assert values.mean() == pytest.approx(1, rel=1e-3)

    def damage(direction: np.ndarray) -> float:
        off = hidden + np.float32(0.02) * direction
        return float(
            compare(model.logits(hidden), model.logits(off), np.zeros(400, np.int64)).divergence.mean()
        )

    least, middle, most = (damage(directions[:, place]) for place in (0, size // 2, -1))
    assert least < middle < most
    expected = values[-1] / values[size // 2]
    assert most / middle == pytest.approx(expected, rel=0.35)
