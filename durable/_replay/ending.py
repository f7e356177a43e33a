"""How a run ends, once its body has: as which event, with which payload.

Owns the judgement alone; the body records it, or holds it against the recorded end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from durable._replay.events import Event, EventKind
from durable._replay.ports import Payloads
from durable.errors import NotInBodyError, WorkflowTimeoutError

Ending = tuple[EventKind, bytes | None]

# How asyncio says that something belongs to another loop, and so to the host.
_FOREIGN = ("attached to a different loop", "to a different event loop", "different loop than")


def ending_of(task: asyncio.Task[Any], request: Event | None, payloads: Payloads) -> Ending:
    """Return how a run ends whose finished body is `task`; `request` asked to cancel it."""
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is None:
        try:
            return EventKind.RUN_COMPLETED, payloads.encode(task.result(), "result")
        except Exception as refused:
            error = refused
    elif request is not None and isinstance(error, asyncio.CancelledError):
        return cancelled_ending(request, payloads)
    return EventKind.RUN_FAILED, payloads.encode_error(_explain(error))


def cancelled_ending(request: Event, payloads: Payloads) -> Ending:
    """Return how a run ends as `request` asks: cancelled, or failed at its deadline."""
    if request.name != "deadline":
        return EventKind.RUN_CANCELLED, request.payload
    came = "its deadline came" if request.payload is None else request.payload.decode()
    late = WorkflowTimeoutError(f"the run was not finished when {came}")
    return EventKind.RUN_FAILED, payloads.encode_error(late)


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
