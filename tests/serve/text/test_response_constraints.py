"""Answers in a wanted form: whatever a model would write, what it can write is valid."""

from __future__ import annotations

import gc
import json
import re
import threading
import weakref
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import RequestError, UnsupportedError
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_gguf import gguf_tokenizer
from sampan.serve.text.compile import CompiledConstraint, compile_constraint
from sampan.serve.text.grammar import GrammarConstraint
from sampan.serve.text.response_format import MAXIMUM_DEPTH, MAXIMUM_SOURCE, ResponseFormat
from sampan.serve.text.vocabulary import grammar_vocabulary
from tests.models.chat_templates import STYLES, Style
from tests.models.model_files import SPM_FIELDS, hub_tokenizer
from tests.serve.text.writing import text_of, write

BYTE_LEVEL = STYLES["plain"].tokenizer()


def _sentencepiece() -> Tokenizer:
    fields = {f"tokenizer.ggml.{key}": value for key, value in SPM_FIELDS.items()}
    hub, config = gguf_tokenizer(fields, "m.gguf")
    return Tokenizer(hub.to_str().encode(), config, hub.get_vocab_size() + 40)


SENTENCEPIECE = _sentencepiece()


def compiled(format: ResponseFormat, tokenizer: Tokenizer = BYTE_LEVEL) -> CompiledConstraint:
    constraint = compile_constraint(tokenizer, None, format=format)
    assert constraint is not None
    return constraint


def written(format: ResponseFormat, seed: int, tokenizer: Tokenizer = BYTE_LEVEL) -> str:
    return text_of(tokenizer, write(compiled(format, tokenizer).start(), tokenizer, seed))


NAMES = st.sampled_from(["a", "b", "name", "é", "x y", '"', "$ref_"])


def _object(schemas: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def made(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(NAMES, schemas, max_size=3))
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        schema["required"] = [key for key in properties if draw(st.booleans())]
        schema["additionalProperties"] = draw(st.sampled_from([False, {"type": "boolean"}]))
        return schema

    return made()


@st.composite
def _bounded(draw: st.DrawFn, kind: str, low: str, high: str, most: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind}
    bounds = sorted(draw(st.tuples(st.integers(0, most), st.integers(0, most))))
    for key, bound in zip((low, high), bounds, strict=True):
        if draw(st.booleans()):
            schema[key] = bound
    return schema


LEAVES = st.one_of(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "number"},
            {"type": ["integer", "null"]},
            {"type": "string", "pattern": "^[a-z]{1,3}[0-9]$"},
            {"type": "string", "format": "date"},
            {"type": "integer", "multipleOf": 7},
            {"const": "x"},
            {"enum": [1, "one", None, [True]]},
        ]
    ),
    _bounded("string", "minLength", "maxLength", 9),
    _bounded("integer", "minimum", "maximum", 300),
    _bounded("number", "minimum", "exclusiveMaximum", 300).filter(
        lambda schema: schema.get("minimum", -1) < schema.get("exclusiveMaximum", 10**9)
    ),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        _object(inner)
        | st.lists(inner, min_size=1, max_size=2).map(lambda schemas: {"anyOf": schemas})
        | st.builds(
            lambda items, array: array | {"items": items},
            inner,
            _bounded("array", "minItems", "maxItems", 4),
        )
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["bytes", "sentencepiece"])
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_answers_satisfy_their_schema(tokenizer: Tokenizer, schema: dict[str, Any], seed: int) -> None:
    text = written(ResponseFormat.json_schema(schema), seed, tokenizer)
    # Numbers beyond those of a float are JSON, but the validator has none for them.
    value = json.loads(text, parse_float=lambda number: min(max(float(number), -1e300), 1e300))
    jsonschema_rs.validator_for(schema).validate(value)
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        assert list(value) == [key for key in schema["properties"] if key in value]


@pytest.mark.parametrize("seed", range(5))
def test_a_json_object(seed: int) -> None:
    assert isinstance(json.loads(written(ResponseFormat("json_object"), seed)), dict)


@pytest.mark.parametrize("pattern", ["[a-c]{3}/[0-9]+", "(yes|no)", r"\d{2}-é中?", 'a"b\\\\c', ""])
@pytest.mark.parametrize("seed", range(3))
def test_a_regex(pattern: str, seed: int) -> None:
    if not pattern:
        with pytest.raises(RequestError, match="regex needs a source"):
            ResponseFormat("regex", pattern)
        return
    assert re.fullmatch(pattern, written(ResponseFormat("regex", pattern), seed))


@pytest.mark.parametrize("seed", range(5))
def test_a_grammar(seed: int) -> None:
    grammar = 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[1-9][0-9]?/'
    assert re.fullmatch(r"[1-9]\d?(\+[1-9]\d?)*", written(ResponseFormat("lark", grammar), seed))


def test_nothing_is_asked() -> None:
    assert compile_constraint(BYTE_LEVEL, None) is None
    assert compile_constraint(BYTE_LEVEL, None, format=ResponseFormat("text")) is None


def test_recursive_schemas() -> None:
    schema = {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"left": {"$ref": "#/$defs/tree"}, "value": {"type": "integer"}},
                "required": ["value"],
                "additionalProperties": False,
            }
        },
    }
    for seed in range(5):
        text = written(ResponseFormat.json_schema(schema), seed)
        jsonschema_rs.validator_for(schema).validate(json.loads(text))


def test_answers_to_one_request_are_independent() -> None:
    grammar = compiled(ResponseFormat("regex", "[ab]{4}"))
    first, second = grammar.start(), grammar.start()
    for letter in "abab":
        first.accept(BYTE_LEVEL.encode(letter)[0])
    assert first.ended and not second.ended
    assert re.fullmatch("[ab]{4}", text_of(BYTE_LEVEL, write(second, BYTE_LEVEL, 0)))


def allowed(constraint: Any, size: int) -> set[int]:
    logits = np.zeros(size, np.float32)
    constraint.restrict(logits)
    return set(np.flatnonzero(np.isfinite(logits)).tolist())


def test_only_tokens_that_fit_and_end_tokens_at_an_end() -> None:
    (a,), (b,) = BYTE_LEVEL.encode("a"), BYTE_LEVEL.encode("b")
    constraint = compiled(ResponseFormat("regex", "ab?")).start()
    # Padding of the vocabulary, and logits beyond it, are never chosen.
    for size in (BYTE_LEVEL.vocab_size, BYTE_LEVEL.vocab_size + 77):
        fitting = allowed(constraint, size)
        assert a in fitting
        assert {BYTE_LEVEL.token_bytes[token] for token in fitting} <= {b"a", b"ab"}
    with pytest.raises(RequestError, match=f"refuses token {b}"):
        compiled(ResponseFormat("regex", "ab?")).start().accept(b)
    constraint.accept(a)
    assert allowed(constraint, BYTE_LEVEL.vocab_size) == {b, *BYTE_LEVEL.eos_ids}
    assert not constraint.ended
    other = compiled(ResponseFormat("regex", "ab?")).start()
    other.accept(a)
    other.accept(b)
    assert other.ended
    constraint.accept(min(BYTE_LEVEL.eos_ids))
    assert constraint.ended


def test_a_dead_end_is_an_error() -> None:
    constraint = compiled(
        ResponseFormat("lark", f'start: "a" <[0]> <[^0-{BYTE_LEVEL.vocab_size - 1}]>')
    ).start()
    constraint.accept(BYTE_LEVEL.encode("a")[0])
    constraint.accept(0)
    with pytest.raises(RequestError, match="no token may follow"):
        constraint.restrict(np.zeros(BYTE_LEVEL.vocab_size, np.float32))


def test_a_grammar_that_explodes_fails_alone() -> None:
    """Limits are met while compiling or while writing; both are one line."""
    doubled = "\n".join(f"a{n}: a{n + 1} a{n + 1}" for n in range(30))
    with pytest.raises(RequestError, match=r"^response_format: |cannot go on|refuses token") as raised:
        written(ResponseFormat("lark", f'start: a0\n{doubled}\na30: "x"'), 0)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ([], "must be a JSON object, not list"),
        (True, "must be a JSON object, not bool"),
        (deep(MAXIMUM_DEPTH), f"nested deeper than {MAXIMUM_DEPTH}"),
        ({"enum": ["x" * MAXIMUM_SOURCE]}, "characters, at most"),
        ({"x-guidance": {}}, "the key 'x-guidance' is not supported"),
        ({"const": object()}, "not JSON"),
        ({"const": float("nan")}, "not JSON"),
        ({"type": "integer", "multipleOf": 10**8 + 7}, "a multipleOf is not above 0, beyond"),
        ({"type": "number", "multipleOf": 1e-30}, "a multipleOf is not above 0, beyond"),
        ({"type": "number", "multipleOf": 0}, "a multipleOf is not above 0"),
        ({"type": "number", "multipleOf": 10**5000}, "a multipleOf is not above 0, beyond"),
        ({"type": "integer", "multipleOf": True}, "Expected f64"),
        ({"allOf": [{"multipleOf": 997}, {"items": {"multipleOf": 991}}]}, "steps in common"),
        ({"type": "colour"}, "Invalid type: colour"),
        ({"not": {}}, "not"),
        ({"$ref": "http://example.com/schema"}, "Resource .* is not present"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "no token may follow"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around, .* is not supported"),
        ({"type": "string", "format": "colour"}, "format"),
        ({"enum": []}, "empty"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
    ],
)
def test_schemas_that_are_refused(schema: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=rf"^response_format: .*(?:{problem})") as raised:
        compiled(ResponseFormat.json_schema(schema))
    assert "\n" not in str(raised.value)


def test_multiples_that_are_fine() -> None:
    schema = {"properties": {"price": {"type": "number", "multipleOf": 0.01}, "count": {"multipleOf": 25}}}
    assert compiled(ResponseFormat.json_schema(schema | {"type": "object"}))


@pytest.mark.parametrize(
    ("kind", "source", "problem"),
    [
        ("xml", "", "there is no kind 'xml'"),
        ("text", "a", "text needs no source"),
        ("json_schema", "", "json_schema needs a source"),
        ("regex", "(", "response_format: "),
        ("regex", "(" * 50_000, "response_format: "),
        ("regex", "a" * (MAXIMUM_SOURCE + 1), "characters, at most"),
        ("lark", "begin: /a/", "response_format: "),
        ("lark", "start: a", "unknown name"),
        ("lark", "start: " + "(" * 50_000, "response_format: "),
        ("lark", 'start: %json {"multipleOf": 10000019}', "a multipleOf is not above 0, beyond"),
        ("lark", 'start: %json {"multiple\\u004ff": 10000019}', "a multipleOf is not above 0, beyond"),
        ("lark", "start: %json {", "%json at character 7 of the grammar is not followed by JSON"),
        ("lark", "start: %json // {}\n {}", "is not followed by JSON"),
        ("lark", "start: <|no_such_token|>", "no_such_token"),
    ],
)
def test_formats_that_are_refused(kind: Any, source: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as raised:
        compiled(ResponseFormat(kind, source))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


NOISE = st.text(st.sampled_from(list('start:%json{}[]()/"\\abc|&~+*?.<>0-9,\n é')), max_size=40)


@given(kind=st.sampled_from(["regex", "lark"]), source=NOISE.filter(bool), seed=st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_any_grammar_is_compiled_or_refused(kind: Any, source: str, seed: int) -> None:
    if kind == "lark":
        source = f"start: {source}"
    try:
        constraint = compiled(ResponseFormat(kind, source)).start()
        for step in range(5):
            if constraint.ended:
                break
            logits = np.random.default_rng(seed + step).normal(size=BYTE_LEVEL.vocab_size).astype(np.float32)
            constraint.restrict(logits)
            constraint.accept(int(np.argmax(logits)))
    except RequestError as error:
        assert "\n" not in str(error)


def test_grammars_are_compiled_once_and_forgotten_with_their_tokenizer() -> None:
    tokenizer = Style("").tokenizer()
    first = compiled(ResponseFormat("regex", "abc"), tokenizer)
    assert compiled(ResponseFormat("regex", "abc"), tokenizer) is first
    assert compiled(ResponseFormat("regex", "abc")) is not first
    for number in range(20):
        compiled(ResponseFormat("regex", f"{number}"), tokenizer)
    assert compiled(ResponseFormat("regex", "abc"), tokenizer) is not first
    vocabulary = weakref.ref(tokenizer)
    assert grammar_vocabulary(tokenizer) is grammar_vocabulary(tokenizer)
    del tokenizer, first
    gc.collect()
    assert vocabulary() is None


def test_many_threads_compile_at_once() -> None:
    tokenizer = Style("").tokenizer()
    texts: list[str] = []

    def work(number: int) -> None:
        for seed in range(3):
            texts.append(written(ResponseFormat("regex", f"[a-d]{{{1 + number % 3}}}"), seed, tokenizer))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 18 and all(re.fullmatch("[a-d]{1,3}", text) for text in texts)


def test_a_model_without_end_tokens() -> None:
    endless = Tokenizer(hub_tokenizer().to_str().encode(), {"eos_ids": []})
    with pytest.raises(UnsupportedError, match="names no end token"):
        compiled(ResponseFormat("regex", "a"), endless)


def test_a_constraint_is_the_engines_own_kind() -> None:
    constraint = compiled(ResponseFormat("regex", "a")).start()
    assert isinstance(constraint, GrammarConstraint)
