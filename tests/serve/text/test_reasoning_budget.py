"""Reasoning that ends when its tokens are used up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.models.tokenizer import Tokenizer
from sampan.serve.text.compile import compile_constraint
from sampan.serve.text.reasoning_budget import within_budget
from sampan.serve.text.response_format import ResponseFormat
from tests.models.chat_templates import DEEPSEEK_R1, HERMES, PLAIN, STYLES, Style
from tests.serve.text.writing import text_of, write

USER = {"role": "user", "content": "Hello"}
# Marks that are one token each, marks that are several, and an answer that may begin with the first mark.
BEGUN = STYLES["deepseek_r1"].tokenizer()
SPELLED = Style(DEEPSEEK_R1).tokenizer()
FREE = Style(HERMES, added=("<think>", "</think>")).tokenizer()
SCHEMA = {"enum": ["blue", "grey"]}


def started(tokenizer: Tokenizer, budget: int, begin: str = "", format: ResponseFormat | None = None) -> Any:
    """A constraint, when the model has written `begin`, and the tokens of that."""
    prompt = tokenizer.render_chat([USER])
    inner = None if format is None else compile_constraint(tokenizer, prompt, format=format)
    compiled = within_budget(tokenizer, prompt, budget, inner)
    assert compiled is not None
    constraint = compiled.start()
    for token in tokenizer.encode(begin, add_bos=False, parse_special=True):
        constraint.accept(token)
    return constraint


def thought_tokens(tokenizer: Tokenizer, ids: list[int]) -> int | None:
    """How many tokens come before the mark that ends reasoning; None without one."""
    mark = len(tokenizer.encode("</think>", add_bos=False, parse_special=True))
    for count in range(mark, len(ids) + 1):
        if text_of(tokenizer, ids[:count]).endswith("</think>"):
            return count - mark
    return None


@pytest.mark.parametrize("tokenizer", [BEGUN, SPELLED], ids=["tokens", "texts"])
@given(budget=st.integers(0, 30), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_reasoning_has_no_more_tokens(tokenizer: Tokenizer, budget: int, seed: int) -> None:
    ids = write(started(tokenizer, budget), tokenizer, seed)
    count = thought_tokens(tokenizer, ids)
    # A model may always come to an end before.
    assert len(ids) <= budget if count is None else count <= budget


@given(budget=st.integers(0, 30), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_what_follows_is_in_the_wanted_form(budget: int, seed: int) -> None:
    ids = write(started(BEGUN, budget, format=ResponseFormat.json_schema(SCHEMA)), BEGUN, seed)
    assert json.loads(text_of(BEGUN, ids).partition("</think>")[2]) in SCHEMA["enum"]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_it_counts_from_where_the_model_begins(seed: int) -> None:
    ids = write(started(FREE, 5, "\n<think>"), FREE, seed)
    count = thought_tokens(FREE, ids)
    assert len(ids) <= 5 if count is None else count <= 5


def test_an_answer_without_reasoning_is_free() -> None:
    constraint = started(FREE, 0, "It is <think>")
    logits = np.zeros(FREE.vocab_size, np.float32)
    constraint.restrict(logits)
    assert not logits.any() and not constraint.ended


def test_an_answer_that_cannot_reason_has_no_budget() -> None:
    plain = Style(PLAIN).tokenizer()
    assert within_budget(plain, plain.render_chat([USER]), 5, None) is None
    closed = FREE.render_chat([USER], options={"enable_thinking": False})
    assert within_budget(FREE, closed, 5, None) is None
