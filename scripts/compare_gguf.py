"""Compare the golden checkpoints, written as GGUF files, with what llama.cpp computes from those files.

Needs xllamacpp, which is in the `test` extra. `python scripts/compare_gguf.py [CASE...]`. The tests write
each golden checkpoint as the GGUF file that llama.cpp's converter makes of it; this shows that llama.cpp
takes such a file for the same model: it prints the largest difference of a next token's log probability after
prompts of several lengths.
llama.cpp keeps keys and values in float16, so the differences are near 0.001, or near 0.01 for models with
tied embeddings, whose random logits are ten times as large. A wrong rule or order of rows gives 1 and more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from sampan.export.gguf_file import value_type
from tests.export.llama_cpp import LlamaCpp, plain_vocabulary
from tests.models.model_files import GGUF_CASES, golden, golden_gguf

# The golden Gemma 3 has a query_pre_attn_scalar, which GGUF files do not carry. llama.cpp ranks DeepSeek-V2's
# groups by their two best experts, and knows a model without a latent vector of queries by its 26 or 27
# layers. Its linear layers have keys as wide as values.
CASES = [
    case
    for case in GGUF_CASES
    if case not in ("gemma3", "deepseek_v2", "deepseek_v2_lite", "qwen3_5_narrow_keys")
]


def difference(case: str, folder: Path) -> float:
    """The largest difference of a log probability."""
    tokens, logits = golden(case)
    keys = {key: (value, value_type(value)) for key, value in plain_vocabulary(logits.shape[1]).items()}
    model = LlamaCpp(golden_gguf(case, folder / f"{case}.gguf", keys))
    return float(np.nanmax(np.abs(model.differences(tokens.tolist(), logits))))


def main() -> None:
    """Compare the named cases, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="all when none is named")
    with tempfile.TemporaryDirectory() as folder:
        for case in parser.parse_args().cases or CASES:
            print(f"{case}: {difference(case, Path(folder)):.4f}", flush=True)


if __name__ == "__main__":
    main()
