"""Workflows that the processes of the stream tests share.

What a step was promised (its chunks up to here are durable) it writes to the file named by
its argument, in one `write` each, so that a test can hold the journal against it after the
process was killed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from durable import Backoff, get_step_metadata, get_writable, step, workflow

ROOT = Path(__file__).parents[2]
FAST = Backoff(initial=0.001, factor=1.0, max=0.001, jitter=0.0)

# Opened by the process that runs the step, one for each number.
gates: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)


def open_gate(number: int) -> None:
    """Let the gated step write the chunk `number`."""
    gates[number].set()


async def collect(stream: Any) -> list[Any]:
    """Read a stream to its end."""
    return [item async for item in stream]


def python(*arguments: str) -> list[str]:
    """Return the command line of a Python process."""
    return [sys.executable, *arguments]


@step
async def emit_gated(count: int) -> None:
    """Write one number after the other, each when its gate is open."""
    out = get_writable()
    for number in range(count):
        await gates[number].wait()
        await out.write(number)


@workflow
async def gated(count: int) -> str:
    """Streams `count` numbers."""
    await emit_gated(count)
    return "done"


def promise(ledger: str, *values: object) -> None:
    """Note in the ledger what the journal has promised."""
    file = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, (" ".join(map(str, values)) + "\n").encode())
    finally:
        os.close(file)


@step(backoff=FAST)
async def emit_promised(ledger: str, count: int) -> int:
    """Write numbers and note, after each few, up to which they are durable."""
    attempt = get_step_metadata().attempt
    out = get_writable("promised")
    for number in range(count):
        await out.write((attempt, number))
        if number % 5 == 4:
            await out.drain()
            promise(ledger, attempt, number)
    return count


@step(backoff=FAST, stream="items")
async def yield_numbers(count: int) -> AsyncIterator[int]:
    """Yield numbers, with a breath in between."""
    for number in range(count):
        yield number
        await asyncio.sleep(0)


@step(backoff=FAST, stream="counted")
async def yield_more(count: int) -> AsyncIterator[int]:
    """Yield numbers, to be awaited."""
    for number in range(count):
        yield number
        await asyncio.sleep(0)


@workflow
async def busy(ledger: str, count: int) -> list[Any]:
    """Writes in every way that there is."""
    log = get_writable("log")
    await log.write("begin")
    await emit_promised(ledger, count)
    taken = []
    async for number in yield_numbers(count):
        taken.append(number)
        if number % 20 == 0:
            await log.write(number)
    counted = await yield_more(count)
    await log.write("end")
    await log.close()
    return [taken, counted]
