"""An event loop without a wall: its time is a virtual clock's, and nothing is waited for.

When nothing is ready, time jumps to the next deadline, of the clock or of the loop. No
selector is asked, so there is neither a system call nor any other source of chance. `stop_now`
ends the loop between two callbacks, which is where a process may die.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from durable.testing import VirtualClock

T = TypeVar("T")

CALLBACKS_MAX = 400_000  # of one life; far beyond what any seed needs


class DeadlockError(Exception):
    """Nothing is ready and nothing is due: the simulation can never go on."""


class LivelockError(Exception):
    """The loop is busy for ever."""


class StoppedError(Exception):
    """The loop was ended by `stop_now` before the coroutine was done."""


class SimClock(VirtualClock):
    """A virtual clock that may want to be looked at, as real ones do.

    Args:
        tick_seconds_max: the longest timer; a finite one notices changes of the wall clock.
    """

    def __init__(self, tick_seconds_max: float = math.inf) -> None:
        super().__init__()
        self.tick_seconds_max = tick_seconds_max

    def forget(self) -> None:
        """Call all timers off: they were those of a process that is dead."""
        self._timers.clear()

    def jump(self, loop_due: float | None) -> list[asyncio.Handle]:
        """Move to the next deadline; return what fires there, or [] if it is the loop's own."""
        delay = self.until_next()
        own = math.inf if loop_due is None else max(0.0, loop_due - self.boot())
        if delay is None and loop_due is None:
            raise DeadlockError
        if delay is None or own < delay:
            self._move(math.ceil(round(own * 1e6, 3)))
            return []
        timer = self._next_due(self._boot_us + round(delay * 1e6))
        assert timer is not None
        self._move(max(0, timer.deadline - self._boot_us))
        return [asyncio.Handle(timer.fire, (), timer.loop)]


class _NoSelector(selectors.SelectSelector):
    """Keeps what is registered and reports nothing."""

    def select(self, timeout: float | None = None) -> list[Any]:
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """See the module's docstring."""

    def __init__(self, clock: SimClock) -> None:
        super().__init__(_NoSelector())
        self.clock = clock
        self.stopped = False
        self._left = CALLBACKS_MAX
        self.unheard: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.unheard.append(context))

    def time(self) -> float:
        """Seconds of the clock since it was made."""
        return self.clock.boot()

    def stop_now(self) -> None:
        """Run no further callback."""
        self.stopped = True

    def finish(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` to its end.

        Raises:
            StoppedError: `stop_now` was called.
            DeadlockError, LivelockError: it has no end.
        """
        task = self.create_task(main)
        asyncio._set_running_loop(self)
        try:
            while not task.done():
                self._turn()
                if self.stopped:
                    raise StoppedError
        finally:
            asyncio._set_running_loop(None)
        return task.result()

    def _turn(self) -> None:
        """One round of callbacks: those that are ready now, or the next that fall due."""
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            ready.extend(self.clock.jump(scheduled[0]._when if scheduled else None))
        now = self.clock.boot() + 1e-9
        while scheduled and scheduled[0]._when <= now:
            due = heapq.heappop(scheduled)
            due._scheduled = False
            ready.append(due)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
                if self.stopped:
                    return
        self._left -= 1
        if not self._left:
            raise LivelockError

    def _write_to_self(self) -> None:
        """Wake nobody: there is one thread."""
