"""Futures of others that asyncio takes without asking whose they are.

Most of asyncio checks that a future belongs to the running loop. `asyncio.wait` does not,
and `asyncio.wrap_future` takes one that is completed by a thread: a body would wait for
something that cannot be replayed, or wait for ever. Both ask the loop for a future first,
and there the loop asks here.
"""

from __future__ import annotations

import asyncio
from types import CodeType, FrameType
from typing import Any

from durable.errors import NotInBodyError

_tasks: Any = asyncio.tasks

# Who makes a future for others; the former has them in `fs`.
WAIT: CodeType = _tasks._wait.__code__
WRAP_FUTURE: CodeType = asyncio.wrap_future.__code__


def refuse_foreign(caller: FrameType, loop: asyncio.AbstractEventLoop) -> None:
    """Refuse what the frame `caller`, of `WAIT` or `WRAP_FUTURE`, is about to wait for.

    Raises:
        NotInBodyError: something of it does not belong to `loop`.
    """
    if caller.f_code is WRAP_FUTURE:
        given = caller.f_locals["future"]
        raise NotInBodyError(
            f"a workflow body awaited {given!r}, which a thread or process completes, and that "
            "cannot be replayed: put this work in a @step and await the step"
        )
    for given in caller.f_locals["fs"]:
        if asyncio.isfuture(given) and given.get_loop() is not loop:
            raise NotInBodyError(
                "a workflow body awaited something that belongs to the host's event loop "
                f"(asyncio.wait() got {given!r}): put this work in a @step and await the step"
            )
