"""The tokenizer the engine uses: plain prompts, chats, limits, and tokenizers imported from folders."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from model_files import CASES, GOLDEN, copy_with_config, golden_config, hub_tokenizer
from tokenizers import processors

from sampan.errors import FormatError, RequestError, UnsupportedError
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.detect import open_source

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello"}]


def made_tokenizer(vocab_size: int | None = None, **config: Any) -> Tokenizer:
    return Tokenizer(hub_tokenizer().to_str().encode(), {"chat_template": CHATML, **config}, vocab_size)


def folder_with(tmp_path: Path, files: dict[str, Any], **config: Any) -> Path:
    """A golden checkpoint with tokenizer files; text is written as it is, everything else as JSON."""
    folder = copy_with_config("llama", tmp_path, golden_config("llama") | config)
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_chat_is_the_rendered_text_with_control_tokens() -> None:
    tokenizer = made_tokenizer()
    text = tokenizer.render_chat(HELLO)
    assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.chat(HELLO)
    assert ids == tokenizer.encode(text, parse_special=True)
    assert ids.count(1) == 2
    assert ids.count(2) == 1
    assert tokenizer.chat(HELLO, add_generation_prompt=False).count(1) == 1


def test_a_chat_gets_no_second_first_token() -> None:
    template = "{{ bos_token }}{{ messages[0].content }}"
    tokenizer = made_tokenizer(chat_template=template, bos_token="<|im_start|>", bos_id=1, add_bos=True)
    assert tokenizer.chat(HELLO) == [1, *tokenizer.encode("Hello", add_bos=False)]
    assert tokenizer.encode("Hello")[0] == 1


def test_template_options() -> None:
    template = (
        "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %}!{% endif %}"
    )
    tokenizer = made_tokenizer(chat_template=template)
    assert tokenizer.render_chat(HELLO) == "Hello"
    assert tokenizer.render_chat(HELLO, options={"enable_thinking": False}) == "Hello!"


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "at least one message"),
        ([{"role": "user"}], "message 0: content is missing"),
        ([*HELLO, {"role": "user", "content": 3}], "message 1"),
        (["hello"], "message 0"),
    ],
)
def test_messages_are_checked(messages: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        made_tokenizer().chat(messages)


def test_without_a_template() -> None:
    tokenizer = made_tokenizer(chat_template=None)
    assert not tokenizer.has_chat_template
    with pytest.raises(RequestError, match="no chat template; give a plain prompt"):
        tokenizer.chat(HELLO)


def test_limits_of_prompts() -> None:
    with pytest.raises(RequestError, match="not valid Unicode"):
        made_tokenizer().encode("\ud800")
    with pytest.raises(RequestError, match="the model has 50"):
        made_tokenizer(vocab_size=50).encode("Hello")
    with pytest.raises(RequestError, match="no token to begin"):
        made_tokenizer().encode("Hello", add_bos=True)
    assert made_tokenizer().encode("") == []


def test_plain_and_control_encoding_at_once() -> None:
    """Threads that want control tokens do not disturb those that do not."""
    tokenizer = made_tokenizer()
    expected = {special: tokenizer.encode("<|im_end|>", parse_special=special) for special in (False, True)}
    wrong = []

    def work(special: bool) -> None:
        for _ in range(300):
            if tokenizer.encode("<|im_end|>", parse_special=special) != expected[special]:
                wrong.append(special)

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert expected[False] != expected[True]
    assert not wrong


@pytest.mark.parametrize(
    ("blob", "config"),
    [
        (b"{}", b"{}"),
        (b"\xff", b"{}"),
        (None, b"[]"),
        (None, b"{"),
        (None, b'{"eos_ids": "x"}'),
        (None, b'{"eos_ids": ["x"]}'),
        (None, b'{"add_bos": true}'),
        (None, b'{"bos_id": 1.5}'),
    ],
)
def test_damaged_blobs(blob: bytes | None, config: bytes) -> None:
    with pytest.raises(FormatError):
        Tokenizer.from_blobs(hub_tokenizer().to_str().encode() if blob is None else blob, config)


def test_folder(tmp_path: Path) -> None:
    """Template, end tokens from all three files, and the tokenizer's own bytes."""
    files = {
        "tokenizer.json": hub_tokenizer().to_str(),
        "tokenizer_config.json": {
            "chat_template": "old",
            "eos_token": {"content": "<|im_end|>", "special": True},
            "bos_token": "<|im_start|>",
            "pad_token": None,
        },
        "generation_config.json": {"eos_token_id": [0, 5]},
        "chat_template.jinja": CHATML,
    }
    data, config = import_tokenizer(open_source(folder_with(tmp_path, files, eos_token_id=7)))
    assert data.decode() == files["tokenizer.json"]
    assert config == {
        "chat_template": CHATML,
        "add_bos": False,
        "bos_id": 1,
        "eos_ids": [0, 2, 5, 7],
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
    }
    assert Tokenizer.from_blobs(data, json.dumps(config).encode()).chat(HELLO)[0] == 1


def test_folder_templates_by_name(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    files = {"tokenizer.json": hub_tokenizer().to_str(), "tokenizer_config.json": {"chat_template": named}}
    assert import_tokenizer(open_source(folder_with(tmp_path, files)))[1]["chat_template"] == "d"
    files["tokenizer_config.json"] = {"chat_template": named[:1]}
    with pytest.raises(UnsupportedError, match="none named 'default'"):
        import_tokenizer(open_source(folder_with(tmp_path, files)))


@pytest.mark.parametrize(
    ("settings", "post_processor", "add_bos"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"add_bos_token": False}, True, False),
        ({"add_bos_token": True}, False, True),
    ],
)
def test_folder_first_token(
    settings: dict[str, Any], post_processor: bool, add_bos: bool, tmp_path: Path
) -> None:
    """From the post-processor of tokenizer.json, unless tokenizer_config.json says it."""
    tokenizer = hub_tokenizer()
    if post_processor:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    files = {
        "tokenizer.json": tokenizer.to_str(),
        "tokenizer_config.json": {"bos_token": "<|im_start|>", **settings},
    }
    data, config = import_tokenizer(open_source(folder_with(tmp_path, files)))
    assert config["add_bos"] is add_bos
    ids = Tokenizer(data, config).encode("a")
    assert (ids[0] == 1) is add_bos


def test_folder_refusals(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no tokenizer\.json"):
        import_tokenizer(open_source(GOLDEN / CASES[0]))
    with pytest.raises(FormatError, match="not a tokenizer"):
        import_tokenizer(open_source(folder_with(tmp_path, {"tokenizer.json": "{}"})))
    files = {"tokenizer.json": hub_tokenizer().to_str(), "generation_config.json": {"eos_token_id": "x"}}
    with pytest.raises(FormatError, match="eos_token_id must be a token id"):
        import_tokenizer(open_source(folder_with(tmp_path, files)))
    files = {"tokenizer.json": hub_tokenizer().to_str(), "tokenizer_config.json": {"eos_token": "<none>"}}
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(FormatError, match="names the token '<none>'"):
        import_tokenizer(open_source(folder_with(tmp_path, files)))
