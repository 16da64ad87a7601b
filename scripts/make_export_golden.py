"""Record what transformers computes from exports: tests/golden/compressed_tensors.npz.

`python scripts/make_export_golden.py PYTHON`, in Sampan's environment; PYTHON is an interpreter of one with
`torch==2.13.0 transformers==5.24.0 compressed-tensors==0.20.1 accelerate safetensors numpy`. It loads the
folders that `sampan export --format compressed-tensors` writes, in float32, and gives the logits after the
last tokens. Prints how far those are from the pack's own logits, before its embedding was rounded to bfloat16
and, of 4 bits, its weights to a scale alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
TEXT = "def square(x):\n    return x * x"
LAST = 8
LOADED = "logits.npy"
TOKENS = "tokens.npy"


def load(folder: Path) -> None:
    """With torch: logits of the tokens beside the export in `folder`."""
    import torch
    import transformers

    tokens = torch.from_numpy(np.load(folder / TOKENS)).long()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        np.save(folder / LOADED, model(tokens[None]).logits[0, -LAST:].numpy())


def record(interpreter: str) -> None:
    """Export every case, have it loaded, and write the golden file."""
    sys.path.insert(0, str(ROOT))
    from sampan.export.compressed_tensors import export_compressed_tensors
    from sampan.models.reference import ReferenceModel
    from sampan.models.tokenizer import Tokenizer
    from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB, Pack
    from tests.export.exports import EXPORT_CASES, case_pack
    from tests.models.model_files import GOLDEN, golden

    recorded: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for case, bits in EXPORT_CASES:
            folder = Path(scratch) / f"{case}.{bits}"
            folder.mkdir()
            pack = Pack.open(case_pack(case, bits, folder))
            export_compressed_tensors(pack, folder / "out")
            if case == "moe-10m":
                blobs = pack.blob(TOKENIZER_BLOB), pack.blob(TOKENIZER_CONFIG_BLOB)
                tokens = np.array(Tokenizer.from_blobs(*blobs).encode(TEXT), np.int32)
            else:
                tokens = golden(case)[0]
            np.save(folder / TOKENS, tokens)
            subprocess.run([interpreter, __file__, "--load", str(folder)], check=True)
            logits = np.load(folder / LOADED)
            ours = ReferenceModel.from_pack(pack).forward(tokens)[-LAST:]
            error = np.sqrt(np.mean((logits - ours) ** 2)) / ours.std()
            print(f"{case}, {bits} bits: {error:.1e} of the logits' standard deviation", flush=True)
            recorded[f"{case}.{bits}.tokens"] = tokens
            recorded[f"{case}.{bits}.logits"] = logits
    np.savez_compressed(GOLDEN / "compressed_tensors.npz", **recorded)


def main() -> None:
    """Record, or load one export when called by itself."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("interpreter", nargs="?", help="a Python with torch and transformers")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load is not None:
        load(arguments.load)
    elif arguments.interpreter is None:
        parser.error("name a Python with torch and transformers")
    else:
        record(arguments.interpreter)


if __name__ == "__main__":
    main()
