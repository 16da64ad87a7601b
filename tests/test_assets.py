"""The trained models in assets/: what their files claim, measured again."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from sampan.models.reference import ReferenceModel
from sampan.models.registry import FAMILIES
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.detect import open_source

ASSETS = Path(__file__).parent.parent / "assets"
MODELS = sorted(path.parent.name for path in ASSETS.glob("*/figures.json"))
KNOWN = {name for family in FAMILIES for name in family.huggingface_types}


def figures(model: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((ASSETS / model / "figures.json").read_text())
    return result


def family(model: str) -> str:
    name: str = json.loads((ASSETS / model / "config.json").read_text())["model_type"]
    return name


def held_out(cell: str) -> list[str]:
    """Every twentieth document of DOMAIN.LANGUAGE, from the first."""
    text = lzma.decompress((ASSETS / "corpus" / f"{cell}.txt.xz").read_bytes()).decode()
    return text.split("\n===\n")[::20]


def test_the_weights_stay_small() -> None:
    sizes = [(ASSETS / model / "model.safetensors").stat().st_size for model in MODELS]
    assert len(sizes) == 2
    assert sum(sizes) < 30e6


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_finite_bfloat16_and_as_many_as_told(model: str) -> None:
    count = 0
    with safe_open(ASSETS / model / "model.safetensors", framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            piece = file.get_slice(name)
            assert piece.get_dtype() == "BF16"
            count += int(np.prod(piece.get_shape()))
    assert count == figures(model)["parameters"] <= 15_000_000


@pytest.mark.parametrize("model", [model for model in MODELS if family(model) in KNOWN])
def test_held_out_loss_is_as_told(model: str) -> None:
    """Loss as in figures.json, through our own reader, tokenizer and NumPy twin."""
    source = open_source(ASSETS / model)
    twin = ReferenceModel.from_source(source)
    tokenizer = Tokenizer(*import_tokenizer(source))
    (end,) = tokenizer.eos_ids
    expected = figures(model)["held_out"]["health.zh"]
    nats, count = 0.0, 0
    for text in held_out("health.zh"):
        ids = [end, *tokenizer.encode(text), end]
        assert tokenizer.decode(ids) == text
        for start in range(0, len(ids) - 1, twin.config.context_length):
            window = np.array(ids[start : start + twin.config.context_length + 1])
            logits = twin.forward(window[:-1]).astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            nats -= likelihood[np.arange(len(window) - 1), window[1:]].sum()
            count += len(window) - 1
    assert count == expected["tokens"]
    assert nats / count == pytest.approx(expected["nats_per_token"], abs=1e-3)
