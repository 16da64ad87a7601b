"""Run the NEON dotprod tier in an emulated Arm CPU and compare its logits with this machine's, bit by bit.

For Linux on machines that are not Arm ones. Needs `pip install unicorn` beside the test extra; then
`python scripts/run_neon.py`. The whole step program is compiled for AArch64 in a process of its own, as on a
real Arm machine but with one thread, and the emulator runs it over that process's memory.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

ROOT = Path(__file__).parents[1]
TRIPLE, MACHINE = "aarch64-unknown-linux-gnu", "aarch64"
CPU = {"NUMBA_CPU_NAME": "neoverse-n1", "NUMBA_CPU_FEATURES": "+neon,+dotprod"}
LENGTHS = (140, 17, 1)
MAP_BYTES = 1 << 20
STACK_BYTES = 1 << 20
# An address that nothing is mapped at: returning to it ends a run.
RETURN_ADDRESS = 0x1000


class ArmProcess:
    """An emulated CPU that sees this process's memory at its own addresses."""

    def __init__(self) -> None:
        import unicorn
        from unicorn import arm64_const

        self._registers = arm64_const
        self._cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._cpu.ctl_set_cpu_model(arm64_const.UC_CPU_ARM64_MAX)
        # Bits 20 and 21: no trap on floating point and SIMD.
        self._cpu.reg_write(arm64_const.UC_ARM64_REG_CPACR_EL1, 3 << 20)
        self._cpu.mem_map(RETURN_ADDRESS, 4096)
        self._cpu.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self._map)
        self._everything = unicorn.UC_PROT_ALL
        self._mapped: list[tuple[int, int]] = []
        self._stack = np.zeros(STACK_BYTES, np.uint8)

    def _map(self, _cpu: Any, _access: int, address: int, _size: int, _value: int, _data: Any) -> bool:
        """Map what this process has around an address that the program touched first."""
        for line in Path("/proc/self/maps").read_text().splitlines():
            start, end = (int(text, 16) for text in line.split()[0].split("-"))
            if start <= address < end:
                low = max(start, address // MAP_BYTES * MAP_BYTES)
                high = min(end, address // MAP_BYTES * MAP_BYTES + MAP_BYTES)
                low = max([low, *(stop for _, stop in self._mapped if stop <= address)])
                high = min([high, *(begin for begin, _ in self._mapped if begin > address)])
                self._cpu.mem_map_ptr(low, high - low, self._everything, low)
                self._mapped.append((low, high))
                return True
        return False

    def call(self, function: int, *arguments: int) -> int:
        """Run the function at an address; its result register."""
        registers = self._registers
        self._cpu.reg_write(registers.UC_ARM64_REG_SP, (self._stack.ctypes.data + STACK_BYTES - 64) & ~15)
        self._cpu.reg_write(registers.UC_ARM64_REG_LR, RETURN_ADDRESS)
        for number, argument in enumerate(arguments):
            self._cpu.reg_write(registers.UC_ARM64_REG_X0 + number, argument)
        self._cpu.emu_start(function, RETURN_ADDRESS)
        return int(self._cpu.reg_read(registers.UC_ARM64_REG_X0)) & 0xFFFFFFFF


def emulate() -> None:
    """From here on, runners of this process run their programs on the emulated CPU."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.get_process_triple = lambda: TRIPLE
    platform.machine = lambda: MACHINE
    from numba.core import types

    from sampan.engine import runner
    from sampan.kernels.interpreter import enter
    from sampan.kernels.jit import kernel
    from sampan.kernels.tiers import NEON_DOTPROD, TIER

    assert TIER is NEON_DOTPROD
    compiled: Any = kernel(enter)
    compiled.compile((types.int64, types.int64))
    (result,) = compiled.overloads.values()
    address = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    cpu = ArmProcess()
    outcome = np.zeros(2, np.int64)

    def entry(state: int, thread: int) -> int:
        # Numba's convention: where the result goes, where an exception goes, the arguments; 0 means success.
        status = cpu.call(address, outcome.ctypes.data, outcome.ctypes.data + 8, state, thread)
        assert status == 0, status
        return int(outcome[0])

    runner.entry_point = lambda _folder, _formats: entry


def logits_of(paths: list[Path], kernel_folder: Path) -> dict[str, np.ndarray]:
    """Logits of three sequences per pack and kind of cache: prompts side by side, then single tokens."""
    from sampan.engine.runner import Runner
    from sampan.weights.pack import Pack
    from tests.engine.schedules import run_schedule, side_by_side
    from tests.engine.short_run import KINDS

    found = {}
    for path in paths:
        pack = Pack.open(path)
        random = np.random.default_rng(0)
        prompts = [random.integers(0, pack.config.vocab_size, n).astype(np.int32) for n in LENGTHS]
        for kind in KINDS:
            runner = Runner(
                pack,
                context=192,
                page_count=8,
                threads=1,
                kernel_folder=kernel_folder,
                kv_dtype=kind,
                max_batch_tokens=160,
                state_count=len(LENGTHS),
            )
            for index, logits in enumerate(run_schedule(runner, prompts, side_by_side(LENGTHS, 160))):
                found[f"{path.stem}, {kind} cache, {LENGTHS[index]} tokens"] = logits
            runner.close()
    return found


def compare() -> int:
    """Make packs of every family and format, run both, and print what differs; the number of differences."""
    from sampan.api import kernels_folder
    from sampan.convert.random_pack import random_pack
    from sampan.formats import COMPACT_FORMATS, Q4, Q4K, Q8
    from sampan.kernels.tiers import TIER
    from tests.engine.packs import HYBRID, PLAIN, RICH, golden_pack
    from tests.models.model_files import CASES

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = [golden_pack(case, folder) for case in CASES]
        compact = tuple((PLAIN, form) for form in COMPACT_FORMATS)
        for config, form in ((PLAIN, Q4), (PLAIN, Q4K), (RICH, Q8), (HYBRID, Q4), *compact):
            paths.append(folder / f"random-{form.name}.pack")
            random_pack(config, paths[-1], form)
        command = [sys.executable, __file__, str(folder / "logits.npz"), *map(str, paths)]
        subprocess.run(command, env=os.environ | CPU, check=True)
        native = logits_of(paths, kernels_folder())
        with np.load(folder / "logits.npz") as emulated:
            different = [
                name for name, logits in native.items() if not np.array_equal(logits, emulated[name])
            ]
    for name in different:
        print(f"different bits: {name}")
    print(
        f"{len(native) - len(different)} of {len(native)} logits have the same bits in {TIER.name} and NEON"
    )
    return len(different)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if len(sys.argv) == 1:
        sys.exit(min(compare(), 1))
    emulate()
    np.savez(sys.argv[1], **logits_of([Path(text) for text in sys.argv[2:]], Path()))
