"""Runs among runs: those that wait for another one, and children that end with their parent.

A body that awaits another run's result takes no attempt, no slot and no coroutine: its
step is noted here under the run that it waits for, and answered when that run's end is
durable. A run that does nothing but wait so may leave memory; then only its name is kept,
and the end brings it back.

Children started with ``on_parent_close="cancel"`` are bound to the chain of runs that
their parent belongs to. Once no run of the chain is open they are asked to end. Nothing
has to be remembered for that: a bound run without an open parent is found by a question to
the journal, which is put at the end of each run that may have bound children, and at each
opening. So the cascade is completed after any crash, and never done twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import islice
from typing import Any

from durable._base.clock import Clock
from durable._engine.hot import HotRun
from durable._engine.payloads import EnginePayloads
from durable._engine.ports import RunEnd, RunSpec
from durable._engine.scheduler import Scheduler
from durable._engine.timers import Timers
from durable._journal.journal import Journal
from durable._journal.records import BLOCKED, CANCELLED, COMPLETED, CONTINUED
from durable._journal.seals import text_of
from durable._replay.events import STEP_COMPLETED, EventKind
from durable._replay.opened import OpenStep
from durable._replay.script import Inbound
from durable.errors import (
    DurableError,
    WorkflowRunCancelledError,
    WorkflowRunNotFoundError,
    WrongContextError,
)

logger = logging.getLogger("durable")

WITH_ITS_PARENT = "its parent run has ended"  # why bound children are cancelled
BOUND = "bound"  # in a body's scratch: it has started children that end with it
AGAIN_US = 1_000_000  # until a question that the journal could not answer is put again
_CANCELS_AT_ONCE, _LOOKED_UP_AT_ONCE = 100, 500

At = Callable[[str], Awaitable["RunEnd | None"]]
Cancel = Callable[[str, str], Awaitable[None]]
Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Families:
    """See the module's docstring.

    Args:
        at_rest: returns how a run has ended, None while it has not.
        bring_back: brings a run into memory that has left it.
        cancel: asks a run to end, unless it has been asked before.
        post: puts a step's outcome into its run's inbox.
        spawn: runs a coroutine for as long as the engine is open.

    Attributes:
        made_room: told that another run may come into memory beside one that waits.
    """

    def __init__(
        self,
        journal: Journal,
        scheduler: Scheduler,
        payloads: EnginePayloads,
        timers: Timers,
        clock: Clock,
        *,
        at_rest: At,
        bring_back: Callable[[str], Awaitable[None]],
        cancel: Cancel,
        post: Callable[[HotRun, Inbound], None],
        spawn: Spawn,
    ) -> None:
        self._journal = journal
        self._scheduler = scheduler
        self._payloads = payloads
        self._timers = timers
        self._clock = clock
        self._at_rest = at_rest
        self._bring_back = bring_back
        self._cancel = cancel
        self._post = post
        self.made_room: Callable[[], None] = _nothing
        self._spawn = spawn
        # By the run that is waited for: the waiting runs in memory with their steps, and
        # the names of those that have left it.
        self._waiting: dict[str, dict[tuple[str, int], HotRun]] = {}
        self._asleep: dict[str, dict[str, None]] = {}
        self._unsure: dict[str, None] = {}  # waited for, and perhaps ended already
        self._doubted: set[tuple[str, int]] = set()  # the steps that wait for these
        self._looking = False
        self._hot: set[str] = set()
        self._closed = False

    @property
    def waiting_runs(self) -> int:
        """How many runs in memory wait for another one."""
        return len(self._hot)

    # --- waiting for a run --------------------------------------------------------------------

    def wait(self, run: HotRun, step: OpenStep) -> None:
        """Let a step wait for the end of the run that it names."""
        (awaited,), _ = self._payloads.decode_call(step.payload)
        self._await(run, step.seq, str(awaited))
        self.made_room()

    def _await(self, run: HotRun, seq: int, awaited: str) -> None:
        if awaited == run.run_id:  # the last run of a chain may ask for the result of the first
            error = WrongContextError(f"run {awaited} waits for its own result, which never comes")
            return self._fail(run, seq, error)
        run.awaiting[seq] = awaited
        self._hot.add(run.run_id)
        self._waiting.setdefault(awaited, {})[run.run_id, seq] = run
        if awaited in self._asleep:
            self._asleep[awaited].pop(run.run_id, None)
        if self._scheduler.get(awaited) is None:
            self._unsure[awaited] = None
            self._doubted.add((run.run_id, seq))
            run.doubts += 1
            self._look()

    def _look(self) -> None:
        if not self._looking:
            self._looking = True
            self._spawn(self._look_up())

    async def _look_up(self) -> None:
        """Ask the journal about the runs that may have ended before anybody waited."""
        some: list[str] = []
        try:
            while self._unsure:
                some = list(islice(self._unsure, _LOOKED_UP_AT_ONCE))
                for awaited in some:
                    del self._unsure[awaited]  # who comes to wait meanwhile asks anew
                for awaited in await self._journal.reader.not_going_on(some):
                    await self._look_up_one(awaited)
                for awaited in some:
                    self._goes_on(awaited)
        except DurableError as error:
            self._unsure.update(dict.fromkeys(some))
            self._later(error, self._look_up)
        finally:
            self._looking = False

    def _goes_on(self, awaited: str) -> None:
        """Let the runs leave memory that wait for a run of which nothing is to be told now."""
        if awaited in self._unsure:
            return  # somebody has come to wait meanwhile
        for (_, seq), run in list(self._waiting.get(awaited, {}).items()):
            self._be_sure(run, seq)
            self._scheduler.settled(run)

    def _be_sure(self, run: HotRun, seq: int) -> None:
        if (run.run_id, seq) in self._doubted:
            self._doubted.discard((run.run_id, seq))
            run.doubts -= 1

    async def _look_up_one(self, awaited: str) -> None:
        try:
            end = await self._at_rest(awaited)
        except WorkflowRunNotFoundError as error:
            for run, seq in self._take(awaited):
                self._fail(run, seq, error)
            return
        if end is not None:
            self.told(awaited, end)

    def told(self, run_id: str, end: RunEnd) -> None:
        """Take note that a run's end is durable, or that it was parked."""
        if end.row.status == BLOCKED:
            return  # that is no end: it goes on once somebody has acted
        for run, seq in self._take(run_id):
            self._answer(run, seq, end)
        for waiting in self._asleep.pop(run_id, ()):
            self._spawn(self._wake(waiting))

    def _take(self, awaited: str) -> list[tuple[HotRun, int]]:
        taken = [(run, seq) for (_, seq), run in self._waiting.pop(awaited, {}).items()]
        for run, seq in taken:
            self._no_more(run, seq)
        return taken

    def _no_more(self, run: HotRun, seq: int) -> None:
        run.awaiting.pop(seq, None)
        self._be_sure(run, seq)
        if not run.awaiting:
            self._hot.discard(run.run_id)

    def _answer(self, run: HotRun, seq: int, end: RunEnd) -> None:
        row, payload = end
        if row.status == CONTINUED and payload is not None:
            return self._await(run, seq, text_of(payload))
        if row.status == COMPLETED:
            # The bytes of a run's result are those of a step's.
            return self._post(run, Inbound(STEP_COMPLETED, seq, payload=payload))
        if row.status == CANCELLED:
            reason = None if payload is None else text_of(payload)
            return self._fail(run, seq, WorkflowRunCancelledError(row.run_id, reason))
        try:
            error = self._payloads.decode_run_failure(payload or b"", row.run_id)
        except Exception as undecodable:
            error = undecodable  # type: ignore[assignment]
        self._fail(run, seq, error)

    def _fail(self, run: HotRun, seq: int, error: BaseException) -> None:
        payload = self._payloads.encode_error(error)
        self._post(run, Inbound(EventKind.STEP_FAILED, seq, payload=payload))

    def give_up(self, run: HotRun, seq: int) -> None:
        """Take note that a step's outcome is not awaited any more."""
        awaited = run.awaiting.get(seq)
        if awaited is None:
            return
        waiting = self._waiting.get(awaited, {})
        waiting.pop((run.run_id, seq), None)
        if not waiting:
            self._waiting.pop(awaited, None)
        self._no_more(run, seq)

    def left(self, run: HotRun) -> None:
        """Take note that a run goes; one that only leaves memory is brought back in time."""
        for seq in list(run.awaiting):
            self.give_up(run, seq)

    def evicted(self, run: HotRun) -> bool:
        """Take note that a run has left memory; return whether it waits for others."""
        awaited = dict.fromkeys(run.awaiting.values())
        for run_id in awaited:
            self._asleep.setdefault(run_id, {})[run.run_id] = None
        self.left(run)
        return bool(awaited)

    async def _wake(self, run_id: str) -> None:
        try:
            await self._bring_back(run_id)
        except DurableError as error:
            self._later(error, lambda: self._wake(run_id))

    def _later(self, error: DurableError, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do again in a second what the journal could not answer now."""
        if self._closed:
            return

        def begin() -> None:
            self._spawn(work())

        logger.warning("runs of a family could not be read, trying again: %s", error)
        self._timers.at(self._clock.wall_us() + AGAIN_US, begin)

    def close(self) -> None:
        """Ask nothing more of the journal."""
        self._closed = True

    # --- children that end with their parent -----------------------------------------------------

    def ended(self, run: HotRun) -> None:
        """Take note that a run's end is durable: children that are bound to it end, too."""
        if run.state.status == CONTINUED:
            return
        body = run.body
        # Of one that was ended without its code nobody knows what it had begun.
        unknown = body is None or (run.state.started_at is not None and not body.started)
        has_some = body is not None and body.scratch.get(BOUND)
        if unknown or has_some or run.row.first_id is not None:
            self._spawn(self._close(run.row.first_id or run.run_id))

    def begun(self, specs: Sequence[RunSpec]) -> None:
        """Take note of new runs: a bound child may have come too late for its parent's end."""
        for spec in specs:
            parent = None if spec.parent_id is None else self._scheduler.get(spec.parent_id)
            if spec.bound_to is not None and (parent is None or parent.finished):
                self._spawn(self.close_orphans())
                return

    async def close_orphans(self) -> None:
        """End the children whose parents have ended without them."""
        try:
            for first in await self._journal.reader.orphans():
                await self._close(first)
        except DurableError as error:
            self._later(error, self.close_orphans)

    async def _close(self, first: str) -> None:
        try:
            open_ones = await self._journal.reader.open_bound_runs(first)
        except DurableError as error:
            return self._later(error, self.close_orphans)
        for start in range(0, len(open_ones), _CANCELS_AT_ONCE):
            some = open_ones[start : start + _CANCELS_AT_ONCE]
            await asyncio.gather(*map(self._cancel_child, some))

    async def _cancel_child(self, run_id: str) -> None:
        try:
            await self._cancel(run_id, WITH_ITS_PARENT)
        except WorkflowRunNotFoundError:
            pass  # deleted meanwhile
        except DurableError as error:
            self._later(error, self.close_orphans)


def _nothing() -> None:
    """Do nothing: nobody waits for room yet."""
