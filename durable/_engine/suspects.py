"""Sets aside a step that kills the process, and keeps everything else going.

Every step in flight when a process dies is noted as interrupted. One that was in flight
at two deaths is a suspect: suspects run one at a time, each announced in the journal
before it begins. If the process dies a third time, the announced step is the killer and
its run is parked; the others were innocent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from durable._base.clock import Clock
from durable._engine.hot import HotRun
from durable._engine.timers import Timers
from durable._journal.journal import Journal
from durable._journal.records import Write
from durable._replay.opened import OpenStep

INTERRUPTIONS_OF_A_SUSPECT = 2
# A suspect that has lived this long alone is acquitted; it may be a step that takes days.
ACQUITTED_US = 30 * 1_000_000


class Suspects:
    """See the module's docstring. `dispatch` begins an attempt, `block` parks a run."""

    def __init__(
        self,
        journal: Journal,
        dispatch: Callable[[HotRun, OpenStep], None],
        block: Callable[[HotRun, str, str], None],
        timers: Timers,
        clock: Clock,
    ) -> None:
        self._timers = timers
        self._clock = clock
        self._journal = journal
        self._dispatch = dispatch
        self._block = block
        self._queue: deque[tuple[HotRun, OpenStep]] = deque()
        self._alone: OpenStep | None = None
        self._killer = journal.suspect if not journal.clean else None

    def is_suspect(self, step: OpenStep) -> bool:
        """Tell whether a step must run alone."""
        return (
            step.interruptions >= INTERRUPTIONS_OF_A_SUSPECT
            and step is not self._alone
            and not step.step.name.startswith("durable.")  # our own steps only wait
        )

    def died_alone(self, pk: int, seq: int) -> bool:
        """Tell whether the process died while only this suspect was running."""
        return self._killer == (pk, seq)

    def set_aside(self, run: HotRun, step: OpenStep) -> None:
        """Park the run of the step that killed the process."""
        self._killer = None
        self._journal.submit(Write(done=_ignore, clear_suspect=True, vital=True))
        self._block(
            run,
            "poison_step",
            f"the process died {step.interruptions + 1} times while step {step.step.name!r} "
            f"(event {step.seq}) was running, the last time with no other suspect: "
            "mend the step, then `await run.resume()`",
        )

    def enqueue(self, run: HotRun, step: OpenStep) -> None:
        """Run a suspect once it is its turn."""
        self._queue.append((run, step))
        self._next()

    def over(self, step: OpenStep) -> None:
        """Note that an attempt has ended without killing anybody."""
        if step is self._alone:
            self._alone = None
            self._journal.submit(Write(done=_ignore, clear_suspect=True, vital=True))
            self._next()

    def _next(self) -> None:
        while self._queue and self._alone is None:
            run, step = self._queue.popleft()
            if run.gone or run.body is None or step.seq not in run.body.steps:
                continue
            self._alone = step
            self._journal.submit(
                Write(
                    done=lambda error, run=run, step=step: self._begin(run, step),  # type: ignore[misc]
                    suspect=(run.row.pk, step.seq),
                    vital=True,
                )
            )

    def _begin(self, run: HotRun, step: OpenStep) -> None:
        if run.gone or run.body is None or step.seq not in run.body.steps:
            self.over(step)
        else:
            self._timers.at(self._clock.wall_us() + ACQUITTED_US, partial(self.over, step))
            self._dispatch(run, step)


def _ignore(error: BaseException | None) -> None:
    """Do nothing: a vital write has no other outcome than done."""
