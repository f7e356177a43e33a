"""Pauses runs: no code of theirs is run and no attempt begins until somebody resumes them.

A paused run is blocked with the kind ``paused`` and stays so over restarts. Its body has
left memory and its waits do not fire; they are judged by the clock again once it is back.
Attempts that were running go on to their end, and what they come to is recorded at once,
unseen by the body. When the run goes on, a `run_rewound` event has all of that delivered,
as if it arrived then. A generator that the body iterates is cut off, and goes on later.

Invariant: what was recorded behind `Blocked.seq` has not been seen by the body.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from durable._base.clock import Clock
from durable._engine.activation import Activation
from durable._engine.attempt import Attempt
from durable._engine.commands import Commands, resumed
from durable._engine.executor import Executor
from durable._engine.families import Families
from durable._engine.hot import HotRun
from durable._engine.loader import Loader
from durable._engine.scheduler import Scheduler
from durable._journal.attributes import PAUSED, Blocked, decode_blocked, encode_blocked
from durable._journal.journal import Journal
from durable._journal.records import (
    BLOCKED,
    FINISHED,
    RunEvent,
    RunRow,
    RunState,
    Write,
)
from durable._replay.body import Body
from durable._replay.events import RESUMED, Event
from durable._replay.rewound import mark, resumption
from durable._replay.script import Inbound
from durable.errors import RunStateError

logger = logging.getLogger("durable")


class Pauses:
    """See the module's docstring. `one_at_a_time` is shared by all that bring runs back."""

    def __init__(
        self,
        journal: Journal,
        scheduler: Scheduler,
        loader: Loader,
        activation: Activation,
        executor: Executor,
        commands: Commands,
        *,
        families: Families,
        clock: Clock,
        one_at_a_time: asyncio.Lock,
    ) -> None:
        self._journal = journal
        self._scheduler = scheduler
        self._loader = loader
        self._activation = activation
        self._executor = executor
        self._commands = commands
        self._families = families
        self._clock = clock
        self._one_at_a_time = one_at_a_time
        self._working: dict[str, HotRun] = {}  # paused, with attempts that still run
        self._ends: dict[str, int] = {}  # number of the last event of each of these
        self._first: dict[str, Inbound] = {}  # what a run is given before it goes on
        self._here: set[str] = set()  # paused by this process, which knows what was running

    # --- pausing ----------------------------------------------------------------------------

    async def pause(self, run_id: str, reason: str | None) -> None:
        """Keep a run from going on until it is resumed; returns when that is durable.

        Raises:
            RunStateError: the run has ended. WorkflowRunNotFoundError: there is none.
        """
        async with self._one_at_a_time:
            while not await self._pause(run_id, reason):
                # What is under way with the run comes first; then look again.
                await self._loader.at_rest(run_id)
                await self._journal.perform(Write(done=_ignore, vital=True))
                await asyncio.sleep(0)

    async def _pause(self, run_id: str, reason: str | None) -> bool:
        run = self._scheduler.get(run_id)
        if run is not None:
            return await self._pause_hot(run, reason)
        if self._loader.is_busy(run_id):
            return False  # it is being brought into memory
        let_in = self._loader.keep_out([run_id])
        try:
            row = await self._commands.row(run_id)
            await self._journal.perform(
                pausing(row, reason, await self._journal.reader.last_seq(row.pk))
            )
            if row.status != BLOCKED and row.wake_at != 0:  # else attempts of its were cut off
                self._here.add(run_id)
        finally:
            let_in()
        return True

    async def _pause_hot(self, run: HotRun, reason: str | None) -> bool:
        if run.loading or run.body is None or not run.born:
            return False
        if run.inbox:
            self._activation.activate(
                run, all_items=True
            )  # what reached it before the pause counts
        if run.gone or run.body.outcome is not None:
            return False
        write = pausing(run.current_row(), reason, run.body.script.seq)
        run.state = write.states[0]
        self._scheduler.remove(run)
        self._cut_off_given_up(run, run.body)
        if not self._cut_off_generators(run):
            self._here.add(run.run_id)
        run.paused = bool(run.attempts)
        if run.paused:
            self._working[run.run_id] = run
            self._ends[run.run_id] = run.body.script.seq
        self._families.left(run)
        run.drop()
        let_in = self._loader.keep_out([run.run_id])
        try:
            await self._journal.perform(write)
        finally:
            let_in()
        return True

    def _cut_off_given_up(self, run: HotRun, body: Body) -> None:
        """Give up attempts that the body does not want, as its last turn would once recorded."""
        for seq in [seq for seq in run.attempts if seq not in body.steps]:
            self._executor.cancel(run, seq)

    def _cut_off_generators(self, run: HotRun) -> bool:
        """Give up attempts whose items the body iterates; return whether there were any."""
        iterated = [seq for seq, a in run.attempts.items() if a.step.items is not None]
        for seq in iterated:
            self._executor.cancel(run, seq)
        return bool(iterated)

    def outlived(self, run: HotRun, item: Inbound) -> None:
        """Record what an attempt came to whose run was paused meanwhile."""
        if run.run_id not in self._ends:
            return run.inbox.append(item)  # the run is on its way back, and gets it there
        seq = self._ends[run.run_id] = self._ends[run.run_id] + 1
        at = self._clock.wall_us()
        event = Event(seq, item.kind, item.ref, item.name, at, item.due, item.payload)
        self._journal.submit(
            Write(done=_ignore, events=[RunEvent(run.row.pk, run.run_id, event)], vital=True)
        )

    async def leave(self, run_id: str, item: Inbound) -> bool:
        """Record what is sent to a blocked run, which is given it once it goes on.

        Returns:
            False when the run is not blocked (any more).
        """
        async with self._one_at_a_time:
            row = await self._commands.row(run_id)
            if row.status != BLOCKED:
                return False
            if "\n" in item.name and await self._has(row, item):
                return True
            seq = await self._journal.reader.last_seq(row.pk)
            if run_id in self._ends:  # of which some may be on their way to the disk
                seq = self._ends[run_id]
                self._ends[run_id] += 1
            await self._journal.perform(leaving(row, item, seq, self._clock.wall_us()))
            return True

    async def _has(self, row: RunRow, item: Inbound) -> bool:
        history = await self._journal.reader.history(row.pk, row.run_id)
        return any(
            e.kind == item.kind and e.ref == item.ref and e.name == item.name for e in history
        )

    # --- going on ---------------------------------------------------------------------------

    async def resume(self, row: RunRow, first: Inbound | None = None) -> HotRun | None:
        """Let a parked run go on; return it, None when it had to be parked again.

        Args:
            row: of the run, which is blocked; the caller holds the lock.
            first: what its body is given before any attempt begins.
        """
        run_id = row.run_id
        ends = self._ends.pop(run_id, None)  # from here on, outcomes are kept for its return
        if ends is None:
            ends = await self._journal.reader.last_seq(row.pk)
        write = resuming(row, ends, self._clock.wall_us())
        try:
            await self._journal.perform(write)
        except BaseException:
            self._stay(run_id, ends)
            raise
        state = write.states[0]
        if first is not None:
            self._first[run_id] = first
        back = row._replace(status=state.status, wake_at=state.wake_at, blocked=None)
        fresh = run_id in self._here  # what was running ends by itself, or has done so
        self._here.discard(run_id)
        run = await self._loader.fetch(back, resumed=True, fresh=fresh)
        self._first.pop(run_id, None)
        if (left := self._working.pop(run_id, None)) is not None:
            self._executor.cancel_all(left)  # it had to be parked again
        return run

    def _stay(self, run_id: str, ends: int) -> None:
        """Go on recording what attempts come to: the run could not be resumed."""
        if (run := self._working.get(run_id)) is not None:
            self._ends[run_id] = ends
            items, run.inbox = run.inbox, []
            for item in items:
                self.outlived(run, item)

    def rejoin(self, run: HotRun, body: Body) -> None:
        """Hand attempts that have outlived the pause, and what has come, to the run."""
        before = self._working.pop(run.run_id, None)
        if before is not None:
            before.paused = False
            for seq, attempt in list(before.attempts.items()):
                if seq in body.steps:
                    _move(attempt, before, run, body)
            self._executor.cancel_all(before)
            run.inbox += before.inbox
        first = self._first.pop(run.run_id, None)
        if first is not None:
            run.inbox.append(first)


def _move(attempt: Attempt, before: HotRun, run: HotRun, body: Body) -> None:
    seq = attempt.step.seq
    attempt.run, attempt.step = run, body.steps[seq]
    attempt.step.running = True
    run.attempts[seq] = before.attempts.pop(seq)


def pausing(row: RunRow, reason: str | None, seq: int) -> Write:
    """Return what pauses a run.

    Args:
        row: as it stands.
        reason: shown with the run's status.
        seq: number of the last event that its body has seen.

    Raises:
        RunStateError: the run has ended.
    """
    if row.status in FINISHED:
        raise RunStateError(row.run_id, row.status, "a run that has ended cannot be paused")
    if row.status == BLOCKED:
        blocked = decode_blocked(row.blocked)
        if blocked.kind == PAUSED:
            return Write(done=_ignore, vital=True)
        seq = seq if blocked.seq is None else blocked.seq
    why = "paused" if reason is None else f"paused: {reason}"
    column = encode_blocked(Blocked(PAUSED, why, None, seq))
    state = RunState(BLOCKED, row.started_at, None, None, None, column, row.pk)
    return Write(done=_ignore, states=[state], vital=True)


def leaving(row: RunRow, item: Inbound, seq: int, now_us: int) -> Write:
    """Return what records an item behind what the body of a blocked run has seen.

    Args:
        row: as it stands.
        seq: number of its last event.
        now_us: the present.
    """
    event = Event(seq + 1, item.kind, item.ref, item.name, now_us, None, item.payload)
    blocked = decode_blocked(row.blocked)
    seen = seq if blocked.seq is None else blocked.seq
    column = encode_blocked(blocked._replace(seq=seen))
    state = RunState(BLOCKED, row.started_at, None, None, None, column, row.pk)
    recorded = [RunEvent(row.pk, row.run_id, event)]
    return Write(done=_ignore, events=recorded, states=[state], vital=True)


def resuming(row: RunRow, ends: int, now_us: int) -> Write:
    """Return what lets a blocked run try again.

    Args:
        row: as it stands.
        ends: number of its last event.
        now_us: the present.
    """
    state = resumed(row)
    cut = resumption(ends, decode_blocked(row.blocked).seq)
    events: Sequence[RunEvent] = ()
    if cut is not None:
        events = [RunEvent(row.pk, row.run_id, mark(ends + 1, cut, RESUMED, now_us))]
    return Write(done=_ignore, events=events, states=[state])


def _ignore(error: BaseException | None) -> None:
    """Do nothing: `perform` tells the outcome."""
