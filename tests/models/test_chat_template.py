"""The template sandbox: what templates may use, what they may not, and where they are stopped."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import FormatError, RequestError, SampanError
from sampan.models import chat_template
from sampan.models.chat_template import ChatTemplate

HELLO = [{"role": "user", "content": "Hello"}]


def render(source: str, **options: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(HELLO, True, options)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0]['content'] }}", "<s>Hello"),
        ("{% for m in messages %}\n  {%- if loop.last %}\nx\n  {%- endif %}\n{% endfor %}", "x"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ [1, 2] | tojson(indent=1) }}", "[\n 1,\n 2\n]"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        (
            "{% set s = namespace(n=0) %}{% for m in messages %}{% set s.n = s.n + 1 %}{% endfor %}{{ s.n }}",
            "1",
        ),
        ("{{ tools is none }}{{ missing is defined }}", "TrueFalse"),
        ("{{ messages[0].content.split('l')[0] + 'a' * 3 }}", "Heaaa"),
        ("{{ 7 % 2 }}{{ 'a\nb' | indent(2) }}", "1a\n  b"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
    ],
)
def test_what_templates_use(source: str, expected: str) -> None:
    assert render(source) == expected


def test_time_of_day() -> None:
    assert len(render("{{ strftime_now('%Y') }}")) == 4


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{{ messages[5].content }}", "no element 5|undefined"),
        ("{{ ''.__class__.__mro__ }}", "refused"),
        ("{{ messages.append(1) }}", "refused"),
        ("{{ 'a' * 10**9 }}", r"operator \*\*"),
        ("{{ 'a' * 1000000000 }}", "repetition is too long"),
        ("{{ '%1000000000d' % 1 }}", "operator %"),
        ("{{ 'a'.ljust(1000000000) }}", "refused"),
        ("{{ 'a' | indent(1000000000, true) }}", "too deep"),
        ("{{ range(1000000000) | list }}", "Range too big"),
        ("{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}", "more than"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_what_stops_a_template(source: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as raised:
        render(source)
    assert "\n" not in str(raised.value)


def test_an_endless_template_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAXIMUM_SECONDS", 0.2)
    loop = "{% for i in range(99999) %}"
    before = sys.gettrace()
    with pytest.raises(RequestError, match="runs too long"):
        render(loop * 4 + "{% set x = i %}" + "{% endfor %}" * 4)
    assert sys.gettrace() is before


@pytest.mark.parametrize("source", ["{% for %}", "{{", "{% import 'x' as y", "{{ 1 | no_such_filter }}"])
def test_what_is_no_template(source: str) -> None:
    with pytest.raises(FormatError, match="cannot be compiled") as raised:
        render(source)
    assert "\n" not in str(raised.value)


def test_a_huge_template_is_refused() -> None:
    with pytest.raises(FormatError, match="longer than"):
        ChatTemplate("a" * (2 << 20), {})


WORDS = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "messages",
    "m.content",
    "|",
    "[0]",
    "raise_exception('x')",
    "'",
    "(",
    ")",
]
STATEMENTS = [
    " for m in messages ",
    " endfor ",
    " if ",
    " endif ",
    " set x = 1 ",
    " macro f() ",
    " endmacro ",
    "-",
]
FRAGMENTS = st.sampled_from([*WORDS, *STATEMENTS, "tojson", "\n"])


@settings(max_examples=200, deadline=None)
@given(st.lists(FRAGMENTS, max_size=12).map("".join))
def test_no_template_escapes(source: str) -> None:
    try:
        assert isinstance(render(source), str)
    except SampanError as error:
        assert "\n" not in str(error)
