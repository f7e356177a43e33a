"""A program with ten healthy runs and one whose step kills the process.

``python -m tests.engine.poison_program JOURNAL [mended]``: the first launch starts
the runs, each one waits for their ends and prints the statuses as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from durable import Run, Runtime, get_step_metadata, step, workflow
from durable.errors import WorkflowRunBlockedError

KILLER = "killer"


@step
async def harmless() -> int:
    """Be in flight when the process dies."""
    for _ in range(20):
        await asyncio.sleep(0)
    return get_step_metadata().attempt


@step
async def deadly() -> str:
    """Kill the process unless it has been mended."""
    if "mended" not in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@workflow
async def healthy() -> int:
    """Two steps, of which the first is interrupted by the deaths."""
    return await harmless() + await harmless()


@workflow
async def lethal() -> str:
    """One deadly step."""
    return await deadly()


async def status_of(run: Run[object]) -> str:
    """Wait for a run's end and tell how it ended."""
    try:
        await run.result()
    except WorkflowRunBlockedError as error:
        return error.kind
    return str(await run.status())


async def main(path: str) -> None:
    """Start or continue, wait, print."""
    names = [*map(str, range(10)), KILLER]
    async with Runtime(path, durability="process") as rt:
        for name in names:
            flow = lethal if name == KILLER else healthy
            await rt.start(flow.options(run_id=name))
        if "mended" in sys.argv:
            await rt.get_run(KILLER).resume()
        print(json.dumps({name: await status_of(rt.get_run(name)) for name in names}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
