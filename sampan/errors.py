"""Every error Sampan raises on purpose. The CLI prints the message as one line and exits with `exit_code`.

A message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class SampanError(Exception):
    """Base of all expected failures: bad input, a missing file, a limit. Never a bug in Sampan."""

    exit_code = 1


class ModelReferenceError(SampanError):
    """A model reference that cannot be parsed or resolved."""

    exit_code = 2


class DownloadError(SampanError):
    """A model could not be fetched, or what came does not match its checksum."""


class FormatError(SampanError):
    """A model file is truncated, damaged, hostile, or not what its name says."""


class UnsupportedError(SampanError):
    """A valid file that needs what Sampan does not have: an architecture, a tensor type, a config key."""


class StorageError(SampanError):
    """The disk is full, a cache file cannot be written, or another process holds it."""


class RequestError(SampanError):
    """A generation request that cannot be honoured: empty prompt, too long for the context, a bad option."""

    exit_code = 2


class QueueFullError(RequestError):
    """More requests wait than may wait. `retry_after_s`: seconds after which there will likely be room."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(
            f"{waiting} requests are waiting already, as many as may; try again in {retry_after_s:.0f} s"
        )
        self.retry_after_s = retry_after_s


class MachineError(SampanError):
    """This machine lacks what was asked for, such as memory or an instruction set."""
