"""Runs are deleted, imported, and cancelled many at a time.

What an import brings in has been checked as a document; here it becomes a run of this
journal: one that has ended can be read, any other is parked, so that nothing runs by
surprise. All of it says the same when it is asked twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from durable._base.clock import Clock
from durable._base.ids import valid_run_id
from durable._engine.commands import Commands
from durable._engine.hot import HotRun
from durable._engine.loader import Loader
from durable._journal.attributes import Blocked, decode_blocked, encode_blocked
from durable._journal.chunks import StreamKey, chunk_op
from durable._journal.journal import Journal
from durable._journal.portable import parse_document, unpack
from durable._journal.records import BLOCKED, FINISHED, RowOp, RunEvent, RunRow, Write
from durable._journal.seals import Seals
from durable._journal.whole import WholeRun
from durable._replay.events import CANCEL_REQUESTED, Event
from durable.errors import (
    DurableError,
    RunConflictError,
    RuntimeClosedError,
    WorkflowRunNotFinishedError,
    WorkflowRunNotFoundError,
)

CANCELS_AT_ONCE = 32
REQUESTED, WAS_FINISHED, NOT_FOUND, REFUSED = "requested", "finished", "not_found", "error"


class Shelf:
    """Puts runs away and takes them in, in a journal that we own; see the module's docstring.

    Args:
        find: returns a run that is in memory.
        expiry: tells when a run may be deleted that ends at a time (UTC microseconds).
        sweep: has what is in the trash deleted, and what expires.
        one_at_a_time: shared by all that bring finished runs back.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        find: Callable[[str], HotRun | None],
        expiry: Callable[[RunRow, int], int | None],
        sweep: Callable[[], object],
        *,
        one_at_a_time: asyncio.Lock,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._find = find
        self._expiry = expiry
        self._sweep = sweep
        self._one_at_a_time = one_at_a_time

    async def delete_run(self, run_id: str) -> None:
        """Delete a finished run; nobody can see it any more when this returns.

        Raises:
            WorkflowRunNotFinishedError: it has not ended.
        """
        async with self._one_at_a_time:
            run = self._find(run_id)
            if run is not None:
                if not run.finished:
                    raise WorkflowRunNotFinishedError(run_id, run.state.status)
                # After its end is durable.
                await self._journal.perform(Write(done=_ignore, vital=True))
            row = await self._journal.reader.run_by_id(run_id)
            if row is None:
                return
            if row.status not in FINISHED or not await self._journal.delete_run(row.pk):
                raise WorkflowRunNotFinishedError(run_id, row.status)
        self._sweep()

    async def import_run(self, document: bytes, run_id: str | None) -> dict[str, Any]:
        """Record the run of an exported document; returns its id, and if it was there before.

        Raises:
            InvalidExportError: the document is not usable.
            RunConflictError: there is another run under this id.
        """
        if run_id is not None:
            valid_run_id(run_id)
        packed = await asyncio.to_thread(_unpacked, document, self._journal.seals_of)
        row = self._settled(packed, run_id)
        events = [RunEvent(row.pk, row.run_id, event) for event in packed.events]
        write = Write(
            done=_ignore,
            runs=[row],
            events=events,
            ops=_stream_ops(row, packed, self._journal.seals),
        )
        await self._journal.perform(write)
        found = write.existing.get(row.run_id)
        if found is not None and found.pk != row.pk:
            await self._check_same(found, packed)
            return {"run_id": row.run_id, "existing": True}
        self._sweep()
        return {"run_id": row.run_id, "existing": False}

    def _settled(self, packed: WholeRun, run_id: str | None) -> RunRow:
        row = packed.row._replace(
            pk=self._journal.next_pk(),
            run_id=run_id or packed.row.run_id,
            bound_to=None,  # whoever it was bound to, it is not here
        )
        if row.status in FINISHED:
            return row._replace(expires_at=self._expiry(row, self._clock.wall_us()))
        reason = (
            f"it was imported while it was {row.status}, so that it may be looked at: "
            "`await run.resume()` lets it go on here, with this program's code"
        )
        # What was recorded while it was parked has still to reach its body.
        seq = decode_blocked(row.blocked).seq if row.status == BLOCKED else None
        blocked = encode_blocked(Blocked("imported", reason, seq=seq))
        return row._replace(status=BLOCKED, blocked=blocked)

    async def _check_same(self, found: RunRow, packed: WholeRun) -> None:
        there = await self._journal.reader.history(found.pk, found.run_id)
        # It may have gone on since it was imported.
        if _plain(there[: len(packed.events)]) != _plain(packed.events):
            raise RunConflictError(
                found.run_id,
                f"there is another run with the id {found.run_id!r}: "
                "give the imported one a run_id of its own",
            )


class Cancellations:
    """Cancels many runs, a bounded number of them at a time; see the module's docstring.

    Args:
        cancel: requests the cancellation of one run.
    """

    def __init__(
        self,
        commands: Commands,
        loader: Loader,
        cancel: Callable[[str, str | None], Awaitable[None]],
    ) -> None:
        self._commands = commands
        self._loader = loader
        self._cancel = cancel

    async def cancel_runs(
        self, run_ids: Sequence[str], reason: str | None
    ) -> list[tuple[str, str | None]]:
        """Request the cancellation of each run; return what came of it, and why not.

        A run that is being cancelled already is left to its clean-up.
        """
        slots = asyncio.Semaphore(CANCELS_AT_ONCE)

        async def one(run_id: str) -> tuple[str, str | None]:
            async with slots:
                return await self._outcome(run_id, reason)

        return await asyncio.gather(*map(one, run_ids))

    async def _outcome(self, run_id: str, reason: str | None) -> tuple[str, str | None]:
        try:
            return await self._request(run_id, reason), None
        except WorkflowRunNotFoundError as error:
            return NOT_FOUND, str(error)
        except RuntimeClosedError:
            raise  # nobody has decided anything
        except DurableError as error:
            return REFUSED, str(error)

    async def _request(self, run_id: str, reason: str | None) -> str:
        run = await self._commands.fetch(self._loader, run_id)
        if isinstance(run, RunRow):
            if run.status in FINISHED:
                return WAS_FINISHED
        elif run.body is not None and run.body.outcome is not None:
            return WAS_FINISHED
        elif _is_being_cancelled(run):
            return REQUESTED
        await self._cancel(run_id, reason)
        return REQUESTED


def _is_being_cancelled(run: HotRun) -> bool:
    if run.body is not None and run.body.cancel_event is not None:
        return True
    return any(item.kind == CANCEL_REQUESTED for item in run.inbox)


def _unpacked(document: bytes, seals_of: Callable[[str], Seals]) -> WholeRun:
    return unpack(parse_document(document), seals_of)


def _stream_ops(row: RunRow, packed: WholeRun, seals: Seals | None) -> list[RowOp]:
    return [
        chunk_op(StreamKey(row.pk, row.run_id, name), chunk, seals)
        for name, chunks in packed.streams.items()
        for chunk in chunks
    ]


def _plain(events: Sequence[Event]) -> list[tuple[object, ...]]:
    return [tuple(event) for event in events]


def _ignore(error: BaseException | None) -> None:
    """Do nothing: `perform` tells the outcome."""
