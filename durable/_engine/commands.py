"""What callers ask of existing runs: cancel, wake up; and the deadline's verdict.

A command brings the run into memory if need be, puts its event into the inbox and
returns when the event is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from durable._authoring.primitives import from_us
from durable._base.clock import Clock
from durable._engine.activation import Activation
from durable._engine.hot import HotRun
from durable._engine.loader import Loader
from durable._engine.payloads import EnginePayloads
from durable._engine.scheduler import Scheduler
from durable._journal.journal import Journal
from durable._journal.records import (
    BLOCKED,
    CONTINUED,
    FINISHED,
    PENDING,
    RUNNING,
    RunRow,
    RunState,
)
from durable._journal.seals import text_of
from durable._replay.body import Body
from durable._replay.events import Event, EventKind
from durable._replay.rewound import effective
from durable._replay.script import Inbound
from durable.errors import WorkflowRunNotFoundError, WorkflowTimeoutError

RUN_STARTED = EventKind.RUN_STARTED
CANCEL, DEADLINE_NAME = "user", "deadline"


class Commands:
    """See the module's docstring. `grace_us` bounds the clean-up of a cancelled run."""

    def __init__(
        self,
        journal: Journal,
        scheduler: Scheduler,
        activation: Activation,
        payloads: EnginePayloads,
        clock: Clock,
        grace_us: int,
    ) -> None:
        self._journal = journal
        self._scheduler = scheduler
        self._activation = activation
        self._payloads = payloads
        self._clock = clock
        self._grace_us = grace_us

    async def row(self, run_id: str) -> RunRow:
        """Return the run's row as it stands.

        Raises:
            WorkflowRunNotFoundError: there is none.
        """
        run = self._scheduler.get(run_id)
        if run is not None:
            return run.current_row()
        row = await self._journal.reader.run_by_id(run_id)
        if row is None:
            raise WorkflowRunNotFoundError(run_id)
        return row

    async def successor_of(self, row: RunRow) -> str | None:
        """Return the id of the run that has continued this one, None if none has."""
        if row.status != CONTINUED:
            return None
        last = await self._journal.reader.end_event(row.pk, row.run_id)
        return None if last is None or last.payload is None else text_of(last.payload)

    def at_hand(self, run_id: str) -> HotRun | None:
        """Return the run if it is in memory and can take something in."""
        run = self._scheduler.get(run_id)
        return None if run is None or run.loading or run.body is None else run

    async def fetch(self, loader: Loader, run_id: str) -> HotRun | RunRow:
        """Return the run, in memory; its row if it is finished or blocked."""
        while True:
            ending = self._scheduler.get(run_id)
            if ending is not None and ending.finished:
                await self._durable(ending)  # until then a crash would undo its end
            row = await self.row(run_id)
            if row.status in FINISHED or row.status == BLOCKED:
                return row
            run = await loader.fetch(row)
            if run is not None and run.body is not None:
                return run  # else it was parked, or has left memory while we waited for it

    async def cancel(
        self, loader: Loader, run_id: str, reason: str | None, *, first: bool = False
    ) -> HotRun | RunRow:
        """Request a cancellation; a second request ends the run at once, if not only `first`.

        Returns the row of a run that is finished or blocked, which the caller ends itself.
        """
        while True:
            run = await self.fetch(loader, run_id)
            if isinstance(run, RunRow):
                return run
            if _is_asked(run):
                # A second request finds the first one applied.
                self._activation.activate(run, all_items=True)
            if (body := run.body) is None:
                continue  # it was parked just now
            if first and _is_asked(run):
                return run  # what its caller submits from now on is durable after that
            await self._apply(run, body, reason)
            if body.outcome is not None or body.cancel_event is not None:
                return run
            # The run was parked before it came to the request, which went with its inbox.

    async def _apply(self, run: HotRun, body: Body, reason: str | None) -> None:
        if body.outcome is not None:
            await self._durable(run)
        elif not body.started and all(item.kind != RUN_STARTED for item in run.inbox):
            body.terminate(EventKind.RUN_CANCELLED, None if reason is None else reason.encode())
            await self._submit(run)
        elif body.cancel_event is not None:
            body.end_cancelled(body.cancel_event)
            await self._submit(run)
        else:
            await self._post(run, self._request(run, CANCEL, reason))

    def _request(self, run: HotRun, name: str, why: str | None) -> Inbound:
        run.grace_ends = self._clock.boot() + self._grace_us / 1e6
        return self.request(name, why)

    def request(self, name: str, why: str | None) -> Inbound:
        """Return what asks a body to end: `name` says who wants it."""
        due = self._clock.wall_us() + self._grace_us
        payload = None if why is None else why.encode()
        return Inbound(EventKind.CANCEL_REQUESTED, 0, name, due, payload)

    def deadline(self, run: HotRun) -> None:
        """End a run whose deadline has come; its body may clean up first."""
        body = run.body
        if run.gone or body is None or body.outcome is not None or body.cancel_event is not None:
            return
        assert run.row.deadline is not None
        came = f"its deadline came, at {from_us(run.row.deadline).isoformat()}"
        if body.started:
            self._activation.post(run, self._request(run, DEADLINE_NAME, came))
            return
        late = WorkflowTimeoutError(f"the run had not begun when {came}")
        run.inbox.clear()
        body.terminate(EventKind.RUN_FAILED, self._payloads.encode_error(late))
        self._activation.submit(run)

    async def wake_up(
        self, loader: Loader, run_id: str, waits: Sequence[int] | None, until: int | None = None
    ) -> int:
        """End pending sleeps early, those up to the event `until` if given; return how many."""
        run = await self.fetch(loader, run_id)
        if isinstance(run, RunRow):
            return 0
        if until is not None and run.body is not None:
            sleeps = [wait for wait in run.body.waits.values() if wait.name != "timer"]
            waits = sorted(wait.seq for wait in sleeps if wait.seq <= until)
        body, woken = run.body, self._activation.wake_up(run, waits)
        if woken:
            await self._durable(run)
        assert body is not None
        # A run that was parked meanwhile has not come to all of them.
        return sum(seq not in body.waits for seq in woken)

    async def was_asked(self, row: RunRow) -> bool:
        """Tell whether a run that is paused had been asked to end before."""
        history = await self._journal.reader.history(row.pk, row.run_id)
        return any(e.kind == EventKind.CANCEL_REQUESTED for e in effective(history).events)

    async def end_blocked(self, row: RunRow, reason: str | None) -> None:
        """Cancel a run that is parked: its code cannot be asked.

        Nor is its history, which may be what is damaged: only how long it is.

        Raises:
            JournalError: the journal is sealed, and no key is at hand to record anything.
        """
        if self._journal.seals is not None:
            self._journal.seals.check_key()  # else the run would be blocked for another reason
        run = HotRun(row)
        seq = await self._journal.reader.last_seq(row.pk)
        last = Event(seq, EventKind.RUN_CREATED, 0, row.workflow, row.created_at, None, None)
        run.body = Body(row.run_id, _never, [last], self._payloads, self._clock.wall_us)
        run.body.script.skip()
        run.body.use_hooks().any_claims = True  # for all that is known without its code
        run.body.terminate(EventKind.RUN_CANCELLED, None if reason is None else reason.encode())
        self._scheduler.add(run)
        await self._submit(run)

    async def _post(self, run: HotRun, item: Inbound) -> None:
        self._activation.post(run, item)
        await self._durable(run)

    async def _durable(self, run: HotRun) -> None:
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run.acks.append(ack)
        await ack

    async def _submit(self, run: HotRun) -> None:
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run.acks.append(ack)
        self._activation.submit(run)
        await ack


def resumed(row: RunRow) -> RunState:
    """Return the state of a run that was blocked and is to be loaded; nothing of it is running."""
    status = PENDING if row.started_at is None else RUNNING
    due = row.created_at  # long since, whatever the clocks of this and the next process say
    return RunState(status, row.started_at, None, due, None, None, row.pk)


def _is_asked(run: HotRun) -> bool:
    """Tell whether a run has been asked to end."""
    if run.body is not None and run.body.cancel_event is not None:
        return True
    return any(item.kind == EventKind.CANCEL_REQUESTED for item in run.inbox)


async def _never() -> None:
    raise AssertionError("the body of a parked run is not started")
