"""How a step's answer to a webhook request reaches the sender that waits for it.

Owns the two ends: `answer`, called where the answer is made, and `wait_for_answer`, called by
whoever holds the sender's connection, in the journal's owner or in a client of it. In
between is the owner's engine; see `_engine.answers`.

In a body an answer is given by a step of the library's own, so that it is given once.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any, cast

from durable._authoring.context import current_attempt, current_body
from durable._authoring.step import Step, StepOptions
from durable._engine.ports import EnginePort
from durable._surface.current import current_runtime
from durable.errors import WorkflowRunNotFoundError, WrongContextError

Data = dict[str, Any]  # a response in its recorded form

# What is asked of the engine.
WAIT, GIVE = "webhook_wait", "webhook_give"


def answer_key(token: str, delivery: str) -> str:
    """Return the name of a delivery to a webhook, from which its token cannot be told."""
    return sha256(f"{token}\n{delivery}".encode(errors="replace")).hexdigest()


async def answer(key: str, data: Data) -> bool:
    """Hand in the answer to a delivery; return whether its sender was waiting.

    Raises:
        WrongContextError: called neither in a body nor in an async step.
    """
    if current_body() is not None:
        return await _answer_in_body(key, data)
    return await _answer(key, data)


async def _answer(key: str, data: Data) -> bool:
    attempt = current_attempt.get()
    if attempt is None or attempt.runtime is None:
        raise WrongContextError(
            "request.respond_with() works in an async step, or in the body: its sender is "
            "reached through the runtime that runs them"
        )
    port = await (await current_runtime()).port()
    return bool(await port.ask(GIVE, key=key, answer=data))


# An attempt that was interrupted runs again, and answers the delivery that is repeated.
_answer_in_body: Step[[str, Data], bool] = Step(_answer, "durable.respond_with", StepOptions())


async def wait_for_answer(port: EnginePort, key: str, run_id: str) -> Data | None:
    """Return the answer to a delivery; None when its run ends without one."""
    given = asyncio.ensure_future(port.ask(WAIT, key=key))
    ended = asyncio.ensure_future(_end(port, run_id))
    try:
        await asyncio.wait({given, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not given.done():
            await asyncio.sleep(0)  # the step that answers ends before its run does
        if given.done():
            return cast(Data, given.result())
        ended.result()
        return None
    finally:
        for each in (given, ended):
            if not each.cancel() and not each.cancelled():
                each.exception()  # seen: asyncio would report one that nobody asked for


async def _end(port: EnginePort, run_id: str) -> None:
    try:
        await port.wait_end(run_id, parked=False)
    except WorkflowRunNotFoundError:  # ended and deleted
        pass
