"""What all rounding together does to the answers, against comparing them one by one."""

from __future__ import annotations

import numpy as np
import pytest

from sampan.measure.compare import compare
from sampan.models.reference import ReferenceModel
from sampan.quantize import divergence
from tests.quantize.test_statistics import model_of


@pytest.mark.parametrize("case", ["llama", "qwen3"])
@pytest.mark.parametrize("positions", [200, 48])
def test_it_is_the_mean_over_spread_positions(
    case: str, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "_POSITIONS", positions)
    exact = model_of(case)
    other = ReferenceModel(
        exact.config,
        lambda name: exact._get["matrix"](name) * np.float32(1.1 if name in ("embedding", "output") else 1),
        exact._get["vector"],
    )
    random = np.random.default_rng(5)
    aim = random.normal(size=(96, exact.config.hidden_size)).astype(np.float32)
    hidden = aim + (random.normal(size=aim.shape) * 0.1).astype(np.float32)
    rows = slice(None, None, 2 if positions == 48 else 1)
    each = compare(exact.logits(aim), other.logits(hidden), np.zeros(96, np.int64)).divergence[rows]
    found = divergence.mean_divergence(exact, aim, other, hidden)
    assert found == pytest.approx(float(each.mean()), rel=1e-4)
    assert found > 0
    assert divergence.mean_divergence(exact, aim, exact, aim) == pytest.approx(0, abs=1e-9)
