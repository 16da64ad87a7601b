from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sampan.errors import RequestError
from sampan.models.tokenizer import Tokenizer
from sampan.quantize.texts import WINDOW_TOKENS, default_tokens, read_texts, token_windows
from tests.cli.cli_runner import write_byte_tokenizer


@pytest.fixture(params=[False, True], ids=["plain", "bos"])
def tokenizer(tmp_path: Path, request: pytest.FixtureRequest) -> Tokenizer:
    write_byte_tokenizer(tmp_path, None, 320)
    config = {"add_bos": request.param, "bos_id": 1, "eos_ids": [2]}
    return Tokenizer((tmp_path / "tokenizer.json").read_bytes(), config, 320)


@pytest.mark.parametrize("max_tokens", [3, 100, 1000, 100_000])
@pytest.mark.parametrize("context", [40, 4096])
def test_texts_share_the_tokens(tokenizer: Tokenizer, max_tokens: int, context: int) -> None:
    texts = {"long": "a" * 2000, "short": "b" * 30, "middle": "c" * 700}
    windows = token_windows(tokenizer, texts, context, max_tokens)
    assert list(windows) == list(texts)
    prefix = tokenizer.encode("")
    counts = {}
    for name, pieces in windows.items():
        assert all(len(piece) <= min(context, WINDOW_TOKENS) for piece in pieces)
        assert all(piece[: len(prefix)].tolist() == prefix for piece in pieces)
        read = np.concatenate([piece[len(prefix) :] for piece in pieces]).tolist()
        assert read == tokenizer.encode(texts[name], add_bos=False)[: len(read)]
        counts[name] = len(read)
    assert sum(counts.values()) == min(max_tokens, 2730)
    assert counts["short"] == min(30, max_tokens // 3)
    assert counts["long"] >= counts["middle"] >= counts["short"]
    if counts["middle"] < 700:
        assert counts["long"] - counts["middle"] <= 1


def test_a_long_text_is_read_here_and_there(tokenizer: Tokenizer) -> None:
    """Windows are the beginnings of equal parts, whole when the text has no more than its share."""
    text = "".join(map(chr, range(32, 127))) * 40
    tokens, prefix = tokenizer.encode(text, add_bos=False), tokenizer.encode("")
    windows = token_windows(tokenizer, {"long": text}, 4096, 1100)["long"]
    assert len(windows) == 3
    for part, window in enumerate(windows):
        start, length = part * len(tokens) // 3, len(window) - len(prefix)
        assert window[len(prefix) :].tolist() == tokens[start : start + length]
        assert length in (366, 367)
    whole = token_windows(tokenizer, {"long": text}, 4096, 100_000)["long"]
    assert np.concatenate([window[len(prefix) :] for window in whole]).tolist() == tokens


def test_texts_without_room_or_tokens(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="max_tokens 1 is fewer than the 2 texts"):
        token_windows(tokenizer, {"a": "x", "b": "y"}, 100, 1)
    with pytest.raises(RequestError, match="the text a has no tokens"):
        token_windows(tokenizer, {"a": ""}, 100, 10)


def test_texts_are_called_by_their_files(tmp_path: Path) -> None:
    paths = [tmp_path / "law.zh.txt", tmp_path / "other" / "law.zh.txt", tmp_path / "notes.md"]
    paths[1].parent.mkdir()
    for path in paths:
        path.write_text(str(path))
    texts = read_texts(paths)
    assert texts == {"law.zh": str(paths[0]), str(paths[1]): str(paths[1]), "notes": str(paths[2])}


def test_a_small_model_reads_more_by_default() -> None:
    assert [default_tokens(size) for size in (64, 512, 1024, 2048, 8192)] == [
        65536,
        65536,
        32768,
        16384,
        16384,
    ]
