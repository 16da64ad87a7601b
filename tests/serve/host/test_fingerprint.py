"""A fingerprint tells whether two answers can differ for another reason than their requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

import sampan
from sampan.serve.host.fingerprint import fingerprint


@pytest.mark.usefixtures("in_shared_home")
def test_a_fingerprint_is_that_of_weights_and_precision(tiny_folder: Path, sparse_folder: Path) -> None:
    def of(folder: Path, kv: Literal["bf16", "int8"] = "bf16", **options: Any) -> str:
        with sampan.load(folder, threads=1, kv_dtype=kv, **options) as model:
            return fingerprint(model)

    first = of(tiny_folder)
    assert first == of(tiny_folder, context=100, sequences=2)
    assert len({first, of(tiny_folder, "int8"), of(sparse_folder)}) == 3
