"""Records new runs.

A run under a fresh id begins at once: its first activation shares the transaction that
creates it, so that the start of a run and its first step cost one COMMIT. A run under an
id of the caller's choice waits to be told that the id was free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from durable._base.clock import Clock
from durable._engine.hot import HotRun
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
    """See the module's docstring."""

    def __init__(
        self,
        journal: Journal,
        loader: Loader,
        recovery: Recovery,
        payloads: EnginePayloads,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._loader = loader
        self._recovery = recovery
        self._payloads = payloads
        self._clock = clock

    async def create(self, specs: Sequence[RunSpec]) -> list[Created]:
        """Record `specs`; return when all are durable.

        Raises:
            RunExistsError, RunConflictError: an id is taken; see `StartOptions.on_conflict`.
            JournalError: not recorded.
        """
        births = [self._begin(spec) for spec in specs]
        created = []
        for spec, birth in zip(specs, births, strict=True):
            existing = await birth
            if existing is not None:
                await self._check_same(spec, existing)
            created.append(Created(spec.run_id, existing))
        return created

    def _begin(self, spec: RunSpec) -> asyncio.Future[RunRow | None]:
        born: asyncio.Future[RunRow | None] = asyncio.get_running_loop().create_future()
        row, event = self._rows(spec)
        run = HotRun(row, spec.definition)
        due_now = row.wake_at == row.created_at
        born_at_once = spec.options.run_id is None and due_now and self._recovery.has_room()

        def done(error: BaseException | None) -> None:
            existing = write.existing.get(row.run_id)
            if error is None and existing is None and not born_at_once:
                self._admit(run, event)
            if not born.done():
                if error is None:
                    born.set_result(existing)
                else:
                    born.set_exception(error)

        write = Write(done=done, runs=[row], events=[RunEvent(row.pk, row.run_id, event)])
        if born_at_once:
            run.birth = write  # submitted with the first activation, or with the parking
            self._loader.admit(run, event)
        else:
            self._journal.submit(write)
        return born

    def _admit(self, run: HotRun, event: Event) -> None:
        due_now = run.row.wake_at is not None and run.row.wake_at <= self._clock.wall_us()
        if due_now and self._recovery.has_room():
            self._loader.admit(run, event)
        else:
            self._recovery.leave_behind(run.row.wake_at)

    def _rows(self, spec: RunSpec) -> tuple[RunRow, Event]:
        options, now = spec.options, self._clock.wall_us()
        begin = now
        if options.at_us is not None:
            begin = max(now, options.at_us)
        elif options.delay_us is not None:
            begin = now + options.delay_us
        row = RunRow(
            pk=self._journal.next_pk(),
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
        )
        created = Event(1, EventKind.RUN_CREATED, 0, spec.workflow, now, None, spec.payload)
        return row, created

    async def _check_same(self, spec: RunSpec, existing: RunRow) -> None:
        run_id = existing.run_id
        if spec.options.on_conflict == "raise":
            raise RunExistsError(run_id)
        if existing.workflow != spec.workflow:
            raise RunConflictError(
                run_id,
                f"run {run_id!r} exists and runs {existing.workflow}, not {spec.workflow}: "
                "choose another run_id",
            )
        first = await self._journal.reader.history(existing.pk, run_id, limit=1)
        if not self._same_call(spec.payload, first[0].payload):
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
