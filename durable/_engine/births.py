"""Records new runs.

A run under a fresh id begins at once: its first activation shares the transaction that
creates it, so that the start of a run and its first step cost one COMMIT. Runs under ids
of the caller's choice wait to be told that the ids were free, and batches are recorded in
one transaction before any of their runs begins. Meanwhile their ids are reserved, so that
nobody loads them from the journal a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from durable._base.clock import Clock
from durable._base.slices import in_slices
from durable._engine.hot import HotRun, settle
from durable._engine.loader import Loader
from durable._engine.payloads import EnginePayloads
from durable._engine.ports import Created, RunSpec
from durable._engine.recovery import Recovery
from durable._journal.attributes import encode_attributes
from durable._journal.journal import Journal
from durable._journal.records import PENDING, RunEvent, RunRow, Write
from durable._replay.events import Event, EventKind
from durable.errors import PayloadDecodeError, RunConflictError, RunExistsError

# Bit flags of engine behaviour, recorded with each run: a later change of the order in
# which things happen gets a bit, so that older runs replay as they were recorded.
BEHAVIOUR = 1


class Births:
    """See the module's docstring. `soon` calls a function from the host's loop, one of many."""

    def __init__(
        self,
        journal: Journal,
        loader: Loader,
        recovery: Recovery,
        payloads: EnginePayloads,
        clock: Clock,
        soon: Callable[[Callable[[Any], None], Any], None],
    ) -> None:
        self._soon = soon
        self._journal = journal
        self._loader = loader
        self._recovery = recovery
        self._payloads = payloads
        self._clock = clock

    async def create(self, specs: Sequence[RunSpec]) -> list[Created]:
        """Record `specs`, all or none of them; return when they are durable.

        Raises:
            RunExistsError, RunConflictError: an id is taken; see `StartOptions.on_conflict`.
            JournalError: not recorded.
        """
        wanted = self._unique(specs)
        if len(wanted) == 1:
            births = [self._birth(wanted[0])]
            if self._may_begin(wanted[0], births[0][0]):
                await self._bear(*births[0])
                return [Created(wanted[0].run_id, None)]
        else:
            births = await in_slices(self._birth, wanted, self._clock)
        existing = await self._record(births)
        for spec in wanted:
            if spec.run_id in existing:
                await self._check_same(spec, existing[spec.run_id])
        return [Created(spec.run_id, existing.get(spec.run_id)) for spec in specs]

    def _unique(self, specs: Sequence[RunSpec]) -> list[RunSpec]:
        """Return `specs` with each run id once; those left out must ask for the same run."""
        if len(specs) == 1:
            return list(specs)
        wanted: dict[str, RunSpec] = {}
        for spec in specs:
            first = wanted.setdefault(spec.run_id, spec)
            if first is spec:
                continue
            if spec.options.on_conflict == "raise":
                raise RunExistsError(spec.run_id)
            if not (
                first.workflow == spec.workflow and self._same_call(spec.payload, first.payload)
            ):
                raise RunConflictError(
                    spec.run_id,
                    f"the batch names run {spec.run_id!r} twice, with different arguments: "
                    "leave run_id out, or give each run its own",
                )
        return list(wanted.values())

    def _may_begin(self, spec: RunSpec, run: HotRun) -> bool:
        due_now = run.row.wake_at == run.row.created_at
        return spec.options.run_id is None and due_now and self._recovery.has_room()

    async def _bear(self, run: HotRun, event: Event) -> None:
        """Record one run together with its first activation."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run.birth = Write(
            done=partial(settle, told),
            runs=[run.row],
            events=[RunEvent(run.row.pk, run.run_id, event)],
        )  # submitted with the first activation, or with the parking
        run.born = False
        self._loader.admit(run, event)
        await told

    async def _record(self, births: Sequence[tuple[HotRun, Event]]) -> Mapping[str, RunRow]:
        """Record runs and queue them; return the older runs found under their ids."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        release = self._loader.reserve([run.run_id for run, _ in births])

        def done(error: BaseException | None) -> None:
            if self._loader.stopped:  # no errands are run any more; the runs are the next opening's
                return conclude(error)
            if error is None:
                for birth in births:  # many may be too many for one turn of the host's loop
                    self._soon(admit, birth)
            self._soon(conclude, error)

        def admit(birth: tuple[HotRun, Event]) -> None:
            found = write.existing.get(birth[0].run_id)
            if found is None or found.pk == birth[0].row.pk:
                self.admit(*birth)

        def conclude(error: BaseException | None) -> None:
            release()
            settle(told, error)

        write = Write(
            done=done,
            runs=[run.row for run, _ in births],
            events=[RunEvent(run.row.pk, run.run_id, event) for run, event in births],
        )
        self._journal.submit(write)
        await told
        return write.existing

    def admit(self, run: HotRun, *history: Event) -> None:
        """Bring a run that is on record to memory, now or when it is due and there is room."""
        due_now = run.row.wake_at is not None and run.row.wake_at <= self._clock.wall_us()
        if self._loader.stopped:
            return  # the journal is about to be let go: it is a row of the next opening
        if due_now and self._recovery.has_room():
            self._loader.admit(run, *history)
        else:
            self._recovery.leave_behind(run.row.wake_at)

    def _birth(self, spec: RunSpec) -> tuple[HotRun, Event]:
        row, event = rows_of(spec, self._journal.next_pk(), self._clock.wall_us())
        return HotRun(row, spec.definition), event

    async def _check_same(self, spec: RunSpec, existing: RunRow) -> None:
        run_id = existing.run_id
        first = await self._journal.reader.history(existing.pk, run_id, limit=1)
        if first and spec.origin and first[0].ref == spec.origin:
            return  # recorded when the same was asked for before
        if spec.options.on_conflict == "raise":
            raise RunExistsError(run_id)
        if existing.workflow != spec.workflow:
            raise RunConflictError(
                run_id,
                f"run {run_id!r} exists and runs {existing.workflow}, not {spec.workflow}: "
                "choose another run_id",
            )
        if first and not self._same_call(spec.payload, first[0].payload):
            raise RunConflictError(
                run_id,
                f"run {run_id!r} exists with other arguments: choose another run_id, or start "
                "it with the arguments it was first given",
            )

    def _same_call(self, given: bytes, recorded: bytes | None) -> bool:
        # Equal values may pickle to different bytes, so the values decide.
        if given == recorded:
            return True
        try:
            return recorded is not None and bool(
                self._payloads.decode_call(given) == self._payloads.decode_call(recorded)
            )
        except (PayloadDecodeError, ValueError):
            return False


def rows_of(spec: RunSpec, pk: int, now: int) -> tuple[RunRow, Event]:
    """Return the row of a new run and its first event."""
    options = spec.options
    begin = now
    if options.at_us is not None:
        begin = max(now, options.at_us)
    elif options.delay_us is not None:
        begin = now + options.delay_us
    row = RunRow(
        pk=pk,
        run_id=spec.run_id,
        workflow=spec.workflow,
        status=PENDING,
        created_at=now,
        started_at=None,
        completed_at=None,
        wake_at=begin,
        deadline=None if options.timeout_us is None else begin + options.timeout_us,
        expires_at=None,
        retention_us=options.retention_us,
        parent_id=spec.parent_id,
        root_id=spec.root_id,
        deployment_id=options.deployment_id,
        attributes=encode_attributes(options.attributes),
        blocked=None,
        behaviour=BEHAVIOUR,
        bound_to=spec.bound_to,
        origin=spec.made_from,
    )
    due = None if begin == now else begin
    kind = EventKind.RUN_CREATED
    return row, Event(1, kind, spec.origin, spec.workflow, now, due, spec.payload)
