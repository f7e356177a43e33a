"""What tests of durable code need: time under the test's control.

Owns `VirtualClock`, a clock that stands still until told to move. Hand it to a
runtime and a workflow that sleeps for a month is tested in a millisecond, without
a real wait and without patching:

    clock = VirtualClock()
    async with Runtime(path, clock=clock) as runtime:
        run = await runtime.start(monthly_report)
        await clock.advance(30 * 86400)
        assert await run.result() == "sent"

Invariants: time moves only in `advance`, `suspend` and `set_wall`; callbacks fire in
the order of their deadlines, equal deadlines in the order they were asked for, and
each sees both clocks standing at its own deadline.

Does not fake threads or the disk: work that runs elsewhere takes real time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable

from durable._base.clock import Timer

__all__ = ["VirtualClock", "settle"]

START_US = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z
_SETTLE_TURNS = 8  # loop turns given to whatever a callback set in motion


class _VirtualTimer:
    """One pending callback; ordered by deadline, then by the order of asking."""

    __slots__ = ("callback", "deadline", "loop", "order")

    def __init__(
        self,
        deadline: int,
        order: int,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[], object],
    ) -> None:
        self.deadline = deadline
        self.order = order
        self.loop = loop
        self.callback: Callable[[], object] | None = callback

    def __lt__(self, other: _VirtualTimer) -> bool:
        return (self.deadline, self.order) < (other.deadline, other.order)

    def cancel(self) -> None:
        self.callback = None

    def fire(self) -> None:
        # Looked at again on the loop: it may have been called off since it was queued.
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class VirtualClock:
    """A clock that moves only when told to; both its clocks begin fixed.

    The wall clock starts at 2024-01-01T00:00Z (or `wall_us`), the boot clock at 0.
    `tick_seconds_max` is infinite: nothing needs to look at a clock that cannot
    drift, so an idle runtime has no timers at all.

        clock = VirtualClock()
        fired = []
        clock.call_later(loop, 60, lambda: fired.append(clock.wall_us()))
        await clock.advance(60)
        assert fired == [clock.wall_us()]
    """

    tick_seconds_max: float = math.inf

    def __init__(self, wall_us: int = START_US) -> None:
        # Both are kept in whole microseconds, so that a hundred steps of 0.1 s are 10 s.
        self._wall_us = wall_us
        self._boot_us = 0
        self._timers: list[_VirtualTimer] = []
        self._order = itertools.count()

    def wall_us(self) -> int:
        """UTC microseconds since 1970."""
        return self._wall_us

    def boot(self) -> float:
        """Seconds since this clock was made, suspended time included."""
        return self._boot_us / 1e6

    @property
    def pending(self) -> int:
        """Callbacks that wait for their time; 0 means that nothing is armed."""
        return sum(timer.callback is not None for timer in self._timers)

    def call_later(
        self, loop: asyncio.AbstractEventLoop, delay_seconds: float, callback: Callable[[], object]
    ) -> Timer:
        """Run `callback` on `loop` once the clock has moved by `delay_seconds`.

        Even a delay of 0 waits for the next `advance`; `advance(0)` is enough.
        """
        # Rounded up: a callback must not find the clock short of its deadline.
        deadline = self._boot_us + math.ceil(round(max(0.0, delay_seconds) * 1e6, 3))
        timer = _VirtualTimer(deadline, next(self._order), loop, callback)
        heapq.heappush(self._timers, timer)
        return timer

    async def advance(self, seconds: float) -> None:
        """Move both clocks by `seconds`, firing what falls due on the way, in order.

        The clock stops at each deadline and lets the loop settle, so work that a
        callback sets in motion, new timers included, happens at that instant.

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        target = self._boot_us + _whole_us(seconds)
        await settle()
        while (timer := self._next_due(target)) is not None:
            # After a suspend the deadline lies behind: then it fires late, at once.
            self._move(max(0, timer.deadline - self._boot_us))
            timer.loop.call_soon_threadsafe(timer.fire)
            await settle()
        self._move(max(0, target - self._boot_us))
        await settle()

    def suspend(self, seconds: float) -> None:
        """Let `seconds` pass as on a sleeping laptop: both clocks move, nothing fires.

        What fell due meanwhile fires in the next `advance`, late, as in real life.
        """
        self._move(_whole_us(seconds))

    def set_wall(self, wall_us: int) -> None:
        """Jump the wall clock alone, as a time server or a user does."""
        self._wall_us = wall_us

    def _next_due(self, target: int) -> _VirtualTimer | None:
        while self._timers and self._timers[0].deadline <= target:
            timer = heapq.heappop(self._timers)
            # A closed loop never calls back; neither do we.
            if timer.callback is not None and not timer.loop.is_closed():
                return timer
        return None

    def _move(self, us: int) -> None:
        self._boot_us += us
        self._wall_us += us


async def settle(turns: int = _SETTLE_TURNS) -> None:
    """Yield to the loop `turns` times, so that what is ready has run.

    Covers chains of callbacks and futures on the loop, not threads or processes.
    """
    for _ in range(turns):
        await asyncio.sleep(0)


def _whole_us(seconds: float) -> int:
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"a clock moves forward by a finite time, got {seconds!r} seconds")
    return round(seconds * 1e6)
