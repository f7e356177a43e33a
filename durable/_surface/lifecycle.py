"""What becomes of runs beyond their first end: tried again, made anew.

Owns the way from a handle's methods to the engine's answers, wherever that engine is, and
to new runs that are made from old ones. Handles are `run.Run`; what retrying means for a
history is decided in `_engine.rewind` and `_replay.rewound`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

from durable._authoring.workflow import StartOptions
from durable._base.ids import valid_run_id
from durable._engine.ports import Created, RunSpec
from durable._engine.rewind import time_allowed
from durable._journal.attributes import (
    Origin,
    decode_attributes,
    decode_origin,
    encode_origin,
)
from durable._journal.reader import Reader
from durable._journal.records import RunRow
from durable._replay.attributes import first_attributes
from durable._surface.handle import RunHandle
from durable.errors import WorkflowRunNotFoundError

RERUN, FORKED, CONTINUED = "rerun", "forked", "continued"  # how a run was made


class LifecyclePort(Protocol):
    """What is needed of an engine, or of a journal that nobody executes."""

    async def create(self, specs: Sequence[RunSpec]) -> list[Created]:
        """Record runs."""

    async def ask(self, what: str, **fields: Any) -> Any:
        """Ask a part of the engine."""


class RunOrigin(NamedTuple):
    """What a run was made from.

    Attributes:
        how: ``"rerun"``, ``"forked"`` or ``"continued"``.
        run_id: the run that it was made from.

    Example:
        ``if (origin := await run.origin()) and origin.how == "rerun": ...``
    """

    how: str
    run_id: str


def origin_of(row: RunRow) -> RunOrigin | None:
    """Return what a run was made from, None when it was simply started."""
    origin = decode_origin(row.origin)
    return None if origin is None else RunOrigin(origin.how, origin.run_id)


def checked_id(run_id: str | None, fresh: str) -> str:
    """Return the id for a run that is made from another one.

    Raises:
        ValueError: `run_id` is given and cannot name a run.
    """
    return fresh if run_id is None else valid_run_id(run_id)


async def rerun(reader: Reader, port: LifecyclePort, row: RunRow, run_id: str) -> str:
    """Start a new run with the workflow, input and options of another one; return its id."""
    history = await reader.history(row.pk, row.run_id)
    if not history or history[0].payload is None:
        raise WorkflowRunNotFoundError(row.run_id)  # deleted meanwhile
    begun_with = first_attributes(decode_attributes(row.attributes), history)
    options = StartOptions(
        run_id=run_id,
        on_conflict="return",
        timeout_us=time_allowed(row, history),
        attributes=tuple(sorted(begun_with.items())),
        deployment_id=row.deployment_id,
        retention_us=row.retention_us,
    )
    made_from = encode_origin(Origin(RERUN, row.run_id))
    spec = RunSpec(run_id, row.workflow, history[0].payload, options, made_from=made_from)
    (created,) = await port.create([spec])
    return created.run_id


async def retry(port: LifecyclePort, run_id: str, request: str) -> None:
    """Let a failed run go on; see `Run.retry`."""
    await port.ask("retry", run_id=run_id, request=request)


async def pause(port: LifecyclePort, run_id: str, reason: str | None) -> None:
    """Keep a run from going on; see `Run.pause`."""
    await port.ask("pause", run_id=run_id, reason=reason)


class Lifecycle(RunHandle):
    """The methods of a handle that are about more than one end of a run."""

    async def origin(self) -> RunOrigin | None:
        """Return what it was made from, by `rerun` for example; None if it was just started."""
        return await self._asked("origin", lambda: self._column(origin_of))

    async def replayed_from(self) -> str | None:
        """Return the id of the run that it is a `rerun` or `fork` of, if it is one."""
        origin = await self.origin()
        return origin.run_id if origin is not None and origin.how in (RERUN, FORKED) else None

    async def pause(self, reason: str | None = None) -> None:
        """Keep the run from going on until `resume`; it is blocked meanwhile, over restarts too.

        No attempt begins. Those that are running may end, and what they come to is
        recorded; the body learns of it when the run goes on. Sleeps that fall due meanwhile
        end then; the run's `timeout` goes on counting. Who waits for the result waits on.
        Returns when it is durable; a run that is paused stays so.

        Args:
            reason: shown with the status. Cancelling a paused run lets it clean up.

        Raises:
            RunStateError: the run has ended.

        Example:
            ``await run.pause("the bank is down"); ...; await run.resume()``
        """
        await self._asked("pause", lambda: self._pause(reason), reason)

    async def retry(self) -> None:
        """Let a failed run go on from its failed step, in place; returns when it is durable.

        The step whose failure ended the run is attempted again, with all its retries, and
        so are the steps that were cut off then. Completed steps do not run again. What the
        body did after the failure (in `except` and `finally`, or in other branches) is
        forgotten and done again if the code comes to it again. Pending sleeps go on with
        the time that was left to them, the run's `timeout` counts anew.

        A body that raised an exception of its own, which no step's failure led to, is given
        once more what reached it last: mended code goes on, the same code fails again.
        Whoever has been told of the failure is not told anew. Children that were cancelled
        with the run stay cancelled.

        Raises:
            RunStateError: the run has not failed; the message names what helps.

        Example:
            ``try: await run except WorkflowRunFailedError: ...; await run.retry()``
        """
        await self._asked("retry", self._retry)

    async def rerun(self, *, run_id: str | None = None) -> Self:
        """Start a new run with the same workflow, input and options; return its handle.

        The recorded input is used as it is; code that has changed meanwhile runs as it is
        now. `origin` of the new run names this one. It has no parent.

        Args:
            run_id: for the new run. As in `start`, one that exists is returned if it has
                the same workflow and input.

        Raises:
            RunConflictError: another run has this id. ValueError: it cannot name a run.

        Example:
            ``again = await get_run("order-17").rerun()``
        """
        checked_id(run_id, "")
        return await self._asked("rerun", lambda: self._rerun(run_id), run_id=run_id)

    async def _pause(self, reason: str | None) -> None:
        await pause(await self._port(), self.run_id, reason)

    async def _retry(self) -> None:
        await retry(await self._port(), self.run_id, self._request())

    async def _rerun(self, run_id: str | None) -> Self:
        access, row = await self._way(), await self._row()
        wanted = checked_id(run_id, self._derived_id())
        return type(self)(await rerun(access.reader, await access.port(), row, wanted), access)
