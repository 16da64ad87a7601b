"""Calls that must be made, answers in a form behind reasoning, and both together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import RequestError
from sampan.models.tokenizer import Tokenizer
from sampan.serve.text.choose import choose_decode, choose_parser
from sampan.serve.text.compile import MAXIMUM_TOOLS, CompiledConstraint, compile_constraint
from sampan.serve.text.reasoning_first import ReasoningFirst
from sampan.serve.text.response_format import ResponseFormat
from tests.models.chat_templates import PLAIN, STYLES, TIME, WEATHER, Style
from tests.serve.text.pieces import Joined, read
from tests.serve.text.test_response_constraints import SCHEMAS, allowed
from tests.serve.text.writing import text_of, write

TOKENIZERS = {name: style.tokenizer() for name, style in STYLES.items()}
USER = {"role": "user", "content": "Hello"}
ENDINGS = ("</parameter>", "</arg_value>", "</think>", "<|tool_call_end|>")


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def answer(
    name: str, seed: int, tools: Sequence[Any], options: Any = None, **request: Any
) -> tuple[Joined, str]:
    """What a random answer to a request says, and its text."""
    tokenizer = TOKENIZERS[name]
    prompt = tokenizer.render_chat([USER], tools=tools, options=options)
    constraint = compile_constraint(tokenizer, prompt, tools=tools, **request)
    assert constraint is not None
    ids = write(constraint.start(), tokenizer, seed, ENDINGS)
    decode = choose_decode(tokenizer, tools=True) or tokenizer.decode
    parser = choose_parser(tokenizer, prompt, tools=tools)
    joined = read(parser, [decode([token]) for token in ids] if _plain(ids, decode) else [decode(ids)])
    return joined, text_of(tokenizer, ids)


def _plain(ids: list[int], decode: Any) -> bool:
    """Whether each token is whole characters, so that it may be decoded alone."""
    return "\ufffd" not in "".join(decode([token]) for token in ids)


def schema_of(tools: Sequence[Any], name: str | None) -> Any:
    (schema,) = [entry["function"]["parameters"] for entry in tools if entry["function"]["name"] == name]
    return schema


def valid(arguments: str | None, schema: Any) -> None:
    value = json.loads(arguments or "", parse_float=lambda text: min(max(float(text), -1e300), 1e300))
    jsonschema_rs.validator_for(schema).validate(value)


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("choice", ["required", "get_weather", "get_time"])
@given(seed=st.integers(0, 2**32), parallel=st.booleans())
@settings(max_examples=8, deadline=None)
def test_calls_are_made_by_their_schemas(name: str, choice: str, seed: int, parallel: bool) -> None:
    tools = [WEATHER, TIME]
    joined, text = answer(name, seed, tools, tool_choice=choice, parallel_tool_calls=parallel)
    assert joined.calls and not joined.text, text
    if choice != "required" or not parallel:
        assert len(joined.calls) == 1
    for called, call_id, arguments in joined.calls:
        assert choice in ("required", called)
        valid(arguments, schema_of(tools, called))
        assert (call_id is not None) == (name == "kimi")


@pytest.mark.parametrize("name", ["hermes", "deepseek_r1", "kimi", "llama"])
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_any_schema_of_arguments(name: str, schema: dict[str, Any], seed: int) -> None:
    tools = [tool("f", {"type": "object", "properties": {"x": schema}, "required": ["x"]})]
    joined, text = answer(name, seed, tools, tool_choice="f")
    assert [call[0] for call in joined.calls] == ["f"], text
    valid(joined.calls[0][2], tools[0]["function"]["parameters"])


@pytest.mark.parametrize("name", ["qwen_coder", "glm", "minimax"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a": {"type": ["number", "null"]}, "b": {"type": "string"}}},
        {
            "type": "object",
            "properties": {"a": {"const": "x"}, "b": {"enum": ["y", "</z>"]}},
            "required": ["b"],
        },
        {
            "type": "object",
            "properties": {
                "a": {"$ref": "#/$defs/list"},
                "b": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            },
            "required": ["a", "b"],
            "$defs": {"list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
        },
        {"type": "object", "additionalProperties": False},
        {"type": "object"},
        {},
        None,
    ],
)
def test_arguments_between_tags(name: str, parameters: Any) -> None:
    for seed in range(4):
        joined, text = answer(name, seed, [tool("f", parameters)], tool_choice="required")
        assert joined.calls and not joined.text, text
        for called, _, arguments in joined.calls:
            assert called == "f"
            valid(arguments, parameters or {})


SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
STRICT = SCHEMA | {"additionalProperties": False}


FORMATS = [
    ResponseFormat.json_schema(STRICT),
    ResponseFormat("regex", r'\{"ok": (true|false)\}'),
    ResponseFormat("lark", 'start: "{" OK "}"\nOK: "\\"ok\\":" ("true" | "false")'),
]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        pytest.param(name, format, id=f"{name}-{format.kind}")
        for name in STYLES
        for format in FORMATS
        if (name, format.kind) != ("llama", "lark")
    ],
)
def test_a_format_or_calls(name: str, format: ResponseFormat) -> None:
    """With tools, an answer is in the format or it is calls; without, it is in the format."""
    kinds = set()
    for seed in range(12):
        joined, text = answer(name, seed, [TIME], format=format, options={"enable_thinking": False})
        kinds.add(bool(joined.calls))
        if joined.calls:
            assert not joined.text and {call[0] for call in joined.calls} == {"get_time"}, text
        else:
            assert isinstance(json.loads(joined.text)["ok"], bool), text
        joined, text = answer(name, seed, [TIME], format=format, tool_choice="none")
        assert isinstance(json.loads(joined.text)["ok"], bool), text
    assert kinds == {True, False}


def test_a_grammar_beside_calls_without_marks() -> None:
    with pytest.raises(RequestError, match="a grammar cannot be combined with tools"):
        answer("llama", 0, [TIME], format=ResponseFormat("lark", 'start: "a"'))


def reasoning_constraint(
    tokenizer: Tokenizer, prompt: str, schema: dict[str, Any] = STRICT
) -> CompiledConstraint:
    constraint = compile_constraint(tokenizer, prompt, format=ResponseFormat.json_schema(schema))
    assert isinstance(constraint, ReasoningFirst)
    return constraint


SPELLED = Style(PLAIN + "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}{# </think> #}")


@pytest.mark.parametrize("name", ["hermes", "deepseek_r1", "glm", "minimax", "kimi", "spelled"])
@given(seed=st.integers(0, 2**32), fond=st.booleans())
@settings(max_examples=25, deadline=None)
def test_reasoning_is_free_and_the_answer_is_not(name: str, seed: int, fond: bool) -> None:
    """Also where the end mark is no token of its own and others overlap it: `fond` is a model that loves its
    characters.
    """
    tokenizer = SPELLED.tokenizer() if name == "spelled" else TOKENIZERS[name]
    prompt = tokenizer.render_chat([USER])
    constraint = reasoning_constraint(tokenizer, prompt).start()
    if fond:
        constraint = _Fond(constraint, tokenizer)
    ids = write(constraint, tokenizer, seed, ENDINGS)
    decode = choose_decode(tokenizer, tools=False) or tokenizer.decode
    joined = read(choose_parser(tokenizer, prompt), [decode(ids)])
    assert isinstance(json.loads(joined.text)["ok"], bool)
    if name in ("deepseek_r1", "minimax", "spelled"):
        assert "</think>" in text_of(tokenizer, ids)


class _Fond:
    """Passes a constraint on, with tokens that have the mark's characters made likely beforehand."""

    def __init__(self, constraint: Any, tokenizer: Tokenizer) -> None:
        self._constraint = constraint
        self._loved = [n for n, text in enumerate(tokenizer.token_bytes) if set(text) & set(b"</>")]
        self.accept = constraint.accept

    @property
    def ended(self) -> bool:
        ended: bool = self._constraint.ended
        return ended

    def restrict(self, logits: Any) -> None:
        logits[self._loved] += 3
        self._constraint.restrict(logits)


def test_no_token_runs_over_the_end_of_reasoning() -> None:
    """One that would write `>` and more is not allowed where only `>` is missing; nor is an end token."""
    tokenizer = SPELLED.tokenizer()
    constraint = reasoning_constraint(tokenizer, tokenizer.render_chat([USER])).start()
    size = tokenizer.vocab_size
    longer = [n for n, text in enumerate(tokenizer.token_bytes) if text.startswith(b">") and len(text) > 1]
    assert longer
    assert set(longer) <= allowed(constraint, size)
    assert not set(tokenizer.eos_ids) & allowed(constraint, size)
    for token in tokenizer.encode("Hm. </think", add_bos=False):
        constraint.accept(token)
    assert not set(longer) & allowed(constraint, size)
    assert not constraint.ended
    (end,) = tokenizer.encode(">", add_bos=False)
    assert end in allowed(constraint, size)
    constraint.accept(end)
    opening, line_break = tokenizer.encode("{", add_bos=False) + tokenizer.encode("\n", add_bos=False)
    behind = {tokenizer.token_bytes[token] for token in allowed(constraint, size)}
    assert all(text.startswith((b"{", b"\n")) for text in behind) and {b"{", b"\n"} <= behind
    constraint.accept(line_break)
    constraint.accept(line_break)
    assert all(tokenizer.token_bytes[token].startswith(b"{") for token in allowed(constraint, size))
    constraint.accept(opening)


def test_an_answer_that_ends_within_its_reasoning_is_an_error() -> None:
    tokenizer = TOKENIZERS["deepseek_r1"]
    constraint = reasoning_constraint(tokenizer, tokenizer.render_chat([USER])).start()
    with pytest.raises(RequestError, match="ended within its reasoning"):
        constraint.accept(min(tokenizer.eos_ids))


def test_reasoning_that_the_model_may_begin() -> None:
    """Either its mark comes first, or what was asked for."""
    tokenizer = TOKENIZERS["hermes"]
    first = allowed(
        reasoning_constraint(tokenizer, tokenizer.render_chat([USER])).start(), tokenizer.vocab_size
    )
    assert tokenizer.added_tokens["<think>"] in first
    others = {tokenizer.token_bytes[token] for token in first - {tokenizer.added_tokens["<think>"]}}
    assert others and all(text.startswith(b"{") for text in others)
    # Where the mark is no token, or there is no conversation, the answer begins with what was asked for.
    spelled = Style(PLAIN + "{# </think> #}").tokenizer()
    for compiled in (
        compile_constraint(spelled, spelled.render_chat([USER]), format=ResponseFormat.json_schema(STRICT)),
        compile_constraint(tokenizer, None, format=ResponseFormat.json_schema(STRICT)),
    ):
        assert compiled is not None and not isinstance(compiled, ReasoningFirst)


@pytest.mark.parametrize(
    ("tools", "choice", "problem"),
    [
        ([], "required", "tool_choice: a tool is required, but there are none"),
        ([TIME], "get_weather", "tool_choice: there is no tool 'get_weather'"),
        ([{"type": "function"}], "required", r"tools\[0\]: function must be an object"),
        (
            [tool("f", {"x-guidance": {}})],
            "required",
            r"tools\[0\].function.parameters: the key 'x-guidance'",
        ),
        ([tool("f", {"properties": {"a": {"type": "colour"}}})], "f", "tool_choice: .*colour"),
        ([tool("f", {"type": "string"})], "f", r"tools\[0\].function.parameters: must be of type object"),
        (
            [tool(f"f{n}", {"properties": {"a": {"const": "x" * 90_000}}}) for n in range(5)],
            "required",
            f"at most {MAXIMUM_TOOLS}",
        ),
    ],
)
def test_tools_that_cannot_be_forced(tools: Any, choice: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as raised:
        compile_constraint(TOKENIZERS["hermes"], None, tools=tools, tool_choice=choice)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_free_answers(choice: str) -> None:
    assert compile_constraint(TOKENIZERS["hermes"], None, tools=[TIME], tool_choice=choice) is None


def test_only_the_chosen_tool_is_compiled() -> None:
    tools = [tool("bad", {"properties": {"a": {"type": "colour"}}}), TIME]
    assert compile_constraint(TOKENIZERS["hermes"], None, tools=tools, tool_choice="get_time") is not None


def test_logits_that_are_longer_than_the_vocabulary() -> None:
    tokenizer = TOKENIZERS["hermes"]
    constraint = reasoning_constraint(tokenizer, tokenizer.render_chat([USER])).start()
    logits = np.zeros(tokenizer.vocab_size + 9, np.float32)
    constraint.restrict(logits)
    assert np.isneginf(logits[tokenizer.vocab_size :]).all()
