"""`Run`: the handle of one durable execution.

A handle is an id and the way to a runtime; it holds no state, pickles as its id, and
asking it costs one read. Inside a workflow body its methods are recorded as steps, so
that replay sees the same answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable
from datetime import datetime, timedelta
from os import PathLike, fspath
from typing import Any, Generic, TypeVar, cast

from durable._authoring.context import current_attempt, current_body
from durable._authoring.namespaces import check_namespace
from durable._authoring.primitives import from_us, get_step_metadata
from durable._authoring.step import Step, StepOptions
from durable._authoring.writable import Writable
from durable._base.duration import parse_duration
from durable._engine.ports import EnginePort, RunEnd
from durable._journal.attributes import decode_attributes, decode_blocked
from durable._journal.chunks import StreamKey, stream_names
from durable._journal.records import BLOCKED, CANCELLED, COMPLETED, CONTINUED, FAILED
from durable._journal.seals import text_of
from durable._surface.carrying import export_run
from durable._surface.current import Access
from durable._surface.handle import check_numbers, check_reason
from durable._surface.history import HistoryEvent, RunStatus, read_events, waiting_for
from durable._surface.hook_info import HookInfo, hooks_of
from durable._surface.lifecycle import Lifecycle
from durable._surface.outside import OutsideChannel
from durable._surface.streams import Stream, StreamBytes, check_start, tail_of
from durable.errors import (
    InternalError,
    WorkflowRunBlockedError,
    WorkflowRunCancelledError,
    WorkflowRunNotFoundError,
    WrongContextError,
)

R = TypeVar("R", covariant=True)  # noqa: PLC0105 - results are R everywhere
T = TypeVar("T")
Duration = float | timedelta | str


class Run(Lifecycle, Generic[R]):
    """The handle of a run; made by `start` and `get_run`.

    Attributes:
        run_id: the run's id.

    Example:
        ``run = await start(fulfil, "A-17"); receipt = await run``
    """

    # --- the outcome ------------------------------------------------------------------

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait for the run's end and return its result.

        Args:
            timeout: give up waiting after this time (seconds, a `timedelta` or text such as
                ``"1m"``); the run goes on. Default: wait for ever.

        Of a run that has continued as a new one, it is the result of the last in the chain.

        Raises:
            WorkflowRunFailedError: it failed; `__cause__` is the original exception.
            WorkflowRunCancelledError: it was cancelled.
            WorkflowRunBlockedError: it cannot go on before somebody acts.
            WorkflowRunNotFoundError: there is no such run.
            TimeoutError: `timeout` is over. DurationError: it is not usable.
            WrongContextError: asked by the run itself, in its body or in one of its steps.
        """
        seconds = None if timeout is None else parse_duration(timeout, what="timeout") / 1e6
        self._refuse_own()
        if current_body() is not None:
            return cast(R, await self._within(seconds, _in_body_result(self.run_id)))
        access = await self._way()
        end = self._end(await access.port())
        came = await (end if seconds is None else self._within(seconds, end))
        return cast(R, _outcome(access, came))

    def _refuse_own(self) -> None:
        """Raise if the run asks for its own result: it would wait for ever, and silently."""
        body, attempt = current_body(), current_attempt.get()
        if body is not None:
            asking, where = body.run_id, "its body"
        elif attempt is not None:
            asking, where = attempt.metadata.run_id, f"its step {attempt.metadata.name}"
        else:
            return
        if asking == self.run_id:
            raise WrongContextError(
                f"run {self.run_id} asks for its own result, in {where}, and would wait for itself "
                "for ever: ask from outside of the run, or start another run and ask that one"
            )

    async def _within(self, seconds: float | None, end: Awaitable[T]) -> T:
        if seconds is None:
            return await end
        limit = asyncio.timeout(seconds)  # in a body, a durable wait
        try:
            async with limit:
                return await end
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(
                f"run {self.run_id} has not ended within {seconds:g} s: it goes on, ask again"
            ) from None

    async def _end(self, port: EnginePort) -> RunEnd:
        end = await port.wait_end(self.run_id)
        while end.row.status == CONTINUED and end.payload is not None:
            end = await port.wait_end(text_of(end.payload))
        return end

    def __await__(self) -> Generator[Any, None, R]:
        return self.result().__await__()

    # --- what it is and does -------------------------------------------------------------

    async def exists(self) -> bool:
        """Tell whether the journal holds this run."""
        return await self._asked("exists", self._exists)

    async def status(self) -> RunStatus:
        """Return its status: pending, running, blocked, completed, failed, cancelled, continued.

        The text carries `reason` (why it is blocked) and `waiting_for`.
        """
        return await self._asked("status", self._status)

    async def workflow_name(self) -> str:
        """Return the name of its workflow."""
        return await self._asked("workflow_name", lambda: self._column(lambda row: row.workflow))

    async def created_at(self) -> datetime:
        """Return when it was created (UTC)."""
        return await self._asked(
            "created_at", lambda: self._column(lambda row: from_us(row.created_at))
        )

    async def started_at(self) -> datetime | None:
        """Return when its body began (UTC), None while it is pending."""
        return await self._asked(
            "started_at", lambda: self._column(lambda row: _moment(row.started_at))
        )

    async def completed_at(self) -> datetime | None:
        """Return when it ended, in whatever way (UTC), None before."""
        return await self._asked(
            "completed_at", lambda: self._column(lambda row: _moment(row.completed_at))
        )

    async def attributes(self) -> dict[str, str]:
        """Return its attributes: those it was started with, and what it has set since."""
        return await self._asked(
            "attributes", lambda: self._column(lambda row: decode_attributes(row.attributes))
        )

    async def parent_id(self) -> str | None:
        """Return the id of the run that started it, if one did."""
        return await self._asked("parent_id", lambda: self._column(lambda row: row.parent_id))

    async def children(self) -> list[Run[Any]]:
        """Return the runs that its body has started, oldest first.

        Example:
            ``for child in await run.children(): print(child.run_id, await child.status())``
        """
        return await self._asked("children", self._children)

    async def continued_as(self) -> Run[R] | None:
        """Return the run that goes on in its place after `continue_as_new`, None if none does."""
        return await self._asked("continued_as", self._continued_as)

    async def events(self) -> list[HistoryEvent]:
        """Return its history for people. Recorded values are shown without running their code."""
        return await self._asked("events", self._events)

    async def hooks(self) -> list[HookInfo]:
        """Return its open hooks, oldest first. Their metadata is loaded like a result."""
        return await self._asked("hooks", self._hooks)

    # --- what it emits ------------------------------------------------------------------

    def stream(
        self, namespace: str | None = None, start_index: int = 0, *, follow: bool = True
    ) -> Stream:
        """Return an async iterator of what the run writes to a stream, from the beginning.

        Args:
            namespace: name of the stream; None or "" for the default one.
            start_index: index of the first item wanted; negative: so many before the end.
            follow: wait for what is still to come (default); False: only what is there.

        It ends when the stream is closed or the run has ended. See `Stream`.

        Raises (also while iterating):
            WorkflowRunNotFoundError: there is no such run.
            WrongContextError: called in a workflow body; read in a step.

        Example:
            ``async for token in run.stream("tokens"): print(token, end="")``
        """
        if current_body() is not None:
            raise WrongContextError(
                "a workflow body cannot read a stream, because what is there differs on replay: "
                "read it in a @step"
            )
        name, start = check_namespace(namespace), check_start(start_index)
        return Stream(self.run_id, self._way, name, start, follow=follow)

    def stream_bytes(
        self, namespace: str | None = None, start_index: int = 0, *, follow: bool = True
    ) -> StreamBytes:
        """Return an async iterator of the stream's chunks as bytes; text becomes UTF-8.

        Args and errors are those of `stream`; a chunk that is neither raises TypeError.

        Example:
            ``async for piece in run.stream_bytes("report.pdf"): file.write(piece)``
        """
        return StreamBytes(self.stream(namespace, start_index, follow=follow))

    def get_writable(self, namespace: str | None = None) -> Writable:
        """Return a handle that writes to a stream of the run from outside of it.

        Each `write` returns when its chunk is durable; those that are awaited together share
        a COMMIT. Chunks of this handle keep their order, and none is there twice when the
        journal's owner dies meanwhile.

        Raises (while writing):
            WorkflowRunNotFoundError: there is no such run.
            StreamClosedError: the stream was closed, or the run has ended.
            WrongContextError: called in a workflow body; write in a step.

        Example:
            ``await get_run("chat-17").get_writable("messages").write("hello")``
        """
        if current_body() is not None:
            raise WrongContextError(
                "a workflow body writes to its own run only, by get_writable(); write to another "
                "run in a @step"
            )
        name = check_namespace(namespace)
        return Writable(OutsideChannel(self.run_id, self._way, name), name)

    async def tail_index(self, namespace: str | None = None) -> int:
        """Return the index of the newest item of a stream, -1 when it is empty."""
        name = check_namespace(namespace)
        return await self._asked("tail_index", lambda: self._tail_index(name), name)

    async def list_streams(self) -> list[str]:
        """Return the names of the streams that the run has written to; "" is the default."""
        return await self._asked("list_streams", self._list_streams)

    # --- what can be asked of it ------------------------------------------------------------

    async def cancel(self, reason: str | None = None) -> None:
        """Ask the run to end: its body gets `CancelledError` at its await.

        The body may clean up in `finally` within the runtime's grace time; a second call
        ends the run at once. A finished run stays as it is; the request goes to the one that
        continues it. Returns when the request is durable.
        """
        check_reason(reason)
        await self._asked("cancel", lambda: self._cancel(reason), reason)

    async def wake_up(self, correlation_ids: Iterable[int] | None = None) -> int:
        """End pending sleeps before their time; return how many.

        Args:
            correlation_ids: sequence numbers of `wait_created` events; default: all sleeps.
        """
        chosen = check_numbers(correlation_ids)
        return await self._asked("wake_up", lambda: self._wake_up(chosen), chosen)

    async def resume(self) -> None:
        """Let a paused run go on, or a blocked one try again after its code has been mended."""
        await self._asked("resume", self._resume)

    async def delete(self) -> None:
        """Delete the run, which must have ended; nobody can see it any more afterwards.

        Its id is free again. Space is given back in the background.

        Raises:
            WorkflowRunNotFinishedError: it has not ended: cancel it first.
            WorkflowRunNotFoundError: there is no such run.
        """
        await self._asked("delete", self._delete)

    async def export(
        self, path: str | PathLike[str] | None = None, *, overwrite: bool = False
    ) -> dict[str, Any]:
        """Return the run as one JSON document, with its history and all recorded values.

        For a bug report, or for `import_run` on another machine. Beside each value stands a
        preview; ``about`` and each ``shown`` may be cut out of the file by hand.

        Args:
            path: also write it to this file, of mode 0600. Default: no file.
            overwrite: over an existing file.

        Raises:
            WorkflowRunNotFoundError: there is no such run.
            FileExistsError: there is such a file. OSError: it cannot be written.

        Example:
            ``await get_run("order-17").export("order-17.json")``
        """
        chosen = None if path is None else fspath(path)
        return await self._asked(
            "_export", lambda: self._export(chosen, overwrite), chosen, overwrite
        )

    # --- how -------------------------------------------------------------------------------

    async def _asked(
        self, method: str, ask: Callable[[], Awaitable[T]], *args: object, **options: object
    ) -> T:
        if current_body() is not None:
            return cast(T, await _IN_BODY(self.run_id, method, args, options))
        return await ask()

    async def _exists(self) -> bool:
        return await (await self._way()).reader.run_by_id(self.run_id) is not None

    async def _status(self) -> RunStatus:
        row = await self._row()
        if row.status == BLOCKED:
            return RunStatus(row.status, decode_blocked(row.blocked).reason)
        return RunStatus(row.status, waiting_for=await waiting_for(await self._way(), row))

    async def _children(self) -> list[Run[Any]]:
        access = await self._way()
        await self._row()  # there has to be such a run
        return [Run(row.run_id, access) for row in await access.reader.children(self.run_id)]

    async def _continued_as(self) -> Run[R] | None:
        access, row = await self._way(), await self._row()
        if row.status != CONTINUED:
            return None
        last = await access.reader.end_event(row.pk, row.run_id)
        return None if last is None or not last.payload else Run(text_of(last.payload), access)

    async def _events(self) -> list[HistoryEvent]:
        return await read_events(await self._way(), await self._row())

    async def _hooks(self) -> list[HookInfo]:
        row = await self._row()
        return await hooks_of(await self._way(), row.pk, row.run_id)

    async def _tail_index(self, namespace: str) -> int:
        key = StreamKey((await self._row()).pk, self.run_id, namespace)
        return await tail_of(await self._way(), key)

    async def _list_streams(self) -> list[str]:
        return await stream_names((await self._way()).reader, (await self._row()).pk)

    async def _cancel(self, reason: str | None) -> None:
        await (await self._port()).cancel(self.run_id, reason)

    async def _wake_up(self, chosen: list[int] | None) -> int:
        return await (await self._port()).wake_up(self.run_id, chosen)

    async def _resume(self) -> None:
        await (await self._port()).resume(self.run_id)

    async def _delete(self) -> None:
        port = await (access := await self._way()).port()
        if await access.reader.run_by_id(self.run_id) is None:
            raise WorkflowRunNotFoundError(self.run_id)
        await port.ask("delete_run", run_id=self.run_id)

    async def _export(self, path: str | None, overwrite: bool) -> dict[str, Any]:
        return await export_run(await self._way(), self.run_id, path, overwrite=overwrite)

    def __repr__(self) -> str:
        return f"<Run {self.run_id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.run_id == self.run_id

    __hash__ = Lifecycle.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return (Run, (self.run_id,))


def _moment(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)


def _outcome(access: Access, end: RunEnd) -> object:
    row, payload = end
    run_id = row.run_id
    if row.status == BLOCKED:
        blocked = decode_blocked(row.blocked)
        raise WorkflowRunBlockedError(run_id, blocked.kind, blocked.reason)
    if row.status == CANCELLED:
        raise WorkflowRunCancelledError(run_id, None if payload is None else text_of(payload))
    if payload is None or row.status not in (COMPLETED, FAILED):
        raise InternalError(f"run {run_id} ended as {row.status} without a payload")
    if row.status == FAILED:
        raise access.payloads.decode_run_failure(payload, run_id)
    return access.payloads.decode(payload)


# --- inside bodies: handles are asked in a step, so that the answer is recorded ---------------


async def _ask_in_step(
    run_id: str, method: str, args: tuple[object, ...], options: dict[str, object]
) -> object:
    run: Run[object] = Run(run_id)
    run._step_id = get_step_metadata().step_id
    return await getattr(run, method)(*args, **options)


async def _result_in_step(run_id: str) -> object:
    """Stand for what the engine does itself: it answers the step when that run has ended."""
    raise InternalError(f"the engine does not wait for run {run_id}")


# Asking again would not help: the answer of a run that has ended does not change.
_ONCE = StepOptions(max_retries=0)
_IN_BODY: Step[..., object] = Step(_ask_in_step, "durable.run", _ONCE)
_in_body_result: Step[[str], object] = Step(
    _result_in_step, "durable.run.result", StepOptions(max_retries=0, waits_for_run=True)
)
