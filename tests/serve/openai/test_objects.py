"""What OpenAI's answer objects have in common."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

import sampan
from sampan.errors import UnavailableError
from sampan.serve.events import ChoiceEnd
from sampan.serve.openai.objects import fingerprint, finish_reason


@pytest.mark.usefixtures("in_shared_home")
def test_a_fingerprint_is_that_of_weights_and_precision(tiny_folder: Path, sparse_folder: Path) -> None:
    def of(folder: Path, kv: Literal["bf16", "int8"] = "bf16", **options: Any) -> str:
        with sampan.load(folder, threads=1, kv_dtype=kv, **options) as model:
            served: Any = SimpleNamespace(model=model)
            return fingerprint(served)

    first = of(tiny_folder)
    assert first == of(tiny_folder, context=100, sequences=2)
    assert len({first, of(tiny_folder, "int8"), of(sparse_folder)}) == 3


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_ends_that_openai_has_a_word_for(reason: Literal["stop", "length", "tool_calls"]) -> None:
    assert finish_reason(ChoiceEnd(0, reason)) == reason


@pytest.mark.parametrize(("reason", "message"), [("deadline", "time was over"), ("cancelled", "server stop")])
def test_other_ends_are_errors(reason: Literal["deadline", "cancelled"], message: str) -> None:
    with pytest.raises(UnavailableError, match=message):
        finish_reason(ChoiceEnd(0, reason))
