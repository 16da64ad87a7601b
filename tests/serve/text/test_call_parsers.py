# ruff: noqa: RUF001 - DeepSeek's tokens have wide bars.
"""Tool calls, as each format has them: what templates write is what parsers read, in any cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.serve.text.calls import CallFormat, CallParser, ToolSchema
from sampan.serve.text.choose import call_format_of
from tests.models.chat_templates import STYLES, TIME, WEATHER
from tests.serve.text.pieces import Joined, read, read_in_every_way

TOKENIZERS = {name: style.tokenizer() for name, style in STYLES.items()}
FORMATS = {name: call_format_of(tokenizer) for name, tokenizer in TOKENIZERS.items()}
TOOLS = [ToolSchema.of(WEATHER), ToolSchema.of(TIME)]
USER = {"role": "user", "content": "Hello"}


def parser(name: str, parallel: bool = True) -> CallParser:
    return FORMATS[name].parser(TOOLS, parallel=parallel)


def written(name: str, content: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """An answer of the assistant as the style's template writes it, without its end token."""
    tool_calls = [
        {
            "id": f"functions.{tool}:{number}",
            "type": "function",
            "function": {"name": tool, "arguments": json.dumps(arguments, ensure_ascii=False)},
        }
        for number, (tool, arguments) in enumerate(calls)
    ]
    tokenizer = TOKENIZERS[name]
    conversation = [USER, {"role": "assistant", "content": content, "tool_calls": tool_calls}]
    shown = [USER, {"role": "assistant", "content": "@"}]
    asked = tokenizer.render_chat(shown, add_generation_prompt=False)
    whole = tokenizer.render_chat(conversation, add_generation_prompt=False)
    head, _, tail = asked.partition("@")
    return whole.removeprefix(head).removesuffix(tail)


ARGUMENTS = st.fixed_dictionaries(
    {"city": st.text(st.characters(exclude_categories=["Cs"]), max_size=12)},
    optional={
        "days": st.integers(-(10**12), 10**12),
        "unit": st.sampled_from(["celsius", "fahrenheit"]),
        "places": st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=3),
        "exact": st.booleans(),
    },
)
CALLS = st.lists(
    st.tuples(st.just("get_weather"), ARGUMENTS) | st.just(("get_time", {})), min_size=1, max_size=3
)


@pytest.mark.parametrize("name", STYLES)
@given(calls=CALLS, content=st.sampled_from(["", "Let me see.", "é\n\n中 <b>"]))
@settings(max_examples=40, deadline=None)
def test_what_templates_write_is_read(
    name: str, calls: list[tuple[str, dict[str, Any]]], content: str
) -> None:
    if name == "llama":
        calls, content = calls[:1], ""
    tagged = name in ("qwen_coder", "glm", "minimax")
    if tagged:
        # Without quotes, white space at a value's ends is the template's own, and so is what closes it.
        calls = [
            (tool, {k: v.strip() if isinstance(v, str) else v for k, v in a.items()}) for tool, a in calls
        ]
    joined = read_in_every_way(lambda: parser(name), written(name, content, calls))
    assert joined.text == content
    assert [(tool, json.loads(text or "")) for tool, _, text in joined.calls] == calls
    ids = [f"functions.{tool}:{number}" if name == "kimi" else None for number, (tool, _) in enumerate(calls)]
    assert [call_id for _, call_id, _ in joined.calls] == ids
    alone = read(parser(name, parallel=False), [written(name, content, calls)])
    assert alone == Joined(joined.text, "", joined.calls[:1])


def fragments(call_format: CallFormat) -> list[str]:
    cls = call_format.parser
    marks = {*call_format.marks, *cls.begins, *(cls.section or ())}
    tags = [
        getattr(cls, field, "") for field in ("key_begin", "key_end", "value_begin", "value_end", "call_end")
    ]
    words = ["\n", " ", "a", "{", "}", '"', ":", ",", "[", "]", "\\", "city", "get_weather", "function", "0"]
    pieces = [
        '"name"',
        '"arguments"',
        '{"name": "get_weather", "arguments": {',
        "<",
        "```json",
        '"}',
        "}}",
        ";",
    ]
    return sorted({*marks, *filter(None, tags), *words, *pieces, *(mark[:-1] for mark in marks)})


@pytest.mark.parametrize("name", STYLES)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_alike_in_any_cut(name: str, data: st.DataObject) -> None:
    """And none of it is lost where there is no call, but for marks around calls."""
    text = data.draw(st.lists(st.sampled_from(fragments(FORMATS[name])), max_size=14).map("".join))
    joined = read_in_every_way(lambda: parser(name), text)
    if not joined.calls:
        expected, shown = text, joined.text
        for mark in FORMATS[name].parser.section or ():
            expected, shown = ("".join(part.replace(mark, "").split()) for part in (expected, shown))
        assert shown == expected


def test_space_between_stray_words_stays_in_any_cut() -> None:
    text = "<tool_call>\n<function=get_time>\none\n two \n</function>\n</tool_call>"
    joined = read_in_every_way(lambda: parser("qwen_coder"), text)
    assert joined.text == "one\n two"
    assert [call[0] for call in joined.calls] == ["get_time"]


def answer(text: str, *calls: tuple[str, ...]) -> Joined:
    """Calls are (name, arguments) or (name, arguments, id)."""
    return Joined(text, "", [[name, *(call_id or [None]), arguments] for name, arguments, *call_id in calls])


HERMES_CALL = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        # Text before and behind calls is still apart; white space behind calls alone is dropped.
        (
            "hermes",
            f"  One.\n\n{HERMES_CALL}\n\nTwo. \n",
            answer("  One.\n\nTwo. \n", ("get_time", "{}")),
        ),
        ("hermes", f"One.\n{HERMES_CALL}\n\n", answer("One.", ("get_time", "{}"))),
        # Keys in another order, further keys, arguments as text, none, and several calls as an array.
        (
            "hermes",
            '<tool_call>{"arguments": {"a": 1}, "name": "f"}',
            answer("", ("f", '{"a": 1}')),
        ),
        (
            "hermes",
            '<tool_call>{"id": 3, "name": "f", "parameters": {}, "x": [{}]}',
            answer("", ("f", "{}")),
        ),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}',
            answer("", ("f", '{"a": 1}')),
        ),
        ("hermes", '<tool_call>{"name": "f", "arguments": null}', answer("", ("f", "{}"))),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>', answer("", ("f", "{}"))),
        (
            "hermes",
            '<tool_call>[{"name": "f", "arguments": {}}, {"name": "g"}]</tool_call>',
            answer("", ("f", "{}"), ("g", "{}")),
        ),
        # The end tag inside a string does not end a call.
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>\\""}}</tool_call>.',
            answer(".", ("f", '{"a": "</tool_call>\\""}')),
        ),
        # No calls.
        ("hermes", "<tool_call>hello</tool_call>", answer("<tool_call>hello</tool_call>")),
        ("hermes", '<tool_call>{"name": 3}</tool_call>', answer('<tool_call>{"name": 3}</tool_call>')),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": 3}',
            answer('<tool_call>{"name": "f", "arguments": 3}'),
        ),
        ("hermes", '<tool_call>{"name": "f', answer('<tool_call>{"name": "f')),
        ("hermes", "a <tool_", answer("a <tool_")),
        # Cut short, and broken too late to take it back.
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": {"a": "b',
            answer("", ("f", '{"a": "b')),
        ),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": {"a": {}</tool_call>',
            answer("", ("f", '{"a": {}')),
        ),
        ("llama", '<|python_tag|>{"name": "f", "parameters": {}}', answer("", ("f", "{}"))),
        (
            "llama",
            '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": 1}}',
            answer("", ("f", "{}"), ("g", '{"a": 1}')),
        ),
        ("llama", '{"a": "json"} and more', answer('{"a": "json"} and more')),
        ("llama", 'See {"name": "f", "parameters": {}}', answer('See {"name": "f", "parameters": {}}')),
        # Types are those of the schema, else strings; Python's words are taken for JSON's.
        (
            "qwen_coder",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\n1\n</parameter>\n<parameter=days>\n2.0\n"
            "</parameter>\n<parameter=exact>\nTrue\n</parameter>\n<parameter=places>\nnone\n</parameter>\n"
            "<parameter=unit>\n3\n</parameter>\n<parameter=other>\n[1]\n</parameter>\n</function>\n</tool_call>",
            answer(
                "",
                (
                    "get_weather",
                    '{"city": "1", "days": 2.0, "exact": true, "places": "none", "unit": "3", "other": [1]}',
                ),
            ),
        ),
        # Several lines, the tags left out that models forget, no arguments, text between them.
        (
            "qwen_coder",
            "<function=get_weather><parameter=city>\na\n\nb\n\n</parameter>?</function>",
            answer("?", ("get_weather", '{"city": "a\\n\\nb\\n"}')),
        ),
        (
            "qwen_coder",
            "<tool_call>\n<function=f></function></tool_call>",
            answer("", ("f", "{}")),
        ),
        ("qwen_coder", "<tool_call>{}", answer("<tool_call>{}")),
        ("qwen_coder", "<function=a b>", answer("<function=a b>")),
        (
            "qwen_coder",
            "<function=get_weather><parameter=days>\n4",
            answer("", ("get_weather", '{"days": ')),
        ),
        (
            "glm",
            "<tool_call>get_weather<arg_key>city</arg_key><arg_value>a\n</arg_value><arg_key>days</arg_key>"
            "<arg_value>NaN</arg_value></tool_call>",
            answer("", ("get_weather", '{"city": "a\\n", "days": "NaN"}')),
        ),
        ("glm", "<tool_call>get_time</tool_call>", answer("", ("get_time", "{}"))),
        (
            "glm",
            "<tool_call>f\n<arg_key>a</arg_key>b</tool_call>",
            answer("b", ("f", "{}")),
        ),
        ("glm", "Use <tool_call> tags.", answer("Use <tool_call> tags.")),
        (
            "minimax",
            '<minimax:tool_call><invoke name="f"><parameter name="a">1</parameter></invoke>',
            answer("", ("f", '{"a": 1}')),
        ),
        ("minimax", '<invoke name="f"></invoke>', answer('<invoke name="f"></invoke>')),
        (
            "deepseek_v31",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>?<｜tool▁calls▁end｜>!",
            answer("?!", ("f", "{}")),
        ),
        (
            "deepseek_v31",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁call▁end｜>",
            answer("<｜tool▁call▁begin｜>f<｜tool▁call▁end｜>"),
        ),
        (
            "deepseek_v31",
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": <｜tool▁call▁end｜>',
            answer("", ("f", '{"a": ')),
        ),
        (
            "kimi",
            "<|tool_calls_section_begin|><|tool_call_begin|>a.b:12<|tool_call_argument_begin|>{}<|tool_call_end|>",
            answer("", ("a.b", "{}", "a.b:12")),
        ),
        (
            "kimi",
            "<|tool_calls_section_begin|><|tool_call_begin|>f:0<|tool_call_argument_begin|>1",
            answer("<|tool_call_begin|>f:0<|tool_call_argument_begin|>1"),
        ),
    ],
)
def test_calls_and_what_is_none(name: str, text: str, expected: Joined) -> None:
    assert read_in_every_way(lambda: parser(name), text) == expected


def test_arguments_come_as_they_are_written() -> None:
    """A client sees them grow; what may be a mark is held back."""
    reader = parser("hermes")
    assert reader.push('<tool_call>{"name": "f", "arguments": {"a"')[-1].text == '{"a"'  # type: ignore[union-attr]
    assert reader.push(": 1")[-1].text == ": 1"  # type: ignore[union-attr]
    reader = parser("qwen_coder")
    assert len(reader.push("<function=get_weather><parameter=city>\nPar")) == 2
    assert reader.push("is\n</para")[-1].text == "is"  # type: ignore[union-attr]
    assert reader.push("meter>")[-1].text == '"'  # type: ignore[union-attr]


@pytest.mark.parametrize("name", STYLES)
def test_one_call_is_complete(name: str) -> None:
    reader = parser(name, parallel=False)
    text = written(name, "", [("get_weather", {"city": "Paris"})])
    assert not reader.complete
    reader.push(text)
    assert reader.complete
    assert not reader.push("More.") and not reader.finish()
    several = parser(name)
    several.push(text)
    assert not several.complete


DEEP = '{"a": ' * 5000


@pytest.mark.parametrize("name", STYLES)
def test_hostile_text_is_only_text(name: str) -> None:
    """Deep nesting and long names neither fail nor take their time."""
    call_format = FORMATS[name]
    begin = "".join(call_format.parser.section or ())[: len((call_format.parser.section or ("",))[0])]
    for start in call_format.parser.begins or ("",):
        for body in (
            DEEP,
            "x" * 50_000,
            f'{{"name": {DEEP}',
            '{"name": "f", "arguments": "' + "[" * 50_000 + '"}',
        ):
            assert isinstance(read(parser(name), [begin + start + body]), Joined)
