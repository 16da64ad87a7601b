"""Reasoning in front of answers, and which parser a model's template asks for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import UnsupportedError
from sampan.serve.text import deepseek, glm, hermes, kimi, llama, minimax, qwen_coder
from sampan.serve.text.choose import call_format_of, choose_decode, choose_parser, reasoning_of
from sampan.serve.text.hermes import HermesParser
from sampan.serve.text.plain import PlainParser
from sampan.serve.text.reasoning import ReasoningMarks, ReasoningParser
from tests.models.chat_templates import PLAIN, STYLES, TIME, WEATHER, Style
from tests.serve.text.pieces import Joined, read, read_in_every_way

TOKENIZERS = {name: style.tokenizer() for name, style in STYLES.items()}
THINK = ReasoningMarks("<think>", "</think>")
USER = {"role": "user", "content": "What does <think> mean?"}


def parser(begun: bool) -> ReasoningParser:
    return ReasoningParser(THINK, HermesParser(), begun=begun)


@pytest.mark.parametrize(
    ("begun", "text", "expected"),
    [
        (False, "<think>\nHm.\n</think>\n\nYes.", Joined("Yes.", "Hm.")),
        (False, "\n<think>Hm.</think>Yes.", Joined("Yes.", "Hm.")),
        (True, "Hm.\n\nSo.\n</think>\n\nYes.", Joined("Yes.", "Hm.\n\nSo.")),
        (True, "\nHm. </think> Yes.\n", Joined(" Yes.\n", "Hm. ")),
        # None, an empty one, and one that is cut short.
        (False, "Yes. <think>a</think>", Joined("Yes. <think>a</think>")),
        (False, " \n<thi", Joined(" \n<thi")),
        (False, "  Yes.", Joined("  Yes.")),
        (True, "</think>Yes.", Joined("Yes.")),
        (True, "Hm.\n\n</thi", Joined("", "Hm.\n\n</thi")),
        (True, "Hm.\n", Joined("", "Hm.")),
        # A call behind it; a mark in the answer is text.
        (True, 'a</think>\n<tool_call>{"name": "f"}', Joined("", "a", [["f", None, "{}"]])),
        (True, "a</think>b</think>", Joined("b</think>", "a")),
        # The prompt has the first mark, and the model writes it again.
        (True, "<think>\nHm.</think>Yes.", Joined("Yes.", "Hm.")),
    ],
)
def test_reasoning_is_separate(begun: bool, text: str, expected: Joined) -> None:
    assert read_in_every_way(lambda: parser(begun), text) == expected


@given(
    st.booleans(),
    st.lists(st.sampled_from(["<think>", "</think>", "<", "th", "\n", "\r", " ", "a", "é", "<tool_call>"])),
)
@settings(max_examples=200, deadline=None)
def test_any_cut_is_read_alike(begun: bool, parts: list[str]) -> None:
    text = "".join(parts)
    joined = read_in_every_way(lambda: parser(begun), text)
    if not begun and not text.strip().startswith("<think>"):
        assert joined == Joined(text)


@pytest.mark.parametrize(
    ("name", "call_format"),
    [
        ("plain", hermes.FORMAT),
        ("hermes", hermes.FORMAT),
        ("qwen_coder", qwen_coder.FORMAT),
        ("deepseek_r1", deepseek.FORMAT_V3),
        ("deepseek_v31", deepseek.FORMAT_V31),
        ("kimi", kimi.FORMAT),
        ("glm", glm.FORMAT),
        ("minimax", minimax.FORMAT),
        ("llama", llama.FORMAT),
    ],
)
def test_templates_say_how_calls_are_written(name: str, call_format: Any) -> None:
    assert call_format_of(TOKENIZERS[name]) is call_format


def test_control_tokens_say_it_where_the_template_does_not() -> None:
    """As with the first Kimi-K2, whose template declares tools and writes no calls."""
    declares = "{% if tools %}{{ tools | tojson }}{% endif %}" + PLAIN
    assert call_format_of(Style(declares, STYLES["kimi"].control).tokenizer()) is kimi.FORMAT
    with pytest.raises(UnsupportedError, match="writes calls in a form that is not supported"):
        choose_parser(Style(declares).tokenizer(), "", tools=[TIME])
    assert isinstance(choose_parser(Style(declares).tokenizer(), ""), PlainParser)
    assert call_format_of(Style("").tokenizer()) is hermes.FORMAT


@pytest.mark.parametrize(
    ("name", "options", "continued", "begun"),
    [
        ("plain", {}, None, None),
        ("llama", {}, None, None),
        ("hermes", {}, None, False),
        ("hermes", {"enable_thinking": False}, None, None),
        ("deepseek_r1", {}, None, True),
        ("deepseek_v31", {}, None, None),
        ("minimax", {}, None, True),
        ("glm", {}, None, False),
        ("glm", {"enable_thinking": False}, None, None),
        # Marks that are control tokens themselves.
        ("kimi", {}, None, False),
        # What a continued message says counts; what the user says does not.
        ("hermes", {}, "<think>\nHm", True),
        ("hermes", {}, "<think>\nHm\n</think>\n\nIt", None),
    ],
)
def test_how_an_answer_may_begin(
    name: str, options: dict[str, Any], continued: str | None, begun: bool | None
) -> None:
    tokenizer = TOKENIZERS[name]
    messages = [USER] if continued is None else [USER, {"role": "assistant", "content": continued}]
    if continued is not None:
        # As templates of thinking models do where they do not cut reasoning off.
        tokenizer = Style(PLAIN + "{# </think> #}").tokenizer()
    prompt = tokenizer.render_chat(messages, options=options, continue_final=continued is not None)
    reasoning = reasoning_of(tokenizer, prompt)
    assert (reasoning.begun if reasoning else None) == begun
    chosen = choose_parser(tokenizer, prompt)
    assert isinstance(chosen, PlainParser if begun is None else ReasoningParser)


@pytest.mark.parametrize("name", STYLES)
def test_a_chosen_parser_reads_the_whole_answer(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompt = tokenizer.render_chat([USER], tools=[WEATHER])
    reasoning = reasoning_of(tokenizer, prompt)
    opening = "" if reasoning is None else "Hm.</think>" if reasoning.begun else "<think>Hm.</think>"

    def chosen() -> Any:
        return choose_parser(tokenizer, prompt, tools=[WEATHER], parallel_tool_calls=False)

    answer = tokenizer.render_chat(
        [{"role": "assistant", "content": "", "tool_calls": [_call()]}], add_generation_prompt=False
    )
    joined = read_in_every_way(chosen, opening + answer[answer.index(_first_mark(name)) :])
    assert joined.reasoning == ("Hm." if opening else "")
    assert [call[0] for call in joined.calls] == ["get_weather"]


def _call() -> dict[str, Any]:
    arguments = '{"city": "Paris"}'
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": "functions.get_weather:0", "type": "function", "function": function}


def _first_mark(name: str) -> str:
    parser = call_format_of(TOKENIZERS[name]).parser
    return parser.section[0] if parser.section else (*parser.begins, '{"name"')[0]


@pytest.mark.parametrize("name", STYLES)
def test_marks_are_shown_and_other_control_tokens_hidden(name: str) -> None:
    """Where marks are control tokens, a decoder shows them; end tokens are never text."""
    tokenizer = TOKENIZERS[name]
    marks = set(call_format_of(tokenizer).marks) | {"<think>", "</think>"}
    controls = marks & set(tokenizer.control_tokens)
    decode = choose_decode(tokenizer, tools=True)
    assert (decode is None) == (not controls)
    assert choose_decode(tokenizer, tools=False) is None or name == "kimi"
    if decode is None:
        return
    ids = tokenizer.encode("a", add_bos=False)
    shown = sorted(tokenizer.control_tokens.values())
    text = decode([*ids, *shown, *ids])
    assert text.startswith("a") and text.endswith("a")
    for control, token in tokenizer.control_tokens.items():
        assert (control in text) == (control in controls)
        assert decode([token]) == (control if control in controls else "")


def test_an_answer_without_tools_passes_through_behind_its_reasoning() -> None:
    plain, calls = ReasoningParser(THINK, PlainParser(), begun=True), parser(begun=True)
    read(calls, ["Hm.</think>Yes."])
    # What follows passes through is checked by `read`.
    assert read(plain, list("Hm.</think>\n\nYes.")) == Joined("Yes.", "Hm.")
    assert plain.passes_through and not calls.passes_through
    assert not ReasoningParser(THINK, PlainParser(), begun=True).passes_through
