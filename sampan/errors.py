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


class ContextError(RequestError):
    """A prompt, or a prompt and the answer it may have, that is longer than the context."""


class ParameterError(RequestError):
    """A request whose parameter `parameter` (its name in the API) has a bad value or is not supported."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class QueueFullError(RequestError):
    """More requests wait than may wait. `retry_after_s`: seconds after which there will likely be room."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(
            f"{waiting} requests are waiting already, as many as may; try again in {retry_after_s:.0f} s"
        )
        self.retry_after_s = retry_after_s


class ConfigurationError(SampanError):
    """A setting of the server that has a bad value, or that does not exist."""

    exit_code = 2


class RequestTooLargeError(RequestError):
    """A request with more bytes than the server takes."""


class RequestTimeoutError(RequestError):
    """A request whose bytes did not arrive in time."""


class AuthenticationError(SampanError):
    """A request to the server without a valid API key."""


class ForbiddenError(SampanError):
    """A request to the server by a name or from a web page that it does not answer."""


class ModelBusyError(SampanError):
    """A model that cannot be unloaded, because it serves requests."""


class UnavailableError(SampanError):
    """The server takes no request now: it starts, is about to stop, or has as many as it may have.

    `retry_after_s`: when to try again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class MachineError(SampanError):
    """This machine lacks what was asked for, such as memory or an instruction set."""
