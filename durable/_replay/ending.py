"""How a run ends, once its body has: as which event, with which payload.

Owns the judgement alone; the body records it, or holds it against the recorded end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from durable._replay.blame import blamed_step
from durable._replay.events import Event, EventKind
from durable._replay.mailbox import Mailbox, OpenHook
from durable._replay.ports import Payloads
from durable.errors import NotInBodyError, WorkflowTimeoutError

# How asyncio says that something belongs to another loop, and so to the host.
_FOREIGN = ("attached to a different loop", "to a different event loop", "different loop than")


class Continuation(BaseException):
    """Unwinds a body that goes on as the run `run_id`; `payload` holds its arguments.

    No `Exception`, so that a body which deals with errors does not take it for one.

    Attributes:
        kept: hooks whose tokens the new run shall have.
        boxes: the mailboxes; what has not been taken out of them goes to the new run.
    """

    def __init__(
        self,
        run_id: str,
        payload: bytes,
        kept: Sequence[OpenHook] = (),
        boxes: Mapping[str, Mailbox] = MappingProxyType({}),
    ) -> None:
        super().__init__("the run continues as a new one")
        self.run_id = run_id
        self.payload = payload
        self.kept = kept
        self.boxes = boxes


class Ending(NamedTuple):
    """The event, its payload, the step whose failure it is (0 = none), and what follows."""

    kind: EventKind
    payload: bytes | None
    blamed: int = 0
    continuation: Continuation | None = None


def _continuation(error: BaseException) -> Continuation | None:
    """Return what a body has raised to go on as another run, if that is it.

    It may come in the group that a `TaskGroup` makes, but not together with an error.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Continuation) else None


def ending_of(
    run_id: str, task: asyncio.Task[Any], request: Event | None, payloads: Payloads
) -> Ending:
    """Return how a run ends whose finished body is `task`; `request` asked to cancel it."""
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is None:
        try:
            return Ending(EventKind.RUN_COMPLETED, payloads.encode(task.result(), "result"))
        except Exception as refused:
            error = refused
    elif request is not None and isinstance(error, asyncio.CancelledError):
        return cancelled_ending(request, payloads)
    elif (next_run := _continuation(error)) is not None:
        if request is not None:  # who was asked to end does not go on under another name
            return cancelled_ending(request, payloads)
        return Ending(EventKind.RUN_CONTINUED, next_run.run_id.encode(), 0, next_run)
    blamed = blamed_step(error, run_id)
    return Ending(EventKind.RUN_FAILED, payloads.encode_error(_explain(error)), blamed)


def cancelled_ending(request: Event, payloads: Payloads) -> Ending:
    """Return how a run ends as `request` asks: cancelled, or failed at its deadline."""
    if request.name != "deadline":
        return Ending(EventKind.RUN_CANCELLED, request.payload)
    came = "its deadline came" if request.payload is None else request.payload.decode()
    late = WorkflowTimeoutError(f"the run was not finished when {came}")
    return Ending(EventKind.RUN_FAILED, payloads.encode_error(late))


def _explain(error: BaseException) -> BaseException:
    """Say what to do where asyncio's own message does not."""
    if not isinstance(error, (RuntimeError, ValueError)):
        return error
    if not any(phrase in str(error) for phrase in _FOREIGN):
        return error
    hint = NotInBodyError(
        "a workflow body awaited something that belongs to the host's event loop "
        f"({error}): put this work in a @step and await the step"
    )
    hint.__cause__ = error
    return hint
