"""Says which kernels a run tests."""

from __future__ import annotations

import numba

from sampan.kernels.tiers import TIER


def pytest_report_header() -> str:
    return f"kernels: {'interpreted' if numba.config.DISABLE_JIT else TIER.name}"
