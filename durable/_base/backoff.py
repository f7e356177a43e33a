"""How long to wait before the next attempt of a step.

Owns `Backoff`, an immutable description and a pure function of the attempt number and
a draw between 0 and 1. The draw comes from outside, so that a delay can be recorded,
tested and simulated.

Does not sleep, draw or count attempts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import cast

from durable._base.duration import parse_duration

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing pauses between the attempts of a step.

    The pause after attempt *n* is ``initial * factor ** (n - 1)`` seconds, at most
    `max`, shortened by a random share of up to `jitter` so that many runs that failed
    together do not come back together.

    Args:
        initial: after the first attempt: seconds, a `timedelta` or text such as ``"500ms"``,
            which are kept as seconds. Default 1.
        factor: growth per attempt, at least 1. Default 2; 1 gives equal pauses.
        max: longest pause, likewise; not below `initial`. Default 60.
        jitter: largest share taken off, 0 (none) to 1. Default 0.5.

    Raises:
        ValueError: a number is out of its range (`DurationError` for the seconds).

    Example:
        ``@step(max_retries=5, backoff=Backoff(initial=0.2, max=10))``
    """

    initial: float | timedelta | str = 1.0
    factor: float = 2.0
    max: float | timedelta | str = 60.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        for name in ("initial", "max"):
            us = parse_duration(getattr(self, name), what=f"Backoff.{name}")
            if isinstance(getattr(self, name), (str, timedelta)):
                object.__setattr__(self, name, us / 1e6)
        _check_range("factor", self.factor, 1.0, math.inf)
        _check_range("jitter", self.jitter, 0.0, 1.0)
        for field in fields(self):
            # Floats throughout: an int factor would make attempt 10**6 a giant number.
            object.__setattr__(self, field.name, float(getattr(self, field.name)))
        first, longest = self._seconds
        if longest < first:
            raise ValueError(
                f"Backoff.max={longest:g} is below initial={first:g}; "
                "raise max or lower initial (both are seconds)"
            )

    @property
    def _seconds(self) -> tuple[float, float]:
        return cast("tuple[float, float]", (self.initial, self.max))

    def delay(self, attempt: int, draw: float) -> float:
        """Seconds to wait after the failed attempt number `attempt` (from 1).

        Args:
            attempt: any number from 1; large ones cost nothing.
            draw: a random number from 0 up to, not including, 1.
        """
        return self._full(attempt) * (1.0 - self.jitter * draw)

    def _full(self, attempt: int) -> float:
        first, longest = self._seconds
        if not first:
            return 0.0
        try:
            return min(longest, first * self.factor ** (attempt - 1))
        except OverflowError:
            return longest


def _check_range(name: str, value: object, low: float, high: float) -> None:
    number = math.nan if isinstance(value, bool) else value
    if not isinstance(number, (int, float)) or not low <= number <= high or number == math.inf:
        limit = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"Backoff.{name}={value!r:.80} is out of range; use a number {limit}")
