"""The same work on DBOS Transact over SQLite: as it comes, and with WAL switched on before.

DBOS keeps SQLite's rollback journal unless the file is in WAL mode already; its writes are
`synchronous=FULL` in both cases, so it is compared at "full" only. Its sizes are smaller
than ours, because they are figures per operation and it needs far longer for each.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from benchmarks.floors import Samples
from benchmarks.workload import Figure, Settings, Workload

LATENCIES = 50
STEPS = 200
RUNS, STEPS_EACH = 100, 5
STARTS = 300

Measure = Callable[[Any], Awaitable[Samples]]


async def one_step(flows: Any) -> Samples:
    """Seconds from start to result, one run at a time."""
    samples = []
    for _ in range(LATENCIES + 1):
        begun = perf_counter()
        await (await flows.start(flows.chain, 1)).get_result()
        samples.append(perf_counter() - begun)
    return {"run": samples[1:]}


async def sequential(flows: Any) -> Samples:
    """Seconds per step of one run."""
    begun = perf_counter()
    await (await flows.start(flows.chain, STEPS)).get_result()
    return {"step": [(perf_counter() - begun) / STEPS]}


async def concurrent(flows: Any) -> Samples:
    """Seconds per step of many runs."""
    begun = perf_counter()
    runs = await asyncio.gather(*(flows.start(flows.chain, STEPS_EACH) for _ in range(RUNS)))
    await asyncio.gather(*(run.get_result() for run in runs))
    return {"step": [(perf_counter() - begun) / (RUNS * STEPS_EACH)]}


async def gathered(flows: Any) -> Samples:
    """Seconds per step of one run that gathers its steps."""
    begun = perf_counter()
    await (await flows.start(flows.fan_out, STEPS)).get_result()
    return {"step": [(perf_counter() - begun) / STEPS]}


async def starts(flows: Any) -> Samples:
    """Seconds of one start, and of each of many at once."""
    samples = []
    for _ in range(LATENCIES):
        begun = perf_counter()
        run = await flows.start(flows.chain, 0)
        samples.append(perf_counter() - begun)
        await run.get_result()
    begun = perf_counter()
    runs = await asyncio.gather(*(flows.start(flows.chain, 0) for _ in range(STARTS)))
    each = (perf_counter() - begun) / STARTS
    await asyncio.gather(*(run.get_result() for run in runs))
    return {"start": samples, "gathered": [each]}


async def launched(settings: Settings, measure: Measure, *, wal: bool) -> Samples:
    """Perform one measurement on a fresh database, after a run that is not counted."""
    from dbos import DBOS

    path = settings.journal()
    if wal:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    config = {
        "name": "benchmark",
        "system_database_url": f"sqlite:///{path}",
        "run_admin_server": False,
        "log_level": "ERROR",
    }

    @DBOS.step()
    async def add(number: int, other: int) -> int:
        return number + other

    class Flows:
        start = staticmethod(DBOS.start_workflow_async)

        @staticmethod
        @DBOS.workflow()
        async def chain(steps: int) -> int:
            number = 0
            for other in range(steps):
                number = await add(number, other)
            return number

        @staticmethod
        @DBOS.workflow()
        async def fan_out(steps: int) -> int:
            return sum(await asyncio.gather(*(add(number, 1) for number in range(steps))))

    DBOS(config=config)
    DBOS.launch()
    try:
        await (await DBOS.start_workflow_async(Flows.chain, 1)).get_result()
        return await measure(Flows)
    finally:
        DBOS.destroy()


WORK: dict[str, tuple[str, Measure, tuple[Figure, ...]]] = {
    "W1": ("one-step run", one_step, (Figure("run", "start to result", "F1"),)),
    "W2": (f"{STEPS} sequential steps", sequential, (Figure("step", "per step", "F1", "mean"),)),
    "W3": (f"{RUNS} runs x 5 steps", concurrent, (Figure("step", "per step", "T", "mean"),)),
    "W4": (f"gather of {STEPS} steps", gathered, (Figure("step", "per step", "T", "mean"),)),
    "W5": (
        f"start() latency; {STARTS} starts",
        starts,
        (
            Figure("start", "start() latency", "F1"),
            Figure("gathered", f"each of {STARTS} gathered", "T", "mean"),
        ),
    ),
}


def workload(name: str, *, wal: bool) -> Workload:
    """One of `WORK` as DBOS does it."""
    title, measure, figures = WORK[name]
    return Workload(
        name=name,
        title=title,
        perform=lambda settings: settings.run(launched(settings, measure, wal=wal)),
        figures=figures,
        subject="dbos, WAL" if wal else "dbos",
        requires="dbos",
        durabilities=("full",),
    )


WORKLOADS = tuple(workload(name, wal=wal) for name in WORK for wal in (False, True))
