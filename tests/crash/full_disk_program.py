"""A program on a disk that becomes full under it; it prints what it saw as JSON.

    python -m tests.crash.full_disk_program /mnt/small

The directory must be on a disk of a few megabytes of its own, which this fills up.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from durable import Run, Runtime, step, workflow
from durable.errors import JournalFullError

gate = asyncio.Event()
BULK = 40_000


@step(name="full.produce", max_retries=0)
async def produce(n: int) -> str:
    """Wait until the disk is full, then return something large."""
    await gate.wait()
    return str(n) * BULK


@workflow(name="full.flow")
async def flow(n: int, padding: str = "") -> int:
    """Two large results, one after the other."""
    first = await produce(n)
    return len(first + await produce(n)) // len(str(n))


def fill(place: Path) -> None:
    """Write to the ballast file until nothing more fits."""
    with (place / "ballast").open("ab", buffering=0) as file:
        try:
            while file.write(os.urandom(512)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


async def start_until_refused(runtime: Runtime) -> tuple[list[Run[int]], str | None]:
    """Start runs with large arguments until the journal refuses one."""
    runs: list[Run[int]] = []
    while len(runs) < 400:
        try:
            run = await runtime.start(flow, 3, "x" * BULK)
        except JournalFullError as error:
            return runs, str(error)
        runs += [run]
    return runs, None


async def start_until_nothing_fits(
    runtime: Runtime, place: Path
) -> tuple[list[Run[int]], str | None]:
    """Fill the disk and start runs, until the journal has found no more space to free."""
    runs: list[Run[int]] = []
    refused: str | None = None
    for _ in range(10):
        fill(place)
        more, refused = await start_until_refused(runtime)
        runs += more
        if not more:
            break
    fill(place)  # refusing freed the -wal and the reserve
    return runs, refused


async def main(place: Path) -> dict[str, object]:
    """Start, fill the disk, go on starting until it is refused, free the disk, finish."""
    async with Runtime(str(place / "app.db")) as runtime:
        early = [await runtime.start(flow, n) for n in range(3)]
        runs, refused = await start_until_nothing_fits(runtime, place)
        runs += early
        gate.set()
        await asyncio.sleep(0.5)  # sleeps: a wrong engine would fail the steps meanwhile
        during = [str(await run.status()) for run in runs]
        (place / "ballast").unlink()
        results = [await run.result(timeout=20) for run in runs]
        after = await (await runtime.start(flow, 7)).result(timeout=20)
        attempts = [event.kind for run in runs for event in await run.events()]
    with closing(sqlite3.connect(place / "app.db")) as connection:
        (recorded,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    return {
        "started": len(runs) + 1,
        "recorded": recorded,
        "refused": refused,
        "during": sorted(set(during)),
        "results": sorted(set(results)),
        "after": after,
        "retried": attempts.count("step_retrying"),
        "failed": attempts.count("step_failed"),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
