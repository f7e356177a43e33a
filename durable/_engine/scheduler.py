"""Which run is activated next, and which idle run leaves memory.

The ready queue is drained by one callback of the host's loop, in slices, so that other
work of the host is not starved. Runs that have nothing to do stay in memory up to a
cap, the least recently used leave first: nothing is lost, they are rows.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from durable._base.clock import Clock
from durable._engine.hot import HotRun

SLICE_SECONDS = 0.005
TURNS_PER_LOOK = 8  # at the clock


class Scheduler:
    """See the module's docstring.

    Args:
        activate: performs one turn of a run.
        evicted: told about each run that has left memory.
        idle_max: how many idle runs stay in memory.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        activate: Callable[[HotRun], None],
        evicted: Callable[[HotRun], None],
        idle_max: int,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._activate = activate
        self._evicted = evicted
        self._idle_max = max(1, idle_max)  # the one that was brought in last may stay
        self._queue: deque[HotRun] = deque()
        self._hot: dict[str, HotRun] = {}
        self._idle: OrderedDict[str, HotRun] = OrderedDict()
        self._waiting = False
        self._stopped = False

    def __len__(self) -> int:
        return len(self._hot)

    def __iter__(self) -> Iterator[HotRun]:
        return iter(list(self._hot.values()))

    @property
    def busy(self) -> bool:
        """Whether runs are queued for an activation."""
        return bool(self._queue)

    def get(self, run_id: str) -> HotRun | None:
        """Return the run if it is in memory."""
        return self._hot.get(run_id)

    def add(self, run: HotRun) -> None:
        """Take a run into memory."""
        self._hot[run.run_id] = run

    def remove(self, run: HotRun) -> None:
        """Forget a run that has ended or was parked."""
        self._hot.pop(run.run_id, None)
        self._idle.pop(run.run_id, None)

    def ready(self, run: HotRun) -> None:
        """Queue a run for its next activation."""
        if run.scheduled or run.loading or run.gone:
            return
        run.scheduled = True
        self._idle.pop(run.run_id, None)
        self._queue.append(run)
        if not self._waiting and not self._stopped:
            self._waiting = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._waiting = False
        queue, end, turns = self._queue, self._clock.boot() + SLICE_SECONDS, 0
        while queue and not self._stopped:
            run = queue.popleft()
            run.scheduled = False
            if not run.gone and run.body is not None:
                self._turn(run)
            turns += 1
            if queue and turns % TURNS_PER_LOOK == 0 and self._clock.boot() >= end:
                self._waiting = True
                self._loop.call_soon(self._drain)
                return

    def _turn(self, run: HotRun) -> None:
        try:
            self._activate(run)
        except BaseException:  # Ctrl-C: the program may go on, and so do the others
            self._waiting = bool(self._queue)
            if self._queue:
                self._loop.call_soon(self._drain)
            raise

    def settled(self, run: HotRun) -> None:
        """Note that a run may be idle now, and make room if too many are."""
        if run.gone or not run.is_idle():
            return
        self._idle[run.run_id] = run
        self._idle.move_to_end(run.run_id)
        while len(self._idle) > self._idle_max:
            _, oldest = self._idle.popitem(last=False)
            if oldest.is_idle():
                del self._hot[oldest.run_id]
                oldest.drop()
                self._evicted(oldest)

    def stop(self) -> None:
        """Activate nothing any more."""
        self._stopped = True

    def resume(self) -> None:
        """Undo `stop`."""
        self._stopped = False
        if self._queue and not self._waiting:
            self._waiting = True
            self._loop.call_soon(self._drain)
