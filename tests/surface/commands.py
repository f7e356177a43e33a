"""A process beside the test's own that performs commands, one after the other."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import contextlib, io, json, sys
from durable._surface.cli import main

for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""

Perform = Callable[..., Awaitable[tuple[int, str, str]]]


@asynccontextmanager
async def commands(path: Path) -> AsyncIterator[Perform]:
    """Give what performs a command on a journal, and returns its code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    ask, answers = process.stdin, process.stdout

    async def perform(*arguments: str) -> tuple[int, str, str]:
        ask.write((json.dumps([*arguments, "--db", str(path)]) + "\n").encode())
        code, out, err = json.loads(await answers.readline())
        return code, out, err

    try:
        yield perform
    finally:
        ask.close()
        await process.wait()
