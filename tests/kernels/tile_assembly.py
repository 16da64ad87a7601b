"""Compiles the tile kernels for any CPU without running them, and reports on their machine code.

`python -m tests.kernels.tile_assembly TRIPLE MACHINE` in a process of its own: NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES name the CPU, and MACHINE is what `platform.machine()` says there. Prints JSON: the tier
and per kernel its dot-product instructions, the functions it calls and, of its innermost loops that hold dot
products, the instructions and the vector moves to and from the stack.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
from numba.core import types

if TYPE_CHECKING:
    from sampan.kernels.tiers import Tier

DOT = re.compile(r"(?:\{\w+\}\s+)?(vpdpbusd|v?pmaddubsw|v?pmaddwd|sdot)\s+(.*)")
CALL = re.compile(r"(?:call\w*|bl|blr)\s+(.*)")
LABEL = re.compile(r"(\.?L\w+):")
JUMP = re.compile(r"(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\s+(?:.*[\s,])?(\.?LBB\w+)$")
STACK_MOVE = re.compile(
    r"(?:v?mov\w+\s+.*[xyz]mm.*\(%rsp|(?:ldr|str|ldp|stp)\s+q.*\[sp)|v?mov\w+\s.*\(%rsp.*[xyz]mm"
)


def main_function(assembly: str) -> list[str]:
    """The instructions and labels of a kernel's own function, without the wrappers that Numba adds."""
    functions: list[list[str]] = []
    for line in assembly.splitlines():
        if line.strip().endswith("@function"):
            functions.append([])
        text = line.split("#")[0].split("//")[0].strip()
        if functions and text and (not text.startswith(".") or LABEL.match(text)):
            functions[-1].append(text)
    return functions[0]


def innermost_loops(lines: list[str]) -> list[list[str]]:
    """Stretches from a label to a jump back to it that hold no other."""
    labels = {match[1]: at for at, line in enumerate(lines) if (match := LABEL.match(line))}
    jumps = [(labels[match[1]], at) for at, line in enumerate(lines) if (match := JUMP.match(line))]
    loops = [(start, end) for start, end in jumps if start < end]
    inner = [(s, e) for s, e in loops if not any((s, e) != (a, b) and s <= a and b <= e for a, b in loops)]
    return [lines[start : end + 1] for start, end in inner]


def describe(assembly: str) -> dict[str, Any]:
    """What the module says it reports, for one kernel."""
    lines = main_function(assembly)
    loops = [loop for loop in innermost_loops(lines) if any(map(DOT.match, loop))]
    return {
        "dots": [f"{match[1]} {match[2]}" for line in lines if (match := DOT.match(line))],
        "calls": [match[1] for line in lines if (match := CALL.match(line))],
        "loop_instructions": sum(len(loop) for loop in loops),
        "loop_stack_moves": sum(bool(STACK_MOVE.match(line)) for loop in loops for line in loop),
    }


def tile_shapes(tier: Tier) -> set[tuple[int, int]]:
    """(tokens, blocks) of every tile that a tier has."""
    pairs = {(tier.pair_tile, 2)} if tier.pair_tile else set()
    return {(height, 1) for height in (*tier.low_tiles, *tier.signed_tiles)} | pairs


def main() -> None:
    """Compile and report."""
    triple, machine = sys.argv[1:]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    # Numba asks these two what to compile for.
    llvm.get_process_triple = lambda: triple
    platform.machine = lambda: machine
    from sampan.formats import MATRIX_FORMATS
    from sampan.kernels.products import make_tile
    from sampan.kernels.tiers import TIER

    kernels = {}
    for height, width in sorted(tile_shapes(TIER)):
        for wide in (False, True):
            for name, format in MATRIX_FORMATS.items():
                compiled: Any = make_tile(format, height, width, wide)
                compiled.compile((types.int64,) * 9)
                (assembly,) = compiled.inspect_asm().values()
                bits = 15 if wide else 8
                kernels[f"{name} {bits} bits {height} x {width}"] = describe(assembly)
    print(json.dumps({"tier": TIER.name, "kernels": kernels}))


if __name__ == "__main__":
    main()
