"""What docs/structured-output.md says: its examples compile, its tables are those of the code."""

from __future__ import annotations

import re

import pytest

from sampan.serve.text import choose, compile, response_format
from sampan.serve.text.compile import compile_constraint
from sampan.serve.text.response_format import ResponseFormat
from tests.models.chat_templates import STYLES
from tests.test_docs import blocks, page, table

PAGE = page("docs/structured-output.md")


@pytest.mark.parametrize(("language", "kind"), [("json", "json_schema"), ("lark", "lark")])
def test_examples_are_accepted(language: str, kind: str) -> None:
    for _, source in blocks(PAGE, language):
        assert compile_constraint(STYLES["plain"].tokenizer(), None, format=ResponseFormat(kind, source))  # type: ignore[arg-type]


def test_bounds() -> None:
    assert [int(row[1]) for row in table(PAGE, "## Bounds")] == [
        response_format.MAXIMUM_SOURCE,
        response_format.MAXIMUM_DEPTH,
        response_format.MAXIMUM_MULTIPLE,
        compile.MAXIMUM_TOOLS,
    ]


def test_formats_of_calls_and_reasoning() -> None:
    shown = [re.findall(r"`([^`]+)`", row[0].replace("\\|", "|")) for row in table(PAGE, "## Tools")]
    assert [signs[0] for signs in shown] == [form.signs[0] for form in choose.CALL_FORMATS]
    assert all(
        set(signs) <= {*form.signs, "json"} for signs, form in zip(shown, choose.CALL_FORMATS, strict=True)
    )
    marks = [tuple(re.findall(r"`([^`]+)`", row[0])) for row in table(PAGE, "## Reasoning")]
    assert marks == [(pair.begin, pair.end) for pair in choose.REASONING_MARKS]
