"""What steps cost, learned as they run: how much of a prompt a step may take without stopping its streams."""

from __future__ import annotations

# A step beside which prompts are read may last so many times as long as one without.
_LONGEST_STEP = 2.0
# Prompt tokens that a step takes in any case, so that no prompt waits for ever.
_FEWEST = 4
# Steps with prompts between two without, which tell what decoding alone costs now.
_MEASURE_EVERY = 32
# Per observation, how much of what earlier ones count is kept.
_KEPT = 0.95
_RIDGE = 1e-6


class RecentFit:
    """seconds = a * x + b * y by least squares over recent observations, the older the less they count.

    Where these do not tell x from y, what both explain is given to the larger one.
    """

    def __init__(self) -> None:
        self._xx = self._xy = self._yy = self._xs = self._ys = 0.0

    @property
    def known(self) -> bool:
        """Whether there was an observation."""
        return self._xx > 0

    def observe(self, x: float, y: float, seconds: float) -> None:
        """Add one."""
        self._xx = _KEPT * self._xx + x * x
        self._xy = _KEPT * self._xy + x * y
        self._yy = _KEPT * self._yy + y * y
        self._xs = _KEPT * self._xs + x * seconds
        self._ys = _KEPT * self._ys + y * seconds

    def seconds(self, x: float, y: float) -> float:
        """What is expected, never less than nothing."""
        ridge = _RIDGE * (self._xx + self._yy)
        xx, yy = self._xx + ridge, self._yy + ridge
        determinant = xx * yy - self._xy * self._xy
        a = (self._xs * yy - self._ys * self._xy) / determinant
        b = (self._ys * xx - self._xs * self._xy) / determinant
        if b < 0:
            a, b = self._xs / xx, 0.0
        elif a < 0:
            a, b = 0.0, self._ys / yy
        return max(a * x + b * y, 0.0)


class StepCosts:
    """Seconds of decoding, by the number of sequences, and of prompt tokens beside it, by their number and
    positions: attention reads all earlier keys, so that a token costs the more the further on it is.
    """

    def __init__(self) -> None:
        self._decoding = RecentFit()
        self._prompt = RecentFit()
        self._most_seen = 0
        self._since_measured = 0

    def prompt_room(self, decoding: int, position: float) -> int:
        """How many prompt tokens, at `position` on average, the next step may take beside `decoding`
        sequences.

        0 where what decoding alone costs has to be measured first.
        """
        if not self._decoding.known or self._since_measured >= _MEASURE_EVERY:
            return 0
        if not self._prompt.known:
            return _FEWEST
        budget = (_LONGEST_STEP - 1) * self._decoding.seconds(*_decoding_terms(decoding))
        token = self._prompt.seconds(*_prompt_terms(1, position))
        # A few tokens may cost next to nothing while memory is the limit, and that says nothing about many.
        most = 2 * self._most_seen
        return max(int(min(budget / token, most)) if token > 0 else most, _FEWEST)

    def observe(self, decoding: int, prompt: int, position: float, seconds: float) -> None:
        """A step took so long, with `prompt` tokens of prompts at `position` on average."""
        if prompt == 0:
            self._decoding.observe(*_decoding_terms(decoding), seconds)
            self._since_measured = 0
        elif decoding > 0 and self._decoding.known:
            alone = self._decoding.seconds(*_decoding_terms(decoding))
            self._prompt.observe(*_prompt_terms(prompt, position), max(seconds - alone, 0.0))
            self._most_seen = max(self._most_seen, prompt)
            self._since_measured += 1


def _decoding_terms(decoding: int) -> tuple[float, float]:
    """Most of a step is reading the weights, whoever decodes; see `RecentFit` for the scale."""
    return 1.0, decoding / 32


def _prompt_terms(tokens: int, position: float) -> tuple[float, float]:
    return tokens, tokens * position / 4096
