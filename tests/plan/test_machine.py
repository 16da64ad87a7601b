"""Counting cores and memory, over made-up /sys and /proc trees and on the machine itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sampan.plan import machine


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def cores(system: Path, siblings: dict[int, str], allowed: set[int]) -> int:
    for cpu, text in siblings.items():
        write(system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", text + "\n")
    return machine._physical_cores(system, allowed)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS tells its cores through sysctl")
def test_sibling_threads_are_one_core(tmp_path: Path) -> None:
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    assert cores(tmp_path, siblings, {0, 1, 2, 3}) == 2
    assert cores(tmp_path, siblings, {0, 2}) == 1
    assert cores(tmp_path, siblings, {3}) == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS tells its cores through sysctl")
def test_without_topology_every_cpu_is_a_core(tmp_path: Path) -> None:
    assert machine._physical_cores(tmp_path, {0, 1, 5}) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000", None),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("", None),
        ("1 0", None),
        ("x y", None),
    ],
)
def test_cpu_quota_of_a_container(tmp_path: Path, text: str, expected: int | None) -> None:
    write(tmp_path / "cpu.max", text)
    assert machine._cgroup_cpus(tmp_path) == expected
    assert machine._cgroup_cpus(tmp_path / "missing") is None


def test_threads_respect_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_physical_cores", lambda *_: 16)
    for quota, expected in ((None, 16), (4, 4), (32, 16)):
        monkeypatch.setattr(machine, "_cgroup_cpus", lambda _, quota=quota: quota)
        assert machine.default_threads() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and control groups")
def test_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    write(tmp_path / "meminfo", f"MemTotal: {9 * 2**20} kB\nMemAvailable:   {8 * 2**20} kB\n")
    write(tmp_path / "cpuinfo", "processor\t: 0\nmodel name\t: Test CPU 3000\n")
    monkeypatch.setattr(machine, "_PROCESS", tmp_path)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.available_memory() == 8 * gib
    assert machine.cpu_name() == "Test CPU 3000"
    write(tmp_path / "memory.max", f"{4 * gib}\n")
    write(tmp_path / "memory.current", f"{3 * gib}\n")
    assert machine.available_memory() == gib
    write(tmp_path / "memory.stat", f"anon 5\ninactive_file {gib // 2}\n")
    assert machine.available_memory() == gib * 3 // 2
    assert machine.total_memory() <= 4 * gib
    write(tmp_path / "memory.max", "max\n")
    assert machine.available_memory() == 8 * gib


def test_this_machine() -> None:
    assert machine.default_threads() >= 1
    assert machine.cpu_name()
    assert 0 < machine.available_memory() <= machine.total_memory()


def test_peak_memory_counts_this_process() -> None:
    before = machine.peak_memory()
    ballast = bytearray(b"x") * (64 * 2**20)
    assert machine.peak_memory() >= before
    assert machine.peak_memory() > len(ballast)
