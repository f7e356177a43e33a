"""What workflow bodies and steps call: time, randomness, metadata, logging.

Inside a body each of these gives the same answer on every replay; in a step or outside
they are the ordinary thing, so that code can be shared.
"""

from __future__ import annotations

import asyncio
import logging
import random as _random
from collections.abc import MutableMapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from durable._authoring.context import (
    StepMetadata,
    WorkflowMetadata,
    current_attempt,
    current_body,
)
from durable._base.clock import SystemClock
from durable._base.duration import when
from durable._replay.body import Body
from durable.errors import WrongContextError

if TYPE_CHECKING:  # it imports the half of the standard library
    from uuid import UUID

_clock = SystemClock()
_shared = _random.SystemRandom()


def from_us(us: int) -> datetime:
    """Return UTC microseconds as an aware datetime."""
    return datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000)


async def sleep(duration: float | timedelta | datetime | str) -> None:
    """Wait durably: in a workflow body the wait survives restarts and costs no memory.

    Args:
        duration: seconds, a `timedelta`, text such as ``"1h30m"``, or an aware `datetime`
            to wait for. At most 100 years.

    Raises:
        DurationError: negative, NaN, naive or absurd; nothing was recorded.

    In a step or outside it is `asyncio.sleep`.

    Example:
        ``await sleep("7 days")``
    """
    body = current_body()
    now_us = _clock.wall_us() if body is None else body.script.now_us
    due_us, absolute = when(duration, now_us, what="sleep")
    if body is not None and absolute:
        await body.wait_until(due_us)
    else:
        await asyncio.sleep((due_us - now_us) / 1e6)


def now() -> datetime:
    """Return the current time (UTC); in a body journal time, which replays identically.

    Example:
        ``due = now() + timedelta(days=14)``
    """
    body = current_body()
    return from_us(_clock.wall_us() if body is None else body.script.now_us)


def random() -> _random.Random:
    """Return a random generator; in a body it is seeded by the run and replays identically.

    Not for secrets: whoever knows the run's id knows the numbers.

    Example:
        ``winner = random().choice(names)``
    """
    body = current_body()
    return _shared if body is None else _seeded(body)


def uuid4() -> UUID:
    """Return a random UUID; in a body the same one on every replay.

    Example:
        ``invoice = str(uuid4())``
    """
    import uuid

    body = current_body()
    if body is None:
        return uuid.uuid4()
    return uuid.UUID(int=_seeded(body).getrandbits(128), version=4)


def _seeded(body: Body) -> _random.Random:
    generator = body.scratch.get("random")
    if generator is None:
        seed = int.from_bytes(sha256(body.seed.encode()).digest(), "big")
        generator = body.scratch["random"] = _random.Random(seed)
    assert isinstance(generator, _random.Random)
    return generator


def get_workflow_metadata() -> WorkflowMetadata:
    """Return facts about the run whose body is asking.

    Raises:
        WrongContextError: not called from a workflow body.

    Example:
        ``customer = get_workflow_metadata().attributes["customer"]``
    """
    body = current_body()
    if body is None:
        raise WrongContextError(
            "get_workflow_metadata() works in a workflow body; in a step use get_step_metadata()"
        )
    metadata = body.scratch["metadata"]()
    assert isinstance(metadata, WorkflowMetadata)
    return metadata


def get_step_metadata() -> StepMetadata:
    """Return facts about the running attempt, such as its idempotency key.

    Raises:
        WrongContextError: not called from a step that a run is executing.

    Example:
        ``await bank.charge(cents, idempotency_key=get_step_metadata().idempotency_key)``
    """
    attempt = current_attempt.get()
    if attempt is None or current_body() is not None:
        raise WrongContextError("get_step_metadata() works only inside a step of a run")
    return attempt.metadata


class ReplaySafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that is silent while a body replays, and names the run in `extra`.

    Example:
        ``logger.info("packing %s", order)``
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's own name
        """Tell whether a record of `level` would be emitted here and now."""
        body = current_body()
        if body is not None and body.script.replaying:
            return False
        return self.logger.isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add `run_id` and, in a step, `step_id` to the record."""
        extra: dict[str, Any] = dict(kwargs.get("extra") or {})
        body, attempt = current_body(), current_attempt.get()
        if body is not None:
            extra["run_id"] = body.run_id
        elif attempt is not None:
            extra["run_id"] = attempt.metadata.run_id
            extra["step_id"] = attempt.metadata.step_id
        kwargs["extra"] = extra
        return msg, kwargs


logger = ReplaySafeLogger(logging.getLogger("durable.workflow"), {})
