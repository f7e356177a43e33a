"""`set_attributes`: what a running workflow tells about itself, for listings to filter by.

Owns the ways in: in a body it is a command, in a step a question to the engine that makes
the attempt, asked from its event loop or from a step's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator, Mapping
from typing import Any, Protocol, cast

from durable._authoring.attributes import check_changes
from durable._authoring.context import Attempt, current_attempt, current_body
from durable._engine.ports import EnginePort
from durable._replay.attributes import Changes, set_in_body
from durable._replay.body import Body
from durable.errors import WrongContextError


def set_attributes(changes: Mapping[str, str | None]) -> Awaitable[None]:
    """Set attributes of the run whose body or step is asking; None removes one.

    Attributes are short texts that anybody can list runs by, while the run goes on and
    afterwards: its customer, its order, how far it is. They are recorded in the history
    and kept in plain text, whatever the codec.

    Args:
        changes: the new text of each key, or None. A run keeps up to 64; keys and texts have
            1 to 256 characters, and keys do not begin with ``$``.

    In a body it is recorded with the body's next steps. In a step it is durable when the
    call returns, whatever becomes of the attempt; a sync step needs no ``await``, it blocks.

    Raises:
        TypeError, ValueError: a key or text is not usable, or there would be more than 64;
            nothing was recorded.
        WrongContextError: neither in a body nor in a step, or in a step that runs in a worker
            process, or whose attempt is over.

    Example:
        ``await set_attributes({"stage": "packing", "waiting_for": None})``
    """
    given = check_changes(changes)
    body = current_body()
    if body is not None:
        return _set_in_body(body, given)
    attempt = current_attempt.get()
    if attempt is None:
        raise WrongContextError(
            "set_attributes() works in a workflow body and in a step that a run is executing: "
            "at the start of a run give .options(attributes={...})"
        )
    return _set_in_step(attempt, given) if given else _Set()


def _set_in_body(body: Body, changes: Changes) -> Awaitable[None]:
    if changes and not set_in_body(body, changes):
        body.loop.halt()
        return body.loop.create_future()
    return _Set()


class _Set:
    """What has been done already: awaiting it takes no time, and need not be done."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class _Runtime(Protocol):
    """The runtime that makes an attempt."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it belongs to."""

    async def port(self) -> EnginePort:
        """Return an engine that takes commands."""


def _set_in_step(attempt: Attempt, changes: Changes) -> Awaitable[None]:
    runtime = cast("_Runtime | None", attempt.runtime)
    if runtime is None:
        raise WrongContextError(
            'set_attributes() does not reach the run from a step with executor="process": '
            "return the values, and set them in the body"
        )
    work = _asked(runtime, attempt, changes)
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        _from_thread(runtime, work).result()
        return _Set()
    return work if running is runtime.loop else asyncio.wrap_future(_from_thread(runtime, work))


def _from_thread(runtime: _Runtime, work: Coroutine[Any, Any, None]) -> Any:
    try:
        return asyncio.run_coroutine_threadsafe(work, runtime.loop)
    except RuntimeError:  # the loop is closed
        work.close()
        raise WrongContextError("the runtime of this step is closed: the attempt is over") from None


async def _asked(runtime: _Runtime, attempt: Attempt, changes: Changes) -> None:
    facts = attempt.metadata
    step = int(facts.step_id.rpartition(":")[2])
    port = await runtime.port()
    await port.ask(
        "set_attributes",
        run_id=facts.run_id, step=step, attempt=facts.attempt, changes=dict(changes),
    )  # fmt: skip
