"""Compare the exported checkpoints with transformers: the same logits from the same weights in float32.

Needs an environment with `torch==2.13.0 transformers==5.23.0 safetensors`. Prints the largest difference of
logits over held-out text of every domain and language; exits 1 if it is above 0.001.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers
from trainer.config import SHAPES
from trainer.corpus import read_corpus
from trainer.export import load_checkpoint

ASSETS = Path(__file__).parent.parent / "assets"
LARGEST = 1e-3
TOKENS = 300


@torch.no_grad()
def largest_difference(name: str) -> float:
    """Between our logits and those of transformers for assets/`name`."""
    folder = ASSETS / name
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = load_checkpoint(SHAPES[name], folder)
    largest = 0.0
    for cell in read_corpus(ASSETS / "corpus"):
        ids = tokenizer(cell.held_out[0], return_tensors="pt").input_ids[:, :TOKENS]
        if tokenizer.decode(ids[0]) not in cell.held_out[0]:
            raise SystemExit(f"{name}: the tokenizer does not give back the text of {cell.name}")
        largest = max(largest, (theirs(ids).logits - ours(ids)).abs().max().item())
    return largest


def main() -> None:
    differences = {name: largest_difference(name) for name in SHAPES}
    for name, difference in differences.items():
        print(f"{name}: largest difference of logits {difference:.2e}")
    sys.exit(any(difference > LARGEST for difference in differences.values()))


if __name__ == "__main__":
    main()
