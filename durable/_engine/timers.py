"""One heap of due instants and one armed callback.

Durations are measured on the boot clock, so that they neither end early nor twice when
the wall clock is set; instants (`until`) on the wall clock. Nothing is armed while
nothing is due; while something is, no single timer is longer than the clock's tick, so
that a suspended laptop or a changed clock is noticed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from durable._base.clock import Clock, Timer

# Instants are whole microseconds, but seconds of the boot clock are floats: a sum of two
# may lie beside its instant, and an alarm that is due must not find itself too early.
_ROUNDING_SECONDS = 0.4e-6


class Alarm:
    """One due instant; `cancel` is idempotent and cheap."""

    __slots__ = ("callback", "deadline", "order", "owner")

    def __init__(
        self, deadline: float, order: int, callback: Callable[[], None], owner: _Heap
    ) -> None:
        self.deadline = deadline
        self.order = order
        self.callback: Callable[[], None] | None = callback
        self.owner = owner

    def __lt__(self, other: Alarm) -> bool:
        return (self.deadline, self.order) < (other.deadline, other.order)

    def cancel(self) -> None:
        """Call the alarm off."""
        if self.callback is not None:
            self.callback = None
            self.owner.forget()


class _Heap:
    """Alarms on one clock; cancelled ones are swept once they are the majority."""

    def __init__(self) -> None:
        self.alarms: list[Alarm] = []
        self._dead = 0

    def forget(self) -> None:
        self._dead += 1
        if self._dead > 64 and 2 * self._dead > len(self.alarms):
            self.alarms = [alarm for alarm in self.alarms if alarm.callback is not None]
            heapq.heapify(self.alarms)
            self._dead = 0

    def first(self) -> float | None:
        """Return the earliest deadline that is still wanted."""
        while self.alarms and self.alarms[0].callback is None:
            heapq.heappop(self.alarms)
            self._dead -= 1
        return self.alarms[0].deadline if self.alarms else None

    def pop_due(self, now: float) -> Callable[[], None] | None:
        """Remove the earliest alarm that is due and return its callback."""
        first = self.first()
        if first is None or first > now + _ROUNDING_SECONDS:
            return None
        alarm = heapq.heappop(self.alarms)
        callback, alarm.callback = alarm.callback, None
        return callback


class Timers:
    """See the module's docstring. Deadlines are given as UTC microseconds."""

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._clock = clock
        self._loop = loop
        self._boot = _Heap()
        self._wall = _Heap()
        self._order = count()
        self._armed: Timer | None = None
        self._armed_for = 0.0
        self._closed = False

    def at(
        self,
        due_us: int,
        callback: Callable[[], None],
        *,
        absolute: bool = False,
        ends: float | None = None,
    ) -> Alarm:
        """Call `callback` once `due_us` has come.

        Args:
            due_us: UTC microseconds; the past means as soon as possible.
            callback: called on the loop.
            absolute: follow changes of the wall clock instead of counting time from now.
            ends: the same instant by the boot clock, where it is known from the time when
                somebody asked for it; the wall clock may have been set since.
        """
        heap = self._wall if absolute else self._boot
        deadline = float(due_us)
        if not absolute:
            now = self._clock.boot()
            deadline = now + (due_us - self._clock.wall_us()) / 1e6 if ends is None else ends
        alarm = Alarm(deadline, next(self._order), callback, heap)
        heapq.heappush(heap.alarms, alarm)
        if heap.first() == deadline:  # none is earlier; the wall clock may have been set since
            self._arm()
        return alarm

    def _arm(self) -> None:
        if self._closed:
            return
        boot, wall = self._boot.first(), self._wall.first()
        now = self._clock.boot()
        delays = [] if boot is None else [boot - now]
        if wall is not None:
            delays.append((wall - self._clock.wall_us()) / 1e6)
        if not delays:
            self._disarm()
            return
        delay = max(0.0, min(*delays, self._clock.tick_seconds_max))
        if self._armed is not None and self._armed_for <= now + delay:
            return  # an earlier look is under way and will arm the next one
        self._disarm()
        self._armed_for = now + delay
        self._armed = self._clock.call_later(self._loop, delay, self._look)

    def _disarm(self) -> None:
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None

    def _look(self) -> None:
        self._armed = None
        try:
            while (callback := self._boot.pop_due(self._clock.boot())) is not None:
                callback()
            while (callback := self._wall.pop_due(self._clock.wall_us())) is not None:
                callback()
        finally:
            self._arm()

    def close(self) -> None:
        """Fire nothing any more."""
        self._closed = True
        self._disarm()
