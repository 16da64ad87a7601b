"""Valid files and hostile changes to them, for the tests of the readers."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import strategies as st

from sampan.errors import SampanError
from sampan.weights.source import SUPPORTED_TYPES

# Where the float16 scales lie in a block of each type.
SCALE_OFFSETS = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}

HOSTILE_NUMBERS = (
    0,
    1,
    2,
    3,
    31,
    33,
    255,
    4095,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 64) - 1,
)
HOSTILE_VALUES = (
    *HOSTILE_NUMBERS,
    -1,
    1.5,
    float("inf"),
    float("nan"),
    True,
    None,
    "",
    "x",
    "F32",
    "q4k",
    [],
    {},
)

# A reader that trusts a number from a small file asks for far more than this.
MEMORY_LIMIT = 8 << 20


def random_rows(
    random: np.random.Generator, type_name: str, rows: int, columns: int
) -> npt.NDArray[np.uint8]:
    """Raw bytes [rows, bytes of a row] of a random matrix: all codes, moderate scales of both signs."""
    kind = GGMLQuantizationType[type_name]
    if type_name not in SCALE_OFFSETS:
        values = random.standard_normal((rows, columns)).astype(np.float32)
        return np.ascontiguousarray(gguf.quants.quantize(values, kind)).view(np.uint8).reshape(rows, -1)
    elements, nbytes = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows * columns // elements, nbytes), np.uint8)
    for offset in SCALE_OFFSETS[type_name]:
        scales = random.uniform(-2, 2, (len(blocks), 1)).astype(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[str, npt.NDArray[np.uint8]]],
    add_metadata: Callable[[gguf.GGUFWriter], None] = lambda _: None,
    architecture: str = "llama",
) -> Path:
    """A GGUF file by the gguf package's writer. `tensors`: name -> (type, raw [rows, bytes of a row])."""
    writer = gguf.GGUFWriter(path, architecture)
    add_metadata(writer)
    for name, (type_name, raw) in tensors.items():
        writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType[type_name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sample_gguf(folder: Path) -> Path:
    """A small file with every supported tensor type and every kind of metadata value."""
    random = np.random.default_rng(1)

    def add_metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_uint8("a.u8", 200)
        writer.add_int8("a.i8", -3)
        writer.add_uint16("a.u16", 60_000)
        writer.add_int16("a.i16", -300)
        writer.add_uint32("a.u32", 4_000_000_000)
        writer.add_int32("a.i32", -70_000)
        writer.add_uint64("a.u64", 1 << 60)
        writer.add_int64("a.i64", -(1 << 60))
        writer.add_float32("a.f32", 0.5)
        writer.add_float64("a.f64", 0.1)
        writer.add_bool("a.bool", True)
        writer.add_string("a.string", "naïve 舢板")
        writer.add_array("a.strings", ["", "x", "舢板"])
        writer.add_array("a.ints", [1, -2, 3])
        writer.add_array("a.floats", [0.5, 2.0])
        writer.add_array("a.bools", [True, False])

    tensors = {f"t.{name}": (name, random_rows(random, name, 2, 256)) for name in SUPPORTED_TYPES}
    return write_gguf(folder / "sample.gguf", tensors, add_metadata)


def safetensors_bytes(header: Any, data: bytes) -> bytes:
    """A safetensors file of any header, valid or not. Whole pages, as packs have."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = -(-(8 + len(text)) // 4096) * 4096 - 8
    return length.to_bytes(8, "little") + text.ljust(length) + data


def split_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, data) of a safetensors file."""
    stop = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:stop]), content[stop:]


def only_sampan_errors(use: Callable[[], object]) -> bool:
    """Run `use`; whether it went through. Only SampanError is caught, and large allocations fail."""
    tracemalloc.start()
    try:
        use()
    except SampanError as error:
        assert "\n" not in str(error)
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_LIMIT
    return True


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes, header_bytes: int) -> bytes:
    """`content` with a few hostile integers or bytes written over its header, and perhaps cut short."""
    changed = io.BytesIO(content)
    for _ in range(draw(st.integers(1, 3))):
        changed.seek(draw(st.integers(0, header_bytes - 1)))
        width = draw(st.sampled_from((1, 4, 8)))
        number = draw(st.sampled_from(HOSTILE_NUMBERS) | st.integers(0, (1 << 64) - 1))
        changed.write((number % (1 << 8 * width)).to_bytes(width, "little"))
    result = changed.getvalue()
    if draw(st.booleans()):
        result = result[: draw(st.integers(0, len(result)))]
    return result


@st.composite
def mutated_json(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one node, anywhere in it, replaced, removed, or renamed."""
    if isinstance(value, (dict, list)) and value and draw(st.integers(0, 5)):
        keys = sorted(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        copy = value.copy()
        action = draw(st.sampled_from(("descend", "descend", "descend", "remove", "rename")))
        if action == "descend":
            copy[key] = draw(mutated_json(value[key]))
        elif action == "remove" or isinstance(copy, list):
            del copy[key]
        else:
            copy[draw(st.text(max_size=8))] = copy.pop(key)
        return copy
    if type(value) is int and draw(st.booleans()):
        return value + draw(st.sampled_from((-4096, -64, -1, 1, 32, 64, 4096)))
    return draw(st.sampled_from(HOSTILE_VALUES))
