"""A process under test: it opens a runtime and evaluates what it is sent.

One request per line on stdin, ``[number, expression]``; awaitables are awaited, many at
a time. One line on stdout for each answer, ``[number, value]`` or ``[number, null, error]``,
and ``[null, what, value]`` for what happens by itself: ``opened`` and ``began``.

The names of an expression: `rt` (the runtime), `here` and all flows, `run(id)`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

from durable import Runtime
from tests.ownership import flows


def main() -> None:
    """Read the settings from the command line and serve until stdin ends."""
    settings = json.loads(sys.argv[1])
    if settings["ledger"] is not None:
        flows.here.ledger = flows.Ledger(Path(settings["ledger"]))
    flows.here.announce = lambda tag: tell(None, "began", tag)
    asyncio.run(serve(settings))


async def serve(settings: dict[str, Any]) -> None:
    """Open the runtime, then answer; ends with stdin, leaving in order."""
    names: dict[str, Any] = {**vars(flows), "asyncio": asyncio, "os": os}
    exec(settings["prelude"], names)
    rt = names["rt"] = Runtime(settings["path"], **settings["options"])
    names["run"] = rt.get_run
    answering: set[asyncio.Task[None]] = set()
    try:
        async with rt:
            tell(None, "opened", rt.is_owner)
            async for line in lines():
                task = asyncio.create_task(answer(*json.loads(line), names))
                answering.add(task)
                task.add_done_callback(answering.discard)
    except Exception as error:
        tell(None, "refused", describe(error))


async def lines() -> Any:
    """Lines of stdin as they come."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield line


async def answer(number: int, expression: str, names: dict[str, Any]) -> None:
    """Evaluate one expression and tell what came of it."""
    try:
        code = compile(expression, "<asked>", "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        value = eval(code, names)
        while inspect.isawaitable(value):
            value = await value
        tell(number, value)
    except Exception as error:
        tell(number, None, describe(error))


def describe(error: BaseException) -> list[str]:
    """Names of the error's type and of its cause's, and its text."""
    return [type(error).__name__, type(error.__cause__).__name__, str(error)]


def tell(*message: Any) -> None:
    """Write one line in one piece."""
    os.write(1, (json.dumps(message, default=str) + "\n").encode())


if __name__ == "__main__":
    main()
