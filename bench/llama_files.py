"""Make llama.cpp's own quantized files of a checkpoint with float weights, for `bench/quality.py`.

    python -m bench.llama_files MODEL OUT --quantizer PATH/llama-quantize [--type Q4_K_M]...

OUT gets MODEL.f32.gguf; MODEL.imatrix.gguf, the importance matrix of the shipped calibration texts; and of
each type one file without and one with it. `llama-quantize` comes with llama.cpp, which
https://github.com/ggml-org/llama.cpp says how to build: `cmake -B build && cmake --build build --target
llama-quantize`.

An importance matrix holds, for each matrix, the sum of squares of every column of its inputs, and how many
inputs there were; of a tensor of experts for each expert. llama.cpp's own tool, llama-imatrix, gathers the
same sums in its own arithmetic; here the NumPy twin does, from the texts that Sampan's quantization reads.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from sampan.export.gguf_export import write_float_gguf
from sampan.export.tensors import checkpoint_tensors
from sampan.measure.texts import shipped_documents
from sampan.models.reference import ReferenceModel
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.quantize.statistics import MatrixInputs, read_inputs
from sampan.weights.detect import open_source

WINDOW = 512
TYPES = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K")


def importance_matrix(model: Path, documents: Iterable[str], out: Path) -> None:
    """Write the importance matrix of a checkpoint over documents, each read on its own."""
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}

    def visit(name: str, inputs: MatrixInputs) -> None:
        sums[name] = np.einsum("tc,tc->c", inputs.rows, inputs.rows, dtype=np.float64)
        counts[name] = inputs.tokens

    with closing(open_source(model)) as source:
        twin = ReferenceModel.from_source(source, WINDOW)
        tokenizer = Tokenizer(*import_tokenizer(source))
        windows = [
            np.array(tokens[start : start + WINDOW], np.int32)
            for tokens in map(tokenizer.encode, documents)
            for start in range(0, len(tokens), WINDOW)
        ]
        read_inputs(twin, windows, visit)
    writer = gguf.GGUFWriter(out, "imatrix")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["Sampan's calibration texts"])
    writer.add_uint32("imatrix.chunk_count", len(windows))
    writer.add_uint32("imatrix.chunk_size", WINDOW)
    for tensor in checkpoint_tensors("gguf", twin.config):
        reached = [name for name in tensor.names if name in sums]
        # llama-imatrix leaves the embedding out as well.
        if not tensor.is_matrix or not tensor.name.startswith("blk.") or not reached:
            continue
        columns = len(sums[reached[0]])
        squares = np.stack([sums.get(name, np.zeros(columns)) for name in tensor.names])
        tokens = np.array([[counts.get(name, 0)] for name in tensor.names])
        writer.add_tensor(f"{tensor.name}.in_sum2", squares.astype(np.float32))
        writer.add_tensor(f"{tensor.name}.counts", tokens.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a checkpoint with float weights")
    parser.add_argument("out", type=Path, help="a folder")
    parser.add_argument("--quantizer", type=Path, required=True, help="llama.cpp's llama-quantize")
    parser.add_argument("--type", action="append", choices=TYPES, help="all unless given")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.model.resolve().name
    floats, importance = args.out / f"{name}.f32.gguf", args.out / f"{name}.imatrix.gguf"
    floats.unlink(missing_ok=True)
    write_float_gguf(args.model, floats)
    texts = shipped_documents("calibration").values()
    importance_matrix(args.model, itertools.chain.from_iterable(texts), importance)
    for kind in args.type or TYPES:
        for suffix, options in (("", []), (".imatrix", ["--imatrix", str(importance)])):
            made = args.out / f"{name}.{kind}{suffix}.gguf"
            command = [str(args.quantizer), *options, str(floats), str(made), kind, "1"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            print(made, flush=True)


if __name__ == "__main__":
    main()
