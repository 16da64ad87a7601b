"""The kernels in the modes and tiers that this process does not use, each in processes of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from sampan.api import kernels_folder
from sampan.formats import MATRIX_FORMATS
from sampan.kernels.simd import emulation
from sampan.kernels.tiers import (
    AVX2,
    AVX512_BF16,
    AVX512_VNNI,
    AVX_VNNI,
    GENERIC,
    NEON_DOTPROD,
    TIER,
    Tier,
    select_tier,
)
from tests.engine.packs import golden_pack
from tests.engine.short_run import KINDS, short_logits
from tests.kernels.tile_assembly import tile_shapes

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
# The compile cache is no kernel, and this file would start itself again.
LEFT_OUT = {"test_tiers.py", "test_jit.py"}
# The same in every tier, and all kernels must be compiled for it.
LEFT_OUT_COMPILED = {"test_scheduler.py"}
ONLY_COMPILED = {"test_read_bandwidth", "test_int8_rate"}

INTERPRETED = {"NUMBA_DISABLE_JIT": "1"}
AVX2_FEATURES = ("avx", "avx2", "fma", "f16c")
AVX512_FEATURES = (*AVX2_FEATURES, "avx512f", "avx512bw", "avx512vl", "avx512vnni")
CPUS: dict[Tier, tuple[str, tuple[str, ...]]] = {
    AVX512_BF16: ("cooperlake", (*AVX512_FEATURES, "avx512bf16")),
    AVX512_VNNI: ("icelake-server", AVX512_FEATURES),
    AVX_VNNI: ("alderlake", (*AVX2_FEATURES, "avxvnni")),
    AVX2: ("haswell", AVX2_FEATURES),
    NEON_DOTPROD: ("neoverse-n1", ("neon", "dotprod")),
    GENERIC: ("generic", ()),
}

# What a tier cannot do without.
NEEDED: dict[Tier, set[str]] = {
    AVX512_BF16: {"avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16"},
    AVX512_VNNI: {"avx512f", "avx512bw", "avx512vl", "avx512vnni"},
    AVX_VNNI: {"avx2", "fma", "f16c", "avxvnni"},
    AVX2: {"avx2", "fma", "f16c"},
    NEON_DOTPROD: {"dotprod"},
    GENERIC: set(),
}


def compiled_for(tier: Tier) -> dict[str, str]:
    """The environment in which Numba compiles for this tier and nothing above it."""
    name, features = CPUS[tier]
    return {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in features)}


def run_module(environment: dict[str, str], *arguments: str) -> str:
    """What `python -m ARGUMENTS` prints; it must succeed."""
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_kernel_tests(environment: dict[str, str], kernels: str, skipped: set[str]) -> None:
    """Run the other files of this folder: every test must pass there but those named, on those kernels."""
    left_out = LEFT_OUT if environment is INTERPRETED else LEFT_OUT | LEFT_OUT_COMPILED
    files = [path for path in sorted(FOLDER.glob("test_*.py")) if path.name not in left_out]
    output = run_module(
        environment,
        *("pytest", "-rA", "-o", "addopts=", "-p", "no:cacheprovider", *map(str, files)),
    )
    assert f"kernels: {kernels}\n" in output
    written = {name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}
    passed = set(re.findall(r"^PASSED \S+::(test_\w+)", output, re.M))
    assert written - passed == skipped
    counted = re.search(r"(\d+) passed", output)
    assert counted and int(counted[1]) >= len(passed) > 0


def test_interpreted() -> None:
    run_kernel_tests(INTERPRETED, "interpreted", ONLY_COMPILED)


@pytest.mark.skipif(TIER is GENERIC, reason="every other test here runs the generic tier")
def test_generic_tier() -> None:
    run_kernel_tests(compiled_for(GENERIC), "generic", set())


@pytest.mark.skipif(TIER is not AVX512_BF16, reason=f"this machine's own tier is {TIER.name}")
def test_avx512_vnni_tier() -> None:
    run_kernel_tests(compiled_for(AVX512_VNNI), "avx512-vnni", set())


@pytest.mark.skipif(
    TIER not in (AVX512_BF16, AVX512_VNNI, AVX_VNNI), reason=f"this machine's own tier is {TIER.name}"
)
def test_avx2_tier() -> None:
    run_kernel_tests(compiled_for(AVX2), "avx2", set())


@pytest.mark.parametrize("case", ["gemma3", "qwen2", "bailing_moe_v2", "qwen2_moe", "qwen3_next"])
def test_a_model_interpreted(case: str, tmp_path: Path) -> None:
    """The whole path from spans to logits in NumPy, on one thread and on two, against the compiled one."""
    path = golden_pack(case, tmp_path)
    run_module(INTERPRETED, "tests.engine.short_run", str(path), str(tmp_path / "logits.npz"))
    with np.load(tmp_path / "logits.npz") as interpreted:
        for kind in KINDS:
            for index, logits in enumerate(short_logits(path, kind, 1, kernels_folder())):
                other = interpreted[f"{kind} {index}"]
                # A last bit that differs may round another way to bfloat16 or int8.
                np.testing.assert_allclose(other, logits, rtol=0, atol=5e-4 * float(logits.std()))


def test_both_modes_have_one_vocabulary() -> None:
    script = "import json, sampan.kernels.simd as simd; print(json.dumps(sorted(simd.__all__)))"
    names = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(names) == sorted(emulation.__all__)


@pytest.mark.parametrize("tier", CPUS, ids=lambda tier: tier.name)
def test_tiers_are_chosen_by_features(tier: Tier) -> None:
    features = frozenset(CPUS[tier][1])
    machines = ("aarch64", "arm64") if tier is NEON_DOTPROD else ("x86_64", "AMD64")
    for machine in machines:
        assert select_tier(features, machine) is tier
        for feature in NEEDED[tier]:
            assert select_tier(features - {feature}, machine) is not tier
    assert select_tier(features, "riscv64") is GENERIC


def has_target(triple: str) -> bool:
    llvm.initialize_all_targets()
    try:
        llvm.Target.from_triple(triple)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(
    ("tier", "machine", "dot", "register"),
    [
        (AVX512_BF16, "x86_64", "vpdpbusd", "%zmm"),
        (AVX512_VNNI, "x86_64", "vpdpbusd", "%zmm"),
        (AVX_VNNI, "x86_64", "vpdpbusd", "%ymm"),
        (AVX2, "x86_64", "vpmaddubsw", "%ymm"),
        (NEON_DOTPROD, "aarch64", "sdot", ".4s"),
    ],
    ids=["avx512-bf16", "avx512-vnni", "avx-vnni", "avx2", "neon-dotprod"],
)
def test_machine_code_of_the_tiles(tier: Tier, machine: str, dot: str, register: str) -> None:
    """For CPUs that this machine need not have: the tier's dot product in its widest registers, no calls."""
    triple = f"{machine}-unknown-linux-gnu"
    if not has_target(triple):
        pytest.skip(f"this LLVM cannot compile for {triple}")
    report = json.loads(run_module(compiled_for(tier), "tests.kernels.tile_assembly", triple, machine))
    assert report["tier"] == tier.name
    assert report["kernels"].keys() == {
        f"{name} {bits} bits {height} x {width}"
        for name in MATRIX_FORMATS
        for bits in (8, 15)
        for height, width in tile_shapes(tier)
    }
    for name, found in report["kernels"].items():
        products = [text for text in found["dots"] if text.startswith(dot)]
        assert len(products) >= int(name.split()[-1]) * int(name.split()[-3]), name
        assert all(register in text for text in found["dots"]), name
        assert not found["calls"], name
        assert found["loop_instructions"] > 0, name
        print(f"{tier.name} {name}: {found['loop_instructions']} instructions in loops, "
              f"{found['loop_stack_moves']} vector moves to and from the stack")  # fmt: skip
