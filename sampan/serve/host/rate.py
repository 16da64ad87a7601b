"""How many tokens a second, over the last seconds."""

from __future__ import annotations

from collections import deque

WINDOW_S = 5.0
_SLICE_S = 0.25


class TokenRate:
    """Counts tokens in slices of time; times are by `time.monotonic()`."""

    def __init__(self) -> None:
        self._slices: deque[tuple[int, int]] = deque()

    def add(self, count: int, now: float) -> None:
        """Count tokens that were written now."""
        index = int(now / _SLICE_S)
        if self._slices and self._slices[-1][0] == index:
            self._slices[-1] = (index, self._slices[-1][1] + count)
            return
        self._slices.append((index, count))
        self._drop_old(index)

    def per_second(self, now: float) -> float:
        """Tokens per second over the last `WINDOW_S` seconds."""
        self._drop_old(int(now / _SLICE_S))
        return sum(count for _, count in self._slices) / WINDOW_S

    def _drop_old(self, index: int) -> None:
        while self._slices and self._slices[0][0] <= index - WINDOW_S / _SLICE_S:
            self._slices.popleft()
