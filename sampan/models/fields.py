"""Typed, bounded reads of a stranger's metadata, with a record of what was read.

Both a GGUF header and a Hugging Face config.json are maps from keys to untrusted values. A family reads each
key it understands through `Fields`; whatever is left unread at the end could change the model's mathematics,
so `finish` refuses it by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

import numpy as np

from sampan.errors import FormatError, UnsupportedError

Value = TypeVar("Value")


class _Required:
    """Marks a key without a default."""


REQUIRED: Final = _Required()
_NAMES_SHOWN = 5


def shown(names: Iterable[str]) -> str:
    """The first few of `names`, sorted, and how many more there are: for one-line error messages."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMES_SHOWN} more" if len(ordered) > _NAMES_SHOWN else ""
    return ", ".join(f"{name!r}" for name in ordered[:_NAMES_SHOWN]) + more


class Fields:
    """A view of `values` whose keys all start with `prefix`; None counts as absent, as in config.json.

    `where` names the file in errors. Every read raises FormatError on a missing required key, a wrong type
    (a bool is never a number) or a value outside its bounds.
    """

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self._values = values
        self.where = where
        self._prefix = prefix
        self._seen: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether `key` has a value. Does not count as reading it."""
        return self._values.get(self._prefix + key) is not None

    def peek(self, key: str) -> Any:
        """The raw value of `key` or None, unchecked. Does not count as reading it."""
        return self._values.get(self._prefix + key)

    def was_read(self, key: str) -> bool:
        """Whether `key` has been read or ignored."""
        return key in self._seen

    def error(self, key: str, problem: str) -> FormatError:
        """A FormatError about one key."""
        return FormatError(f"{self.where}: {self._prefix}{key} {problem}")

    def unsupported(self, key: str, problem: str) -> UnsupportedError:
        """An UnsupportedError about one key."""
        return UnsupportedError(f"{self.where}: {self._prefix}{key} {problem}")

    def _read(self, key: str, default: Value | _Required) -> Any:
        self._seen.add(key)
        value = self._values.get(self._prefix + key)
        if value is not None:
            return value
        if isinstance(default, _Required):
            raise FormatError(f"{self.where}: {self._prefix}{key} is missing")
        return default

    def integer(self, key: str, minimum: int, maximum: int, default: int | _Required = REQUIRED) -> int:
        """An integer in minimum..maximum."""
        value = self._read(key, default)
        if _is_bool(value) or not isinstance(value, int | np.integer):
            raise self.error(key, f"must be an integer, is {_described(value)}")
        if not minimum <= value <= maximum:
            raise self.error(key, f"is {_described(value)}, must be in {minimum}..{maximum}")
        return int(value)

    def number(
        self, key: str, minimum: float, maximum: float, default: float | _Required = REQUIRED
    ) -> float:
        """A finite number in minimum..maximum; integers are accepted, as JSON writes 10000.0 as 10000."""
        value = self._read(key, default)
        if _is_bool(value) or not isinstance(value, int | float | np.integer | np.floating):
            raise self.error(key, f"must be a number, is {_described(value)}")
        if not minimum <= value <= maximum:  # also refuses NaN
            raise self.error(key, f"is {_described(value)}, must be in {minimum:g}..{maximum:g}")
        return float(value)

    def boolean(self, key: str, default: bool | _Required = REQUIRED) -> bool:
        """A bool; 0 and 1 are not accepted."""
        value = self._read(key, default)
        if not _is_bool(value):
            raise self.error(key, f"must be true or false, is {_described(value)}")
        return bool(value)

    def string(self, key: str, default: str | _Required = REQUIRED) -> str:
        """A string of at most 1,024 characters."""
        value = self._read(key, default)
        if not isinstance(value, str) or len(value) > 1024:
            raise self.error(key, f"must be a short string, is {_described(value)}")
        return value

    def one_of(self, *keys: str) -> str:
        """The first of these names of one thing that has a value, else the first; the others, where given,
        must say the same.
        """
        chosen = next((key for key in keys if self.has(key)), keys[0])
        for key in keys:
            if key != chosen:
                self.only(key, self.peek(chosen))
        return chosen

    def numbers(self, key: str, count: int, minimum: float, maximum: float) -> tuple[float, ...]:
        """Exactly `count` finite numbers, each in minimum..maximum."""
        value = self._read(key, REQUIRED)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list | tuple) or len(value) != count:
            raise self.error(key, f"must be a list of {count} numbers, is {_described(value)}")
        for item in value:
            if _is_bool(item) or not isinstance(item, int | float) or not math.isfinite(item):
                raise self.error(key, f"must hold finite numbers, holds {_described(item)}")
            if not minimum <= item <= maximum:
                raise self.error(key, f"holds {_described(item)}, must be in {minimum:g}..{maximum:g}")
        return tuple(float(item) for item in value)

    def integers(self, key: str, minimum: int, maximum: int) -> tuple[int, ...]:
        """Integers in minimum..maximum, none where the key is absent."""
        value = self._read(key, ())
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list | tuple) or any(type(item) is not int for item in value):
            raise self.error(key, f"must be a list of integers, is {_described(value)}")
        for item in value:
            if not minimum <= item <= maximum:
                raise self.error(key, f"holds {item}, must be in {minimum}..{maximum}")
        return tuple(value)

    def strings(self, key: str, maximum: int) -> list[str]:
        """A list of at most `maximum` strings."""
        value = self._read(key, REQUIRED)
        if (
            not isinstance(value, list)
            or len(value) > maximum
            or not all(type(item) is str for item in value)
        ):
            raise self.error(key, f"must be a list of at most {maximum} strings, is {_described(value)}")
        return value

    def choices(self, key: str, count: int, allowed: Iterable[Value]) -> list[Value]:
        """A list of exactly `count` values, each one of `allowed` (strings, or bools)."""
        value = self._read(key, REQUIRED)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list | tuple) or len(value) != count:
            raise self.error(key, f"must be a list of {count} values, is {_described(value)}")
        options = list(allowed)
        for item in value:
            if not any(_is_bool(item) == _is_bool(option) and item == option for option in options):
                names = " or ".join(repr(option) for option in options)
                raise self.unsupported(key, f"holds {_described(item)}; only {names} is supported")
        return list(value)

    def group(self, key: str) -> Fields | None:
        """A nested object as its own `Fields` (to be finished by the caller), or None when absent."""
        value = self._read(key, None)
        if value is None:
            return None
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise self.error(key, f"must be an object, is {_described(value)}")
        return Fields(value, f"{self.where}: {self._prefix}{key}")

    def only(self, key: str, *allowed: Any) -> None:
        """Accept an absent key or one of the `allowed` values; anything else is an UnsupportedError."""
        value = self._read(key, None)
        if value is None or any(
            _is_bool(value) == _is_bool(choice) and value == choice for choice in allowed
        ):
            return
        choices = " or ".join(repr(choice) for choice in allowed) or "absent"
        raise self.unsupported(key, f"is {_described(value)}; only {choices} is supported")

    def ignore(self, *keys: str) -> None:
        """Count keys as read that cannot change the logits."""
        self._seen.update(keys)

    def finish(self) -> None:
        """Raise UnsupportedError naming the keys nobody read."""
        unread = [
            key
            for key, value in self._values.items()
            if key.startswith(self._prefix)
            and value is not None
            and key.removeprefix(self._prefix) not in self._seen
        ]
        if unread:
            raise UnsupportedError(
                f"{self.where}: {shown(unread)} may change the model's results, "
                "and this version of Sampan does not know how"
            )


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _described(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return f"a list of {len(value)}"
    text = repr(value) if not isinstance(value, dict) else "an object"
    return text if len(text) <= 60 else text[:57] + "..."
