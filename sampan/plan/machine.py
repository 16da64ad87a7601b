"""What this machine is: cores and memory, and how its limits are reported."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_SYSTEM = Path("/sys")
_PROCESS = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MachineReport:
    """The CPU, the instruction set the kernels run in, and the limits of `threads` threads on it.

    `read_gb_s`: 10^9 bytes per second of a bare read loop; `int8_gops`: 10^9 int8 multiplies and adds per
    second of a bare dot-product loop.
    """

    cpu: str
    tier: str
    threads: int
    read_gb_s: float
    int8_gops: float

    def to_dict(self) -> dict[str, Any]:
        """As `sampan bench --json` prints it."""
        return asdict(self)


def default_threads() -> int:
    """Physical cores this process may use: a second thread on a core shares its vector units."""
    cores = _physical_cores(_SYSTEM, _allowed_cpus())
    quota = _cgroup_cpus(_CGROUP)
    return max(1, cores if quota is None else min(cores, quota))


def cpu_name() -> str:
    """The processor's marketing name, or its architecture where the system does not tell."""
    try:
        for line in (_PROCESS / "cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware") and value.strip():
                return value.strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def total_memory() -> int:
    """Bytes of memory this process may ever use: the machine's, or its control group's if that is less."""
    if sys.platform == "win32":
        return _windows_memory()[0]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read_integer(_CGROUP / "memory.max")
    return total if limit is None else min(total, limit)


def available_memory() -> int:
    """Bytes of memory this process can still take without swapping, file cache counted as free."""
    if sys.platform == "win32":
        return _windows_memory()[1]
    available = _kilobytes(_PROCESS / "meminfo", "MemAvailable")
    if available is None:
        available = total_memory()
    limit, used = _read_integer(_CGROUP / "memory.max"), _read_integer(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        cache = _statistic(_CGROUP / "memory.stat", "inactive_file")
        available = min(available, max(0, limit - used + cache))
    return available


def anonymous_memory() -> int:
    """Bytes of memory this process holds that no file backs; where the system tells only the most it has
    held, that.
    """
    anonymous = _kilobytes(_PROCESS / "self/status", "RssAnon")
    return peak_memory() if anonymous is None else anonymous


def peak_memory() -> int:
    """Most bytes of memory this process has held at once."""
    if sys.platform == "win32":
        return _windows_peak_memory()
    # Linux hands getrusage's figure on from the process that started this one.
    peak = _kilobytes(_PROCESS / "self/status", "VmHWM")
    if peak is not None:
        return peak
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _physical_cores(system: Path, allowed: set[int]) -> int:
    """Cores behind the allowed logical CPUs; the slow cores of a hybrid Apple chip are left out."""
    if sys.platform == "darwin":
        return int(_sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or len(allowed))
    cores = set()
    for cpu in allowed:
        topology = system / f"devices/system/cpu/cpu{cpu}/topology"
        try:
            cores.add((topology / "thread_siblings_list").read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def _cgroup_cpus(group: Path) -> int | None:
    """Whole CPUs that the control group's quota allows, at least 1; None without a quota."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else max(1, round(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _read_integer(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int:
    try:
        fields = dict(line.split() for line in path.read_text().splitlines())
        return int(fields[name])
    except (OSError, ValueError, KeyError):
        return 0


def _kilobytes(path: Path, name: str) -> int | None:
    """The bytes that a line `name: N kB` of one of the kernel's tables tells."""
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _sysctl(name: str) -> str | None:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _windows_memory() -> tuple[int, int]:
    """(total, available) bytes, from GlobalMemoryStatusEx."""

    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *((name, ctypes.c_uint64) for name in ("total", "available", "a", "b", "c", "d", "e")),
        ]

    status = Status()
    status.length = ctypes.sizeof(Status)
    windows = ctypes.windll  # type: ignore[attr-defined]
    windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.total), int(status.available)


def _windows_peak_memory() -> int:
    """From GetProcessMemoryInfo: PROCESS_MEMORY_COUNTERS.PeakWorkingSetSize."""

    class Counters(ctypes.Structure):
        _fields_ = [
            ("size", ctypes.c_uint32),
            ("faults", ctypes.c_uint32),
            *((name, ctypes.c_size_t) for name in ("peak", "now", "a", "b", "c", "d", "e", "f")),
        ]

    counters = Counters()
    counters.size = ctypes.sizeof(Counters)
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size)
    return int(counters.peak)
