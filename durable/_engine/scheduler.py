"""What is done next on the host's loop, and which idle run leaves memory.

Small things of the engine (to begin attempts, above all) and activations of runs that are
ready are worked off by one callback of the host's loop, in slices, so that other work of
the host is not starved. What the writes of one slice hold shares a COMMIT.

Runs that have nothing to do stay in memory up to a cap, the least recently used leave
first: nothing is lost, they are rows.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from durable._base.clock import Clock
from durable._base.slices import SLICE_SECONDS
from durable._engine.hot import HotRun
from durable._replay.stage import Stage

TURNS_PER_LOOK = 4  # at the clock


class Gate(Protocol):
    """In front of the journal: what comes while it is shut goes through in one go."""

    def shut(self) -> None:
        """Keep writes back."""

    def open(self) -> None:
        """Let them through."""


class Scheduler:
    """See the module's docstring.

    Args:
        activate: performs one turn of a run.
        evicted: told about each run that has left memory.
        idle_max: how many idle runs stay in memory.
        gate: shut during each slice.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        activate: Callable[[HotRun], None],
        evicted: Callable[[HotRun], None],
        idle_max: int,
        *,
        gate: Gate,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._activate = activate
        self._evicted = evicted
        self._idle_max = max(1, idle_max)  # the one that was brought in last may stay
        self._gate = gate
        self._queue: deque[HotRun] = deque()
        self._errands: deque[tuple[Callable[[Any], None], Any]] = deque()
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
        """Whether anything is queued."""
        return bool(self._queue or self._errands)

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
        if self._idle:
            self._idle.pop(run.run_id, None)
        self._queue.append(run)
        if not self._waiting:
            self._wake()

    def soon(self, do: Callable[[Any], None], what: Any) -> None:
        """Call `do(what)` in one of the next slices."""
        self._errands.append((do, what))
        if not self._waiting:
            self._wake()

    def _wake(self) -> None:
        if not self._stopped and (self._queue or self._errands):
            self._waiting = True
            self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        end = self._clock.boot() + SLICE_SECONDS
        self._gate.shut()
        try:
            while self._run_errands(end) and self._queue and self._activate_runs(end):
                pass  # what bodies do may bring further errands
        finally:  # also after Ctrl-C: the program may go on, and so do the others
            self._waiting = False
            self._wake()
            self._gate.open()

    def _run_errands(self, end: float) -> bool:
        """Return False when the slice is over."""
        errands, boot, turns = self._errands, self._clock.boot, 0
        while errands and not self._stopped:
            do, what = errands.popleft()
            do(what)
            turns += 1
            if turns % TURNS_PER_LOOK == 0 and boot() >= end:
                return False
        return not self._stopped

    def _activate_runs(self, end: float) -> bool:
        """Return False when the slice is over."""
        queue, boot, turns = self._queue, self._clock.boot, 0
        with Stage():
            while queue and not self._stopped:
                run = queue.popleft()
                run.scheduled = False
                if not run.gone and run.body is not None:
                    self._activate(run)
                turns += 1
                if turns % TURNS_PER_LOOK == 0 and boot() >= end:
                    return False
        return not self._stopped

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
        if not self._waiting:
            self._wake()
