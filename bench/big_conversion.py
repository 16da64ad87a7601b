"""Convert a synthetic checkpoint of Qwen3-30B-A3B's shape, 60 GB of bfloat16, and say how much memory it
took.

    python bench/big_conversion.py FOLDER [--layers 49] [--bits 4]

The shards are sparse files of zeros, which take no room on the disk; the pack, written beside them and
removed in the end, takes its full size. The tokenizer is that of assets/moe-10m.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from pathlib import Path

from sampan.convert.convert import convert

ASSET = Path(__file__).parent.parent / "assets" / "moe-10m"
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, WIDTH = 2048, 32, 4, 128, 128, 768


def layer_tensors(layer: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one layer, as Hugging Face writes them."""
    attention = f"model.layers.{layer}.self_attn."
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{layer}.input_layernorm.weight": (HIDDEN,),
        f"model.layers.{layer}.post_attention_layernorm.weight": (HIDDEN,),
        attention + "q_norm.weight": (HEAD_DIM,),
        attention + "k_norm.weight": (HEAD_DIM,),
        attention + "q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
        attention + "k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        attention + "v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        attention + "o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
        f"model.layers.{layer}.mlp.gate.weight": (EXPERTS, HIDDEN),
    }
    for expert in range(EXPERTS):
        prefix = f"model.layers.{layer}.mlp.experts.{expert}."
        shapes[prefix + "gate_proj.weight"] = shapes[prefix + "up_proj.weight"] = (WIDTH, HIDDEN)
        shapes[prefix + "down_proj.weight"] = (HIDDEN, WIDTH)
    return shapes


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """A safetensors file of zeros with a hole in place of its data; its size."""
    header: dict[str, object] = {}
    position = 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    return 8 + len(text) + position


def write_checkpoint(folder: Path, layers: int) -> int:
    """All files of the checkpoint; the bytes of its shards together."""
    config = json.loads((ASSET / "config.json").read_text())
    config |= {
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": WIDTH,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSET / name, folder / name)
    shards = [layer_tensors(layer) for layer in range(layers)]
    shards.append(
        {"model.embed_tokens.weight": (config["vocab_size"], HIDDEN), "model.norm.weight": (HIDDEN,)}
    )
    places: dict[str, str] = {}
    total = 0
    for index, shapes in enumerate(shards):
        name = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        total += write_shard(folder / name, shapes)
        places |= dict.fromkeys(shapes, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return total


def main() -> None:
    """Write, convert, report."""
    parser = argparse.ArgumentParser(description="Convert a synthetic checkpoint of 60 GB.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=49)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    try:
        source = write_checkpoint(args.folder, args.layers)
        pack = args.folder / "out.pack"
        started = time.perf_counter()
        convert(args.folder, pack, bits=args.bits)
        seconds = time.perf_counter() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        report = {
            "source_bytes": source,
            "pack_bytes": pack.stat().st_size,
            "bits": args.bits,
            "seconds": seconds,
            "peak_rss_bytes": memory,
        }
        print(json.dumps(report, indent=2))
    finally:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
