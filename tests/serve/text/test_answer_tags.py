"""Answers between tags of their own, behind reasoning and without."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.serve.pieces import AnswerParser
from sampan.serve.text.answer_tags import AnswerTagsParser
from sampan.serve.text.choose import choose_parser
from sampan.serve.text.hermes import HermesParser
from tests.models.chat_templates import HERMES, Style
from tests.serve.text.pieces import Joined, read_in_every_way

# As Hunyuan's: of an earlier answer only what is between the tags is kept.
TEMPLATE = HERMES.replace("m.content %}", "m.content.split('<answer>')[-1].split('</answer>')[0] %}", 1)
USER = {"role": "user", "content": "Do boats float?"}


def parser() -> AnswerParser:
    return AnswerTagsParser(HermesParser())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>\nYes.\n</answer>", Joined("Yes.")),
        ("\n<answer>Yes.\n\nReally.\n</answer>\n", Joined("Yes.\n\nReally.")),
        ("<answer>\n</answer>", Joined()),
        # None, one that is cut short, more behind it.
        ("Yes. <answer>a</answer>", Joined("Yes. <answer>a</answer>")),
        ("\n<answ", Joined("\n<answ")),
        ("<answer>\nYes.\n</answ", Joined("Yes.\n</answ")),
        ("<answer>Yes.\n", Joined("Yes.\n")),
        ("<answer>Yes.</answer>\n\nNo.</answer>", Joined("Yes.No.</answer>")),
        # A call in it.
        (
            '<answer>\n<tool_call>{"name": "f"}</tool_call>\n</answer>',
            Joined("", "", [["f", None, "{}"]]),
        ),
    ],
)
def test_tags_are_taken_off(text: str, expected: Joined) -> None:
    assert read_in_every_way(parser, text) == expected


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "<", "answer", "\n", "\r", " ", "a", "é"])))
@settings(max_examples=200, deadline=None)
def test_any_cut_is_read_alike(parts: list[str]) -> None:
    text = "".join(parts)
    joined = read_in_every_way(parser, text)
    if not text.strip().startswith("<answer>"):
        assert joined == Joined(text)


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("tagged", [True, False])
def test_a_template_with_tags_asks_for_it(thinks: bool, tagged: bool) -> None:
    tokenizer = Style(TEMPLATE if tagged else HERMES).tokenizer()
    prompt = tokenizer.render_chat([USER], options={} if thinks else {"enable_thinking": False})
    answer = "<answer>\nYes.\n</answer>"
    opening = "<think>\nHm.\n</think>\n" if thinks else ""
    joined = read_in_every_way(lambda: choose_parser(tokenizer, prompt), opening + answer)
    assert joined == Joined("Yes." if tagged else answer, "Hm." if thinks else "")
