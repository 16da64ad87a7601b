"""llama.cpp, through xllamacpp: what it computes and how it cuts text, by the routes of its server."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import xllamacpp


class LlamaCpp:
    """A loaded GGUF file."""

    def __init__(self, path: Path, context: int = 128) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = context
        parameters.warmup = False
        parameters.n_gpu_layers = 0
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        parameters.port = 0
        parameters.verbosity = -1
        self._server = xllamacpp.Server(parameters)

    def tokens(self, text: str, *, parse_special: bool = False) -> list[int]:
        """The ids of a text, without a first token."""
        body = {"content": text, "add_special": False, "parse_special": parse_special}
        ids: list[int] = self._post("/tokenize", body)["tokens"]
        return ids

    def chat(self, messages: list[dict[str, str]]) -> str:
        """The prompt that the file's chat template makes of a conversation."""
        prompt: str = self._post("/apply-template", {"messages": messages})["prompt"]
        return prompt

    def log_probabilities(
        self, prompt: list[int], size: int, answer: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Of every token after `prompt`, [size]; NaN where the probability is 0 in float32. `answer`: a token
        that the answer is to be, which changes no probability; one that is part of a character comes without
        any.
        """
        body = {
            "prompt": prompt,
            "n_predict": 1,
            "n_probs": size,
            "samplers": [],
            "cache_prompt": False,
            # An answer that ends at once comes without probabilities.
            "ignore_eos": True,
            "logit_bias": [] if answer is None else [[answer, 1e6]],
        }
        listed = self._post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        found = np.full(size, np.nan)
        for entry in listed:
            # Probabilities that are 0 in float32 come as its lowest number.
            if entry["logprob"] > -1e30:
                found[entry["id"]] = entry["logprob"]
        return found

    def differences(
        self, tokens: list[int], logits: npt.NDArray[np.float32], lengths: tuple[int, ...] = (1, 5, 17, 40)
    ) -> npt.NDArray[np.float64]:
        """By how much each log probability differs, [lengths, vocabulary], after the first so many of
        `tokens` [n]; `logits` [n, vocabulary] are those expected after each.
        """
        rows = []
        for length in lengths:
            row = logits[length - 1].astype(np.float64)
            found = self.log_probabilities(tokens[:length], len(row))
            rows.append(found - (row - np.logaddexp.reduce(row)))
        return np.array(rows)

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + route,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def plain_vocabulary(size: int) -> dict[str, Any]:
    """Keys of a tokenizer with this many tokens, which llama.cpp wants even for prompts of token ids."""
    keys = {
        "model": "gpt2",
        "pre": "default",
        "tokens": [chr(0x100 + i) for i in range(size)],
        "token_type": [1] * size,
        "merges": ["\u0100 \u0101"],
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def write_tokenizer_model(path: Path, fields: dict[str, Any]) -> Path:
    """A one-layer model with the tokenizer `fields`, so that llama.cpp loads it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in fields.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_string(name, value)
    square = np.zeros((32, 32), np.float32)
    writer.add_tensor("token_embd.weight", np.zeros((len(fields["tokens"]), 32), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
