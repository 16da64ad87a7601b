"""Compare the golden checkpoints, written as GGUF files, with what llama.cpp computes from those files.

Needs the `bench` extra. `python scripts/compare_gguf.py [CASE...]`. The tests write each golden checkpoint as
the GGUF file that llama.cpp's converter makes of it; this shows that llama.cpp takes such a file for the same
model: it prints the largest difference of a next token's log probability after prompts of several lengths.
llama.cpp keeps keys and values in float16, so the differences are near 0.001, or near 0.01 for models with
tied embeddings, whose random logits are ten times as large. A wrong rule or order of rows gives 1 and more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.models.model_files import GGUF_CASES, golden, golden_gguf

LENGTHS = (1, 5, 17, 40)

# The golden Gemma 3 has a query_pre_attn_scalar, which GGUF files do not carry. llama.cpp ranks DeepSeek-V2's
# groups by their two best experts, and knows a model without a latent vector of queries by its 26 or 27
# layers. Its linear layers have keys as wide as values.
CASES = [
    case
    for case in GGUF_CASES
    if case not in ("gemma3", "deepseek_v2", "deepseek_v2_lite", "qwen3_5_narrow_keys")
]


def tokenizer_keys(size: int) -> dict[str, Any]:
    """A vocabulary of this size, which llama.cpp wants even for prompts of token ids."""
    kinds = gguf.GGUFValueType
    keys = {
        "model": ("gpt2", kinds.STRING),
        "pre": ("default", kinds.STRING),
        "tokens": ([chr(0x100 + i) for i in range(size)], kinds.ARRAY),
        "token_type": ([1] * size, kinds.ARRAY),
        "merges": (["\u0100 \u0101"], kinds.ARRAY),
        "eos_token_id": (2, kinds.UINT32),
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def log_probabilities(server: Any, prompt: list[int], size: int) -> np.ndarray:
    """llama.cpp's for every token after `prompt`."""
    body = {"prompt": prompt, "n_predict": 1, "n_probs": size, "samplers": [], "cache_prompt": False}
    request = urllib.request.Request(
        server.listening_address + "/completion",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        listed = json.load(answer)["completion_probabilities"][0]["top_logprobs"]
    found = np.full(size, np.nan)
    for entry in listed:
        # Probabilities that are 0 in float32 come as its lowest number.
        if entry["logprob"] > -1e30:
            found[entry["id"]] = entry["logprob"]
    return found


def difference(case: str, folder: Path) -> float:
    """The largest difference of a log probability."""
    tokens, logits = golden(case)
    size = logits.shape[1]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(golden_gguf(case, folder / f"{case}.gguf", tokenizer_keys(size)))
    parameters.n_ctx = 128
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    parameters.port = 0
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    largest = 0.0
    for length in LENGTHS:
        row = logits[length - 1].astype(np.float64)
        expected = row - np.logaddexp.reduce(row)
        found = log_probabilities(server, tokens[:length].tolist(), size)
        largest = max(largest, float(np.nanmax(np.abs(found - expected))))
    return largest


def main() -> None:
    """Compare the named cases, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="all when none is named")
    with tempfile.TemporaryDirectory() as folder:
        for case in parser.parse_args().cases or CASES:
            print(f"{case}: {difference(case, Path(folder)):.4f}", flush=True)


if __name__ == "__main__":
    main()
