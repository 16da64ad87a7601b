"""What OpenAI's answer objects have in common."""

from __future__ import annotations

from typing import Literal

import pytest

from sampan.errors import UnavailableError
from sampan.serve.events import ChoiceEnd
from sampan.serve.openai.objects import finish_reason


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_ends_that_openai_has_a_word_for(reason: Literal["stop", "length", "tool_calls"]) -> None:
    assert finish_reason(ChoiceEnd(0, reason)) == reason


@pytest.mark.parametrize(("reason", "message"), [("deadline", "time was over"), ("cancelled", "server stop")])
def test_other_ends_are_errors(reason: Literal["deadline", "cancelled"], message: str) -> None:
    with pytest.raises(UnavailableError, match=message):
        finish_reason(ChoiceEnd(0, reason))
