"""Record llama.cpp's tokenization in tests/golden/tokenizers.json and say where Sampan's differs.

Needs xllamacpp (`pip install -e '.[test]'`). `python scripts/make_tokenizer_golden.py [MODEL.gguf]`: with
the default model's GGUF file its real vocabulary is recorded too. Each pre-tokenizer is recorded over one
small byte-level vocabulary whose merges cross every word boundary, so that a boundary in the wrong place
changes the ids; the SentencePiece vocabulary has scores that make greedy and best-score merging differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parent.parent))

from sampan.models.pre_tokenizers import PRE_TOKENIZERS
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.detect import open_source
from tests.export.llama_cpp import LlamaCpp, write_tokenizer_model

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "tokenizers.json"
# ruff: noqa: RUF001
TEXTS = [
    "Hello world",
    " leading space and trailing space ",
    "Why do boats float? They're lighter than the water they've displaced; it'll do.",
    "SHOUTING ISN'T NICE, THEY'RE LOUD, I'LL SAY. 'Tis 'S",
    "1234567890 and 3.14159, 42% of 1,000,000 (1st, 2nd)",
    "x=1;y=22;z=333;w=4444",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A:\n\tpass\n",
    'printf("%d\\n", a[i] + b->c);  // comment',
    "https://example.org/path?q=a+b&c=%20#frag user@example.com",
    "    four spaces\n\n\n\tand tabs\t\there   \n  ",
    "\r\nwindows\r\nlines\r\n\r\n",
    "a  b   c    d     e",
    "   ",
    "\n",
    "你好，世界！今天天气怎么样？",
    "中文和English混排，数字123也有。",
    "日本語のテキスト、カタカナとひらがな。",
    "한국어 문장입니다. 띄어쓰기도 있어요.",
    "Привет, как дела? Ещё раз.",
    "Ελληνικά και ό,τι άλλο",
    "مرحبا بالعالم ١٢٣",
    "हिन्दी में नमस्ते १२३",
    "ภาษาไทย",
    "emoji 😀😃 👩‍👩‍👧‍👦 🇨🇳 ✨",
    "café naïve œuvre ÀÉÎÕÜ straße",
    "price: $5.00, €10, £3, ¥100 ± 5°C ½ ² ×",
    "--- *** === >>> <<< ~~~ ``` |||",
    "“curly” ‘quotes’ — dash – en… ellipsis",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
    "it's we'd you'll I'm he's\u2019s o'clock rock'n'roll",
    "\u00a0nbsp\u3000ideographic\u200bzero\ufeffbom",
    "<|im_start|>user\n<|im_end|> <s> </s>",
    "\x00\x01\x7f control",
    "tab\tnew\nline mixed \t \n \t\n end",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ℵ ∑ ∫ ≠",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def llama_cpp_ids(path: Path, parse_special: bool = False) -> list[list[int]]:
    """llama.cpp's ids of every text."""
    model = LlamaCpp(path, context=64)
    return [model.tokens(text, parse_special=parse_special) for text in TEXTS]


def byte_level_fields() -> dict[str, Any]:
    """A byte-level vocabulary trained on the texts without word boundaries."""
    trained = HubTokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=alphabet, show_progress=False, max_token_length=6
    )
    pieces = [text[i : i + 12] for text in TEXTS for i in range(0, len(text), 4)]
    trained.train_from_iterator(pieces + TEXTS, trainer)
    state = json.loads(trained.to_str())["model"]
    tokens = SPECIAL + sorted(state["vocab"], key=state["vocab"].get)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in state["merges"]]
    types = [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL))
    return {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": types,
        "merges": merges,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_bos_token": False,
    }


def sentencepiece_fields() -> dict[str, Any]:
    """A SentencePiece vocabulary: bytes, characters, and substrings of the texts with random scores."""
    random = np.random.default_rng(7)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3, *([6] * 256)]
    user_defined = ["\n\n", "  ", "    ", "<start_of_turn>"]
    escaped = ["▁" + text.replace(" ", "▁") for text in TEXTS]
    # Characters that only later texts have are left to the byte fallback.
    characters = sorted({character for text in escaped[:18] for character in text if character >= " "})
    pieces = {text[i : i + n] for text in escaped[:18] for n in range(2, 6) for i in range(len(text) - n)}
    kept = sorted(piece for piece in pieces if random.random() < 0.35 and piece.isprintable())
    tokens += user_defined + characters + kept
    types += [4] * len(user_defined) + [1] * (len(characters) + len(kept))
    order = random.permutation(len(tokens))
    return {
        "model": "llama",
        "tokens": tokens,
        "token_type": types,
        "scores": [float(-rank) for rank in order],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": False,
    }


def sampan_ids(path: Path, parse_special: bool = False) -> list[list[int]]:
    """Sampan's ids of every text."""
    source = open_source(path)
    tokenizer = Tokenizer(*import_tokenizer(source))
    return [tokenizer.encode(text, parse_special=parse_special) for text in TEXTS]


def compare(name: str, path: Path, parse_special: bool = False) -> list[list[int]]:
    """llama.cpp's ids; prints the texts on which Sampan's differ."""
    golden = llama_cpp_ids(path, parse_special)
    ours = sampan_ids(path, parse_special)
    differing = [text for text, a, b in zip(TEXTS, golden, ours, strict=True) if a != b]
    print(f"{name}: {len(TEXTS) - len(differing)} of {len(TEXTS)} agree", *map(repr, differing), sep="\n    ")
    return golden


def main() -> None:
    """Write the golden file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="the default model's GGUF file")
    model = parser.parse_args().model
    byte_level, sentencepiece = byte_level_fields(), sentencepiece_fields()
    golden: dict[str, Any] = {"made_by": f"xllamacpp {xllamacpp.__version__}", "texts": TEXTS}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tiny.gguf"
        golden["byte_level"] = {"fields": byte_level, "ids": {}}
        for name in PRE_TOKENIZERS:
            write_tokenizer_model(path, byte_level | {"pre": name})
            golden["byte_level"]["ids"][name] = compare(name, path)
        golden["sentencepiece"] = {"fields": sentencepiece, "ids": {}}
        for prefix in (False, True):
            write_tokenizer_model(path, sentencepiece | {"add_space_prefix": prefix})
            name = f"add_space_prefix={prefix}"
            golden["sentencepiece"]["ids"][name] = compare(f"sentencepiece {name}", path)
    if model is not None:
        golden["smollm2"] = {
            "plain": compare("SmolLM2", model),
            "special": compare("SmolLM2 with control tokens", model, parse_special=True),
        }
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
