"""What a quantization is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sampan.errors import RequestError

if TYPE_CHECKING:
    from sampan.quantize.methods import RoundingMethod

QuantizeBits = Literal[4, 8, "auto"]


@dataclass(frozen=True)
class QuantizeSettings:
    """How a checkpoint becomes a smaller pack.

    `bits`: 4 or 8 for every matrix that is not protected, or "auto": each matrix what it needs, so that the
    pack has at most `size` bytes. `calibrate`: whether the weights are rounded for the activations that the
    calibration texts cause; None is yes, but no at 8 bits, which are rounded to nearest. `texts`: UTF-8 files
    in place of the texts that ship with Sampan. `max_tokens`: at most so many of their tokens are read, from
    each text about as many; None is `texts.default_tokens`. `compensate`: whether later weights of a row make
    up for the errors in earlier ones; None is yes with calibration. `threads`: None is one per physical core.
    """

    bits: QuantizeBits = 4
    size: int | None = None
    texts: tuple[Path, ...] = ()
    calibrate: bool | None = None
    max_tokens: int | None = None
    compensate: bool | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, "auto"):
            raise RequestError(f"bits must be 4, 8 or auto, not {self.bits!r}")
        if self.bits == "auto" and self.size is None:
            raise RequestError("bits auto needs a size, such as 3GiB, to choose formats for")
        if self.bits != "auto" and self.size is not None:
            raise RequestError(
                f"size is for bits auto; with {self.bits} bits the size follows from the model"
            )
        for name, value in (("size", self.size), ("max_tokens", self.max_tokens), ("threads", self.threads)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise RequestError(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.bits == 8 and (self.texts or self.calibrate or self.compensate):
            raise RequestError(
                "8 bits are rounded to nearest, which no text makes better: leave out calibration"
            )
        if self.calibrate is False:
            for what, asked in (("texts", self.texts), ("compensation", self.compensate)):
                if asked:
                    raise RequestError(f"{what} and no calibration are two different things; leave out one")
            if self.bits == "auto":
                raise RequestError("bits auto measures on text what each format costs: it needs calibration")

    @property
    def calibrated(self) -> bool:
        """Whether texts are read."""
        return self.bits != 8 and self.calibrate is not False

    @property
    def method(self) -> RoundingMethod:
        """How matrices are rounded."""
        return "compensate" if self.calibrated and self.compensate is not False else "search"
