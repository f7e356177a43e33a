"""Where the calling code runs: in a workflow body, in a step's attempt, or in neither.

A body is recognised by its running loop, an attempt by a context variable that the
engine sets around it (and that a sync step's thread inherits).
"""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar, cast

from durable._replay.body import Body
from durable._replay.loop import BodyLoop
from durable.errors import WrongContextError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepMetadata:
    """Facts about the running attempt of a step.

    `step_id` and `idempotency_key` stay the same over all attempts, crashes included:
    hand the key to services that de-duplicate. `attempt` counts from 1. `yielded`, in a
    generator step, is how many items are on record from earlier attempts.

    Example:
        ``if get_step_metadata().attempt > 1: await bank.look_up(order)``
    """

    step_id: str
    name: str
    attempt: int
    started_at: datetime
    run_id: str
    idempotency_key: str
    yielded: int = 0


@dataclass(frozen=True, slots=True)
class WorkflowMetadata:
    """Facts about the run whose body is asking. `started_at` is journal time (UTC).

    `first_run_id` is the run's own id unless it continues others: then that of the first.

    Example:
        ``get_workflow_metadata().run_id``
    """

    run_id: str
    workflow_name: str
    created_at: datetime
    started_at: datetime
    parent_id: str | None
    root_id: str
    first_run_id: str
    attributes: dict[str, str]
    deployment_id: str | None


class Attempt(Protocol):
    """An attempt as the code inside it sees it."""

    @property
    def runtime(self) -> object:
        """The runtime that makes the attempt; None in a worker process."""

    @property
    def metadata(self) -> StepMetadata:
        """Facts about the attempt."""

    def channel(self, namespace: str, mode: str) -> Any:
        """Return a `Channel` to a stream of the run; on the host's loop only."""

    def wait_for(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `make()` on the host's loop; blocks, so from a thread only."""


current_attempt: ContextVar[Attempt | None] = ContextVar("durable_attempt", default=None)


def current_body() -> Body | None:
    """Return the body whose code is running, or None outside workflow bodies."""
    loop = _get_running_loop()
    return cast(Body, loop._timers) if type(loop) is BodyLoop else None


@dataclass(frozen=True, slots=True)
class _FarAttempt:
    """An attempt in a worker process, where no runtime is."""

    metadata: StepMetadata
    runtime: object = None

    def channel(self, namespace: str, mode: str) -> Any:
        raise _no_stream(self.metadata)

    def wait_for(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        raise _no_stream(self.metadata)


def _no_stream(metadata: StepMetadata) -> WrongContextError:
    return WrongContextError(
        f'step {metadata.name} runs with executor="process" and cannot write to streams: return '
        'the values, or use executor="thread"'
    )


def run_in_attempt(
    metadata: StepMetadata, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> T:
    """Run a step's function in a worker process, where context variables do not reach."""
    token = current_attempt.set(_FarAttempt(metadata))
    try:
        return fn(*args, **kwargs)
    finally:
        current_attempt.reset(token)
