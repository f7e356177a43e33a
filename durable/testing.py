"""What tests of durable code need: time under the test's control.

Owns `VirtualRuntime`, a runtime whose time stands still until told to move. A workflow
that sleeps for a month is tested in a millisecond, without a real wait or patching:

    async with VirtualRuntime(path) as runtime:
        run = await runtime.start(monthly_report)
        await runtime.advance("30 days")
        assert await run.result() == "sent"

and `VirtualClock`, the clock in it, which any other runtime takes as well. A `VirtualRuntime`
can also die like a process, and its disk, a `FaultyDisk`, fails when it is told to.

Invariants: time moves only in `advance`, `fast_forward`, `suspend` and `set_wall`;
callbacks fire in the order of their deadlines, equal deadlines in the order they were
asked for, and each sees both clocks standing at its own deadline.

Does not fake threads: work that runs elsewhere takes real time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from os import PathLike
from typing import Any
from weakref import WeakKeyDictionary

from durable._base.clock import Timer
from durable._base.duration import parse_duration
from durable._journal.faulty import FaultyDisk
from durable._surface import current, endings
from durable._surface.runtime import Runtime

__all__ = ["FaultyDisk", "VirtualClock", "VirtualRuntime", "settle"]

START_US = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z
_SETTLE_TURNS = 8  # loop turns given to whatever a callback set in motion
# How long a step may do nothing that we can see before time goes on without it.
_PATIENCE_SECONDS = 0.1
_LOOK_SECONDS = 0.001


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

    async def advance(
        self, seconds: float, *, settled: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Move both clocks by `seconds`, firing what falls due on the way, in order.

        The clock stops at each deadline and lets the loop settle, so work that a
        callback sets in motion, new timers included, happens at that instant.

        Args:
            seconds: how far.
            settled: awaited at each stop; default `settle`.

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        settled = settled or settle
        target = self._boot_us + _whole_us(seconds)
        await settled()
        while (timer := self._next_due(target)) is not None:
            # After a suspend the deadline lies behind: then it fires late, at once.
            self._move(max(0, timer.deadline - self._boot_us))
            timer.loop.call_soon_threadsafe(timer.fire)
            await settled()
        self._move(max(0, target - self._boot_us))
        await settled()

    def until_next(self) -> float | None:
        """Return the seconds until the next callback, None when nothing is armed."""
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return max(0, self._timers[0].deadline - self._boot_us) / 1e6 if self._timers else None

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


class VirtualRuntime(Runtime):
    """A `Runtime` for tests: its time stands still until the test moves it.

    Args:
        path: the journal's file, as for `Runtime`.
        clock: the clock to use; default a new `VirtualClock`.
        patience: real seconds for which time waits for a running attempt of which nothing
            is seen, in a thread or a worker process for example. Default 0.1.
        options: as for `Runtime`. Here the journal's SQL runs on the loop and is not
            flushed to disk, closing does not wait for running attempts, and finished runs
            are kept.

    Attributes:
        clock: the `VirtualClock`.
        disk: the `FaultyDisk`; `runtime.disk.fail("full")` lets it fail.

    Example:
        >>> async with VirtualRuntime(tmp_path / "app.db") as runtime:
        ...     run = await runtime.start(monthly_report)
        ...     await runtime.advance("30 days")
        ...     assert await run.result() == "sent"
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        clock: VirtualClock | None = None,
        patience: float = _PATIENCE_SECONDS,
        **options: Any,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.disk = FaultyDisk()
        self._patience = patience
        self._crashed = False
        given: dict[str, Any] = {
            "durability": "process", "drain_seconds": 0, "retention": None, **options,
        }  # fmt: skip
        super().__init__(path, clock=self.clock, driver=self.disk.driver, **given)

    async def crash(self) -> None:
        """Die as the process would, at this instant: nothing more is recorded.

        Bodies are dropped where they stand; no `finally` of theirs runs. Steps that are running
        are cancelled, because nobody can stop them otherwise, and count as interrupted. Open
        another runtime with the same path and clock to see what comes back.

        Raises:
            RuntimeNotRunningError: it is not open.

        Example:
            ``await runtime.crash(); runtime = VirtualRuntime(path, clock=runtime.clock)``
        """
        self._require_open()
        assert self._place is not None
        self._crashed = True
        engine, server = self._engine, self._place.server
        runs = () if engine is None else engine.scheduler
        running = [a.task for run in runs for a in run.attempts.values() if a.task is not None]
        current.closed(self, self.loop)
        endings.forget(self)
        self.abandon()
        if server is not None:
            await server.close(self._place.lock.release)
        self._place.lock.release()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def close(self, *, drain: bool = True) -> None:
        """See `Runtime.close`; nothing is left to close after a `crash`."""
        if not self._crashed:
            await super().close(drain=drain)

    async def advance(self, duration: float | timedelta | str) -> None:
        """Let time pass, and let runs do at each instant all that they can do then.

        Waits for running attempts before it goes on, threads and worker processes
        included, but not for one of which nothing is seen for the time of `patience`: its
        timeout may be what the test is about.

        Args:
            duration: seconds, a `timedelta` or text such as ``"30 days"``.
        """
        await self.clock.advance(
            parse_duration(duration, what="advance") / 1e6, settled=self.settled
        )

    @asynccontextmanager
    async def fast_forward(self) -> AsyncIterator[None]:
        """In the block, jump to the next instant at which something is due, again and again.

        Time stands still while runs or the test's own code have something to do.

        Example:
            ``async with runtime.fast_forward(): assert await run.result() == "sent"``
        """
        moving = asyncio.get_running_loop().create_task(self._keep_moving())
        try:
            yield
        finally:
            moving.cancel()
            await asyncio.wait([moving])
        if not moving.cancelled():
            moving.result()

    async def _keep_moving(self) -> None:
        # One at a time, or else each would take the other for work that is to be done.
        turn = _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            async with turn:
                await self.settled()
                delay = self.clock.until_next()
                if delay is not None and _is_idle_loop():
                    await self.clock.advance(delay, settled=self.settled)

    async def settled(self) -> None:
        """Return when runs have done all they can at this instant; see `advance`."""
        loop = asyncio.get_running_loop()
        seen, since = None, loop.time()
        while True:
            await settle()
            busy = self._busy()
            if not busy:
                return
            if busy != seen:
                seen, since = busy, loop.time()
            elif loop.time() - since > self._patience:
                return
            await asyncio.sleep(_LOOK_SECONDS)  # the real time of threads and processes

    def _busy(self) -> frozenset[object]:
        """Return what is under way: attempts, and runs with a turn ahead of them."""
        found: set[object] = set()
        engine = self._engine
        for run in engine.scheduler if engine is not None else ():
            if run.scheduled or run.loading or run.unsaved or run.inbox:
                found.add(run.run_id)
            found.update(a for a in run.attempts.values() if not a.settings.waits_for_run)
        return frozenset(found)


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _is_idle_loop() -> bool:
    # asyncio's own loop tells; on others the look's real pause has to do.
    return not getattr(asyncio.get_running_loop(), "_ready", ())


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
