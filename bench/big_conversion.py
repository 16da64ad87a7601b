"""Convert a synthetic checkpoint of Qwen3-30B-A3B's shape, 60 GB of bfloat16, and say how much memory it
took.

    python bench/big_conversion.py FOLDER [--layers 49] [--bits 4]

The shards are sparse files of zeros, which take no room on the disk; the pack, written beside them and
removed in the end, takes its full size.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from pathlib import Path

from synthetic_checkpoint import write_checkpoint

from sampan.convert.convert import convert


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
