"""Streamed pieces join to the whole text; no part of a stop string is ever shown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sampan.engine.text import Detokenizer, StopStrings, TextStream

# Without the character that stands for bytes that are none, and without SentencePiece's for a space, which
# comes back as one.
UNICODE = st.text(
    st.one_of(
        st.characters(codec="utf-8", exclude_characters="\ufffd\u2581"),
        st.sampled_from("aé你😀 \n\u200d\u0301"),
    ),
    max_size=30,
)


def byte_level() -> Tokenizer:
    """A byte-level BPE without merges: every token is one byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def sentence_piece() -> Tokenizer:
    """A BPE as SentencePiece makes them: spaces are part of tokens, unknown characters fall back to bytes."""
    pieces = ["<unk>", "▁", "a", "b", "c", "▁a", "▁ab", "ab", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [("▁", "a"), ("a", "b"), ("▁a", "b")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


TOKENIZERS = {"byte-level": byte_level(), "sentence-piece": sentence_piece()}


def pieces_of(tokenizer: Tokenizer, tokens: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    stream = Detokenizer(tokenizer.decode, prompt)
    return [*(stream.push(token) for token in tokens), stream.finish()]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=UNICODE)
def test_pieces_join_to_the_text(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer.encode(text).ids
    pieces = pieces_of(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)
    assert pieces[-1] == ""
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompt=UNICODE.filter(bool), text=UNICODE)
def test_pieces_continue_the_prompt(name: str, prompt: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    whole = tokenizer.encode(prompt + text).ids
    first = tokenizer.encode(prompt).ids
    if whole[: len(first)] != first:
        return
    assert "".join(pieces_of(tokenizer, whole[len(first) :], first)) == text


def test_an_answer_keeps_the_space_after_the_prompt() -> None:
    tokenizer = TOKENIZERS["sentence-piece"]
    ab = tokenizer.token_to_id("▁ab")
    assert pieces_of(tokenizer, [ab, ab], [ab]) == [" ab", " ab", ""]
    assert pieces_of(tokenizer, [ab, ab]) == ["ab", " ab", ""]


def test_special_tokens_do_not_eat_the_next_space() -> None:
    tokenizer = TOKENIZERS["sentence-piece"]
    ab, end = tokenizer.token_to_id("▁ab"), tokenizer.token_to_id("<end>")
    assert pieces_of(tokenizer, [ab, end, ab, end, end, ab]) == ["ab", "", " ab", "", "", " ab", ""]


@given(st.binary(max_size=40))
def test_any_bytes_decode_as_at_once(data: bytes) -> None:
    """Not only valid UTF-8: a model may write any bytes. Whatever is shown at once equals the whole."""
    tokenizer = TOKENIZERS["byte-level"]
    byte_tokens = {byte: _byte_token(tokenizer, byte) for byte in set(data)}
    tokens = [byte_tokens[byte] for byte in data]
    assert "".join(pieces_of(tokenizer, tokens)) == data.decode("utf-8", errors="replace")


def _byte_token(tokenizer: Tokenizer, byte: int) -> int:
    # GPT-2's alphabet: printable Latin-1 stands for itself, the rest for 256 and up, in order.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [other for other in range(256) if other not in printable]
    letter = chr(byte) if byte in printable else chr(256 + rest.index(byte))
    token = tokenizer.token_to_id(letter)
    assert token is not None
    return int(token)


def test_endless_broken_bytes_are_shown_in_the_end() -> None:
    tokenizer = TOKENIZERS["sentence-piece"]
    stream = Detokenizer(tokenizer.decode)
    broken = tokenizer.token_to_id("<0xFF>")
    shown = [stream.push(broken) for _ in range(100)]
    assert len("".join(shown)) > 80
    assert len("".join(shown) + stream.finish()) == 100


def test_an_unfinished_character_comes_with_finish() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    tokens = tokenizer.encode("a😀").ids[:-1]
    assert pieces_of(tokenizer, tokens) == ["a", "", "", "", "\ufffd"]


def stopped_text(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool, list[str]]:
    stream = StopStrings(stops)
    shown = [stream.push(piece) for piece in pieces]
    shown.append(stream.finish())
    return "".join(shown), stream.found is not None, shown


def cut_by_definition(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Read letter by letter; stop at the first letter that completes a stop string, the longest one."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


LETTERS = st.text("ab\n", max_size=20)


@given(st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4), st.lists(LETTERS, max_size=8))
def test_stop_strings_cut_as_defined(stops: list[str], pieces: list[str]) -> None:
    text, stopped, shown = stopped_text(stops, pieces)
    assert (text, stopped) == cut_by_definition("".join(pieces), stops)
    so_far = ""
    for piece in shown:
        so_far += piece
        assert text.startswith(so_far)


def test_text_that_only_looks_like_a_stop_is_shown() -> None:
    assert stopped_text(["STOP"], ["a S", "TO", "NE"])[2] == ["a ", "", "STONE", ""]
    assert stopped_text(["STOP"], ["a S", "TO"])[2] == ["a ", "", "STO"]


def test_nothing_follows_a_stop() -> None:
    assert stopped_text(["\n\n"], ["a\n", "\nb", "c"]) == ("a", True, ["a", "", "", ""])


def test_stop_strings_span_tokens_and_characters() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    tokens = tokenizer.encode("好的。停😀止 more").ids
    stream = TextStream(tokenizer.decode, [], ["停😀止"])
    shown = [stream.push(token) for token in tokens]
    assert "".join(shown) + stream.finish() == "好的。"
    assert stream.stop_string == "停😀止"
