"""`sampan.quantize(...)`: what `sampan quantize` does, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.errors import RequestError
from sampan.quantize.settings import QuantizeBits, QuantizeSettings

if TYPE_CHECKING:
    from sampan.hub.home import Progress
    from sampan.quantize.report import QuantizeReport


def quantize(
    source: str | Path,
    out: str | Path,
    *,
    bits: QuantizeBits | None = None,
    size: int | str | None = None,
    texts: Sequence[str | Path] = (),
    calibrate: bool | None = None,
    max_tokens: int | None = None,
    compensate: bool | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Make the pack `out` of a model, and its report beside it.

    `source`: as for `sampan.load`, but no pack. `bits`: 4, 8 or "auto"; None is 4, or "auto" with a `size`.
    `size`: most bytes of the pack, or a text such as "3GiB". `texts`: UTF-8 files to calibrate with in place
    of those that ship with Sampan. `force`: whether an existing `out` is replaced, once the new one is whole.
    The rest is as for `QuantizeSettings`. What was interrupted goes on when the same is asked for again.
    `progress` is called with (what, done, in all).

    Raises SampanError; RequestError for a size that no mix of formats reaches, which says the smallest.
    """
    if bits is None:
        bits = 4 if size is None else "auto"
    settings = QuantizeSettings(
        bits=bits,
        size=size_in_bytes(size) if isinstance(size, str) else size,
        texts=tuple(Path(text) for text in ([texts] if isinstance(texts, str | Path) else texts)),
        calibrate=calibrate,
        max_tokens=max_tokens,
        compensate=compensate,
        threads=threads,
    )
    from sampan.quantize.pipeline import quantize_model

    return quantize_model(str(source), Path(out), settings, force=force, progress=progress)


def size_in_bytes(text: str) -> int:
    """The bytes that a text such as 3GiB or 800MB stands for. RequestError for any other."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise RequestError(f"a size is a number with a unit, such as 3GiB or 800MB, not {text!r}") from error
