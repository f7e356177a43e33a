"""What becomes of runs beyond their first end: tried again, made anew.

Owns the way from a handle's methods to the engine's answers, wherever that engine is, and
to new runs that are made from old ones. Handles are `run.Run`; what retrying means for a
history is decided in `_engine.rewind` and `_replay.rewound`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from durable._authoring.step import Step
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
from durable._journal.sealing import require_open
from durable._replay.attributes import first_attributes
from durable._surface.given import check_reason
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
    require_open(history)
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


Results = Mapping[str | int | Step[..., Any], object]


def named_results(results: Results) -> dict[str | int, object]:
    """Return the results of steps by their names, ids or numbers.

    Raises:
        TypeError: a key names no step.
    """
    named: dict[str | int, object] = {}
    for key, value in results.items():
        name = key.name if isinstance(key, Step) else key
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            raise TypeError(
                f"results={{{key!r}: ...}}: name a step by itself, its name, id or number"
            )
        named[name] = value
    return named


def place_of(at: object) -> int | str | None:
    """Return a place in a history as an engine takes it.

    Raises:
        TypeError: it is none.
    """
    at = at.name if isinstance(at, Step) else at
    if at is not None and (isinstance(at, bool) or not isinstance(at, (int, str))):
        raise TypeError(f"at={at!r} is no place: give the number of an event, or a step")
    return at


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
        check_reason(reason)
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

    async def fork(
        self,
        at: str | int | Step[..., Any] | None = None,
        results: Results | None = None,
        *,
        run_id: str | None = None,
    ) -> Self:
        """Start a new run that shares this one's history up to a place; return its handle.

        Works on runs of any status; this one stays as it is. Shared steps do not run again,
        those without an outcome at that place do (under keys of their own). The new run
        draws the same random numbers; it has no parent, no streams of this one, and its
        `timeout` counts anew. Handles of children in the shared history are of the same
        runs. `origin` names this run.

        Args:
            at: the number of an event: the last one that is shared; or a step (itself, its
                name or its id): the first one that is attempted again. Default: the end of
                the history; of a failed run, where `retry` would go on.
            results: what steps are to have returned, by step, name or id. Without `at`, what
                the body did after the first of them is decided anew. With `at`, earlier
                results change what is shared, and code that decides something else because
                of them parks the run as blocked.
            run_id: of the new run; repeated under the same id the same run is returned.

        Raises:
            ForkError: there is no such place or step, or more than one.
            RunExistsError: `run_id` is taken. TypeError, ValueError: an argument is unusable.
            RunStateError: the history has used a hook that is still held by another run.
            SerializationError: a result cannot be stored.

        Example:
            ``fixed = await run.fork(results={"charge": "receipt-17"})``
        """
        checked_id(run_id, "")
        place = place_of(at)
        named = named_results(results or {})
        return await self._asked(
            "fork", lambda: self._fork(place, named, run_id), place, named, run_id=run_id
        )

    async def _pause(self, reason: str | None) -> None:
        await pause(await self._port(), self.run_id, reason)

    async def _retry(self) -> None:
        await retry(await self._port(), self.run_id, self._request())

    async def _rerun(self, run_id: str | None) -> Self:
        access, row = await self._way(), await self._row()
        wanted = checked_id(run_id, self._derived_id())
        return type(self)(await rerun(access.reader, await access.port(), row, wanted), access)

    async def _fork(
        self, at: int | str | None, results: dict[str | int, object], run_id: str | None
    ) -> Self:
        access, new_id = await self._way(), checked_id(run_id, self._derived_id())
        edits = [
            [key, access.payloads.encode(value, f"results[{key!r}]")]
            for key, value in results.items()
        ]
        port = await access.port()
        await port.ask("fork", run_id=self.run_id, new_id=new_id, at=at, results=edits)
        return type(self)(new_id, access)
