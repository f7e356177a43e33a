"""W9: from nothing to the first finished run, in fresh processes.

Compared with a process that only imports asyncio and sqlite3: everything below that
nobody can get. The journal with finished runs is made of rows, not by running them.
"""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter

from benchmarks.engine import fill_with_finished_runs, open_runtime
from benchmarks.floors import Samples
from benchmarks.workload import Bar, Figure, Settings, Workload

PROCESSES = 10
FINISHED = 100_000

BARE = "import asyncio, sqlite3"
IMPORT = "import durable"
FIRST_RUN = """
import asyncio, sys
from durable import Runtime, step, workflow

@step
async def add(number: int, other: int) -> int:
    return number + other

@workflow
async def one_step(number: int) -> int:
    return await add(number, 1)

async def main() -> None:
    async with Runtime(sys.argv[1], durability=sys.argv[2]) as runtime:
        assert await (await runtime.start(one_step, 1)).result() == 2

asyncio.run(main())
"""


def lasted(program: str, *arguments: str) -> float:
    """Seconds from the start of a Python process to its end."""
    begun = perf_counter()
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)
    return perf_counter() - begun


async def prepare(settings: Settings) -> None:
    """Make the journal with finished runs."""
    async with open_runtime(settings, "many") as runtime:
        await fill_with_finished_runs(runtime, settings.size(FINISHED))


def measure(settings: Settings) -> Samples:
    """Seconds of whole processes, and their ratios, turn by turn."""
    settings.run(prepare(settings))
    fresh, many = str(settings.journal("fresh")), str(settings.journal("many"))
    samples: Samples = {name: [] for name in ("bare", "import", "first", "first_many")}
    for program in (BARE, IMPORT):
        lasted(program)  # the files are in memory from here on
    for _ in range(settings.size(PROCESSES)):
        samples["bare"].append(lasted(BARE))
        samples["import"].append(lasted(IMPORT))
        samples["first"].append(lasted(FIRST_RUN, fresh, settings.durability))
        samples["first_many"].append(lasted(FIRST_RUN, many, settings.durability))
    bare, first = min(samples["bare"]), min(samples["first"])
    samples["import_ratio"] = [min(samples["import"]) / bare]
    samples["first_ratio"] = [first / bare]
    samples["many_ratio"] = [min(samples["first_many"]) / first]
    return samples


WORKLOADS = (
    Workload(
        name="W9",
        title="cold start",
        perform=measure,
        figures=(
            Figure("bare", "process that imports asyncio, sqlite3"),
            Figure("import", "process that imports durable"),
            Figure("first", "process that finishes a first run"),
            Figure("first_many", "... with 100,000 finished runs in the file"),
            Figure("import_ratio", "import, over the bare process (best of each)", unit="count"),
            Figure("first_ratio", "first run, over the bare process", unit="count"),
            Figure("many_ratio", "with finished runs, over without", unit="count"),
        ),
        bars=(
            Bar("import_ratio", 2.5, stage="goal"),
            Bar("first_ratio", 3.0, stage="goal"),
            Bar("many_ratio", 1.1, stage="goal"),
        ),
        operations=PROCESSES,
        once=True,
    ),
)
