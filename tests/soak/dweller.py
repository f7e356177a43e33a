"""The process of the soak: it lives through simulated days, until it is killed.

    python -m tests.soak.dweller JOURNAL LEDGER WALL_US DAYS SEED

Each quarter of a simulated day it starts a few runs of every kind and lets the time pass. It
writes a line to the ledger for each start that was acknowledged, for each run that says that
it is over, and at the end of each quarter, with what the process costs then.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

from durable import (
    Backoff,
    RetryableError,
    continue_as_new,
    create_hook,
    get_step_metadata,
    get_writable,
    sleep,
    start,
    step,
    workflow,
)
from durable.testing import VirtualClock, VirtualRuntime

QUARTER_SECONDS = 6 * 3600
RETENTION_DAYS = 7
LIFE_DAYS = 12  # within which every run is over, whatever it does
KINDS = ("plain", "retrying", "sleeping", "waiting", "emitting", "parent", "chain", "large")
PER_QUARTER = 1  # of each kind

_ledger = -1


def note(*fact: object) -> None:
    """Write one line of the ledger in one piece; and say that something has happened."""
    os.write(_ledger, (json.dumps(fact) + "\n").encode())
    os.write(1, b".")


# --- workflows ------------------------------------------------------------------------------


@step(name="soak.over")
async def over(name: str, value: int) -> None:
    note("over", name, value)


@step(name="soak.work")
async def work(value: int) -> int:
    return value + 1


@step(name="soak.flaky", max_retries=3, backoff=Backoff(initial=3600, max=86400))
async def flaky(value: int) -> int:
    if get_step_metadata().attempt < 3:
        raise RetryableError("not yet")
    return value + 1


@step(name="soak.emit")
async def emit(count: int) -> None:
    async with get_writable() as stream:
        for number in range(count):
            await stream.write({"number": number, "text": "x" * 100})


@step(name="soak.large")
async def blob(size: int) -> bytes:
    return b"x" * size


@workflow(name="soak.run")
async def live(name: str, kind: str, left: int = 3) -> int:
    """Do what a run of this kind does; say so at the end."""
    value = await _value(name, kind, left)
    await over(name, value)
    return value


async def _value(name: str, kind: str, left: int) -> int:
    match kind:
        case "plain":
            return await work(await work(await work(0)))
        case "retrying":
            return await flaky(2)
        case "sleeping":
            await sleep(f"{1 + len(name) % 5} days")
            return await work(2)
        case "waiting":
            async with create_hook(token=f"hook of {name}") as hook:
                return int(await hook)
        case "emitting":
            await emit(20)
            return 3
        case "parent":
            return await (
                await start(live.options(run_id=f"{name} child"), f"{name} child", "plain")
            )
        case "chain" if left:
            await sleep("12 hours")
            await continue_as_new(name, kind, left - 1)
    return 3 if kind == "chain" else len(await blob(50_000)) // 50_000 + 2


# --- the process ----------------------------------------------------------------------------


async def dwell(path: Path, wall_us: int, days: int, seed: int) -> None:
    """Live until so many days have passed."""
    clock = VirtualClock(wall_us)
    draw = random.Random(seed)
    retention = f"{RETENTION_DAYS} days"
    async with VirtualRuntime(path, clock=clock, retention=retention, idle_runs=50) as rt:
        note("begin", clock.wall_us(), os.getpid())
        for _ in range(4 * days):
            for kind in KINDS * PER_QUARTER:
                name = f"{kind} {draw.randrange(1 << 60):x}"
                await rt.start(live.options(run_id=name), name, kind)
                note("started", name, clock.wall_us())
            await rt.advance(QUARTER_SECONDS / 2)
            for info in await rt.list_runs(status="running", limit=500):
                for hook in await info.run.hooks():
                    await rt.resume_hook(hook, 3)
            await rt.advance(QUARTER_SECONDS / 2)
            note("quarter", clock.wall_us(), costs(path))


def costs(path: Path) -> dict[str, Any]:
    """Return what the process and its journal cost now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "wal": _size(f"{path}-wal"),
        "database": _size(str(path)),
    }


def _size(path: str) -> int:
    return os.stat(path).st_size if os.path.exists(path) else 0


if __name__ == "__main__":
    journal, ledger, wall, some_days, drawn = sys.argv[1:]
    _ledger = os.open(ledger, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    asyncio.run(dwell(Path(journal), int(wall), int(some_days), int(drawn)))
