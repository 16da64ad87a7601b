"""`sampan.load` and `Model` over a tiny model, from a folder to text, with the real kernels."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sampan
from sampan.api import choose_context
from sampan.cache.layout import KeyValueLayout
from sampan.config import ModelConfig
from sampan.convert.random_pack import random_pack
from sampan.errors import FormatError, MachineError, RequestError
from sampan.formats import Q8
from sampan.weights.pack import Pack

MESSAGES = [{"role": "user", "content": "Hello, boat"}]


def test_generate_is_stream_joined(loaded: sampan.Model) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_tokens": 12, "ignore_eos": True}
    loaded.generate("Hello", **options)  # so that both find the prompt in the prefix cache
    chunks = list(loaded.stream("Hello", **options))
    completion = loaded.generate("Hello", **options)
    last = chunks[-1].completion
    assert last is not None
    assert dataclasses.replace(last, timings=completion.timings) == completion
    assert "".join(chunk.text for chunk in chunks) == completion.text
    assert tuple(itertools.chain(*(chunk.tokens for chunk in chunks))) == completion.tokens
    assert [chunk.finish_reason for chunk in chunks] == [None] * 11 + ["length"]
    assert all(chunk.completion is None for chunk in chunks[:-1])
    assert completion.usage == sampan.api.Usage(5, 12, loaded.context, cached_tokens=4)
    assert completion.seed == 5
    assert json.loads(json.dumps(completion.to_dict()))["usage"]["completion_tokens"] == 12
    assert loaded.engine.pages.free_count == loaded.engine.pages.page_count


def test_logprobs_are_those_of_the_tokens(loaded: sampan.Model) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "ignore_eos": True, "logprobs": 3}
    completion = loaded.generate("Hello", **options)
    assert completion.logprobs is not None
    for token, found in zip(completion.tokens, completion.logprobs, strict=True):
        assert found.top[0] == (token, found.logprob)
        assert len(found.top) == 3
    chunks = list(loaded.stream("Hello", **options))
    assert tuple(itertools.chain(*(chunk.logprobs or () for chunk in chunks))) == completion.logprobs
    assert len(json.loads(json.dumps(completion.to_dict()))["logprobs"]) == 6
    assert "logprobs" not in loaded.generate("Hello", max_tokens=1).to_dict()


def test_a_bias_may_be_a_mapping(loaded: sampan.Model) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 3, "ignore_eos": True}
    assert loaded.generate("Hello", logit_bias={65: 100.0}, **options).tokens == (65, 65, 65)
    assert loaded.generate("Hello", logit_bias=[(65, 100.0)], **options).tokens == (65, 65, 65)


def test_texts_become_vectors_of_length_one(loaded: sampan.Model) -> None:
    texts = [f"text {number}" for number in range(70)]
    for pooling in ("mean", "last"):
        vectors = loaded.embed(texts, pooling=pooling)
        assert vectors.shape == (70, loaded.config.hidden_size)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
        assert np.array_equal(loaded.embed(texts[-1:], pooling=pooling), vectors[-1:])
        sequence = loaded.engine.new_embedding(loaded.tokenize(texts[0]), pooling)
        loaded.engine.run([sequence])
        assert sequence.embedding is not None
        length = np.linalg.norm(sequence.embedding)
        np.testing.assert_allclose(vectors[0] * length, sequence.embedding, rtol=1e-5)
    assert not np.array_equal(loaded.embed(["a b"], pooling="mean"), loaded.embed(["a b"], pooling="last"))
    assert loaded.embed([]).shape == (0, loaded.config.hidden_size)


@pytest.mark.parametrize(
    ("texts", "message"),
    [("text", "list of texts"), (["a", ""], "empty"), (["a" * 5000], "5000 tokens, but the context holds")],
)
def test_texts_that_cannot_be_embedded(loaded: sampan.Model, texts: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        loaded.embed(texts)
    assert loaded.engine.pages.free_count == loaded.engine.pages.page_count


@pytest.mark.usefixtures("in_shared_home")
def test_the_prefix_cache_can_be_switched_off(tiny_folder: Path, loaded: sampan.Model) -> None:
    text = "The same beginning of seventy letters, which takes more than a page of them"
    with sampan.load(tiny_folder, threads=1, prefix_cache=False) as without:
        answers = [without.generate(text, max_tokens=4, temperature=0).tokens for _ in range(2)]
        assert without.engine.stats().cached_prompt_tokens_total == 0
    before = loaded.engine.stats().cached_prompt_tokens_total
    answers += [loaded.generate(text, max_tokens=4, temperature=0).tokens for _ in range(2)]
    assert loaded.engine.stats().cached_prompt_tokens_total >= before + 64
    assert len(set(answers)) == 1


def test_a_random_seed_is_reported_and_repeats_the_text(loaded: sampan.Model) -> None:
    first = loaded.generate("a", temperature=2.0, top_p=1.0, max_tokens=10)
    again = loaded.generate("a", temperature=2.0, top_p=1.0, max_tokens=10, seed=first.seed)
    assert again.tokens == first.tokens
    assert loaded.generate("a", temperature=2.0, max_tokens=10).seed != first.seed


def test_messages_go_through_the_chat_template(loaded: sampan.Model) -> None:
    assert loaded.tokenizer is not None
    tokens = loaded.tokenize(MESSAGES)
    assert loaded.tokenizer.decode(tokens) == "user: Hello, boat\nassistant: "
    chat = loaded.generate(MESSAGES, temperature=0, max_tokens=4)
    plain = loaded.generate("user: Hello, boat\nassistant: ", temperature=0, max_tokens=4)
    assert chat.tokens == plain.tokens
    assert chat.usage.prompt_tokens == len(tokens)


def test_timings_fit_together(loaded: sampan.Model) -> None:
    timings = loaded.generate("boat", temperature=0, max_tokens=9, ignore_eos=True).timings
    assert 0 < timings.first_token_s <= timings.total_s
    assert timings.tok_s == pytest.approx(8 / (timings.total_s - timings.first_token_s))
    assert loaded.generate("boat", temperature=0, max_tokens=1).timings.tok_s is None
    assert timings.load_s == loaded.load_s > 0


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "the prompt is empty"),
        ([], {}, "at least one message"),
        ([{"role": "user"}], {}, "message 0: content is missing"),
        ("a" * 200, {}, "200 tokens, but the context holds 128"),
        ("a", {"max_tokens": 128}, "1 tokens and max_tokens is 128, 129 in all"),
        ("a", {"temprature": 1.0}, "unknown option 'temprature'; there are max_tokens, temperature"),
        ("a", {"top_p": 2}, "top_p must be from 0 to 1"),
        ("a", {"stop": ["x", 3]}, "stop must be"),
        ("a", {"stop": ["x", ""]}, "stop must be"),
    ],
)
def test_bad_requests_fail_before_the_first_chunk(
    loaded: sampan.Model, prompt: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        loaded.stream(prompt, **options)
    assert loaded.engine.pages.free_count == loaded.engine.pages.page_count


@pytest.mark.parametrize("stop", [None, "zz", ["zz"], ("zz", "yy")])
def test_stop_takes_a_string_or_several(loaded: sampan.Model, stop: Any) -> None:
    assert len(loaded.generate("a", temperature=0, max_tokens=3, stop=stop, ignore_eos=True).tokens) == 3


def test_a_stream_that_nobody_reads_leaves_nothing_behind(loaded: sampan.Model) -> None:
    unread = loaded.stream("a", max_tokens=5)
    half_read = loaded.stream("b", max_tokens=50, ignore_eos=True)
    next(half_read)
    del unread, half_read
    assert loaded.engine.pages.free_count == loaded.engine.pages.page_count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context must be a whole number"),
        ({"threads": 0}, "threads must be"),
        ({"threads": True}, "threads must be"),
        ({"sequences": -1}, "sequences must be"),
        ({"kv_dtype": "f32"}, "kv_dtype must be bf16 or int8, not 'f32'"),
        ({"context": 129}, "context 129 is more than the 128 tokens"),
    ],
)
@pytest.mark.usefixtures("in_shared_home")
def test_load_checks_its_arguments(tiny_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        sampan.load(tiny_folder, **options)


@pytest.mark.usefixtures("in_shared_home")
def test_contexts_share_the_cache(tiny_folder: Path) -> None:
    with sampan.load(tiny_folder, context=100, sequences=3, kv_dtype="int8", threads=1) as model:
        assert model.context == 100
        assert model.engine.pages.page_count == 6
        streams = [model.stream("a" * n, temperature=0, max_tokens=4, ignore_eos=True) for n in (1, 40, 80)]
        for _ in range(4):
            assert all(next(stream).tokens for stream in streams)


@pytest.mark.usefixtures("in_shared_home")
def test_closing_ends_streams(tiny_folder: Path) -> None:
    model = sampan.load(tiny_folder, threads=1)
    stream = model.stream("a", max_tokens=100, ignore_eos=True)
    next(stream)
    model.close()
    assert list(stream) == []


def shape(**changes: Any) -> ModelConfig:
    from sampan.config import RopeConfig

    values: dict[str, Any] = {
        "family": "llama",
        "vocab_size": 64,
        "hidden_size": 64,
        "layer_count": 1,
        "head_count": 2,
        "kv_head_count": 2,
        "head_dim": 32,
        "intermediate_size": 64,
        "context_length": 8192,
        "norm_epsilon": 1e-5,
        "ropes": (RopeConfig(10_000.0, 32),),
        "layer_ropes": (0,),
        "windows": (0,),
        "attention_scale": 0.2,
        "tied_embeddings": True,
    }
    return ModelConfig(**(values | changes))


@pytest.fixture
def random_model(tmp_path: Path) -> Path:
    path = tmp_path / "random.pack"
    random_pack(shape(), path, Q8)
    return path


@pytest.mark.usefixtures("in_shared_home")
def test_a_model_without_a_tokenizer(random_model: Path) -> None:
    with sampan.load(random_model, threads=1) as model:
        assert model.context == 4096
        with pytest.raises(FormatError, match="no tokenizer"):
            model.generate("a")


def test_default_context_fits_the_memory(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = Pack.open(random_model)
    per_token = KeyValueLayout(1, 2, 32, 32, "bf16").token_bytes
    fixed = pack.nbytes + 200 * 2**20

    def with_room_for(tokens: float) -> None:
        available = int(fixed + tokens * per_token)
        monkeypatch.setattr("sampan.plan.machine.available_memory", lambda: available)

    with_room_for(10**6)
    assert choose_context(pack, None, "bf16", 1) == 4096
    assert choose_context(pack, 8192, "bf16", 1) == 8192
    with_room_for(4095)
    assert choose_context(pack, None, "bf16", 1) == 2048
    assert choose_context(pack, None, "bf16", 4) == 512
    assert choose_context(pack, None, "int8", 1) == 4096
    with pytest.raises(MachineError, match=r"1 x 8192 tokens of bf16 KV cache 2 MiB"):
        choose_context(pack, 8192, "bf16", 1)
    with_room_for(255)
    with pytest.raises(MachineError, match="256 tokens of bf16"):
        choose_context(pack, None, "bf16", 1)


def test_states_take_memory_that_the_cache_could_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(
        shape(),
        layer_count=2,
        layer_ropes=(0, 0),
        windows=(0, 0),
        linear_layers=(True, False),
        linear_key_heads=4,
        linear_value_heads=16,
        linear_key_dim=128,
        linear_value_dim=128,
        linear_conv_width=4,
    )
    random_pack(config, tmp_path / "hybrid.pack", Q8)
    pack = Pack.open(tmp_path / "hybrid.pack")
    per_token = KeyValueLayout.of(config, "bf16").token_bytes
    assert per_token == KeyValueLayout(1, 2, 32, 32, "bf16").token_bytes
    state = 4 * (16 * 128 * 128 + 3 * (2 * 4 * 128 + 16 * 128))
    fixed = pack.nbytes + 200 * 2**20

    def with_room_for(states: int, tokens: int) -> None:
        available = fixed + states * state + tokens * per_token
        monkeypatch.setattr("sampan.plan.machine.available_memory", lambda: available)

    with_room_for(3, 2 * 1024)
    assert choose_context(pack, None, "bf16", 2, 3) == 1024
    with pytest.raises(MachineError, match=r"states 4 MiB and 2 x 256 tokens of bf16 KV cache"):
        choose_context(pack, None, "bf16", 2, 4)


def test_importing_sampan_is_light() -> None:
    """What a warm start does not need is imported where it is needed."""
    heavy = ["numba", "tokenizers", "huggingface_hub", "gguf", "rich", "sampan.kernels.jit"]
    code = f"import sampan, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
