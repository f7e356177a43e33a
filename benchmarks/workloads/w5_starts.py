"""W5: what `start()` costs, one at a time and 10,000 at once.

The latency is taken with nothing else going on (each run is finished before the next
start). The bulk figures end when every `start()` has returned, which means: is on the
disk. "running" starts runs that begin to execute meanwhile and so pays for part of
their execution too; "deferred" starts runs that begin in an hour.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from benchmarks.engine import open_runtime
from benchmarks.floors import Samples
from benchmarks.workload import Bar, Figure, Settings, Workload
from durable import Run, Runtime, workflow

LATENCIES = 300
STARTS = 10_000

# Counted in instructions (callgrind; T = 46,660), which load does not change.
WHY_ONE = (
    "one COMMIT by the journal's thread, F1t; a start is 10.7 T of instructions in all (deferred, "
    "by itself). One that may begin at once is performed up to its first wait before that "
    "COMMIT, which spares it one of its own. The COMMIT holds the run with its indexes and two "
    "events: several pages, where F1 writes one."
)
WHY_MANY = (
    "a deferred start takes 5.8 T of instructions in `start_many`, 8.8 T as a call of its "
    "own in a `gather` (its task, its write, its answer). A run's row has its indexes, and its "
    "events go into another table: 1.1 T in SQLite alone. Runs that begin at once are performed "
    "meanwhile on the same loop, and the collector goes through all of them again and again."
)


@workflow
async def trivial(number: int) -> int:
    """A run without steps."""
    return number


deferred = trivial.options(delay=3600)


async def latencies(settings: Settings) -> list[float]:
    """Seconds until `start()` returns; the first is not counted."""
    samples = []
    async with open_runtime(settings, "latency") as runtime:
        for number in range(settings.size(LATENCIES) + 1):
            begun = perf_counter()
            run = await runtime.start(trivial, number)
            samples.append(perf_counter() - begun)
            await run.result()
    return samples[1:]


async def start_gathered(runtime: Runtime, count: int) -> list[Run[int]]:
    """`count` starts as so many calls at once."""
    return await asyncio.gather(*(runtime.start(trivial, number) for number in range(count)))


async def start_gathered_deferred(runtime: Runtime, count: int) -> list[Run[int]]:
    """The same, of runs that begin in an hour."""
    return await asyncio.gather(*(runtime.start(deferred, number) for number in range(count)))


async def start_in_one_call(runtime: Runtime, count: int) -> list[Run[int]]:
    """`count` starts in one `start_many`."""
    return await runtime.start_many(trivial, [(number,) for number in range(count)])


async def start_deferred_in_one_call(runtime: Runtime, count: int) -> list[Run[int]]:
    """The same, of runs that begin in an hour."""
    return await runtime.start_many(deferred, [(number,) for number in range(count)])


RUNNING = {"gathered": start_gathered, "many": start_in_one_call}
DEFERRED = {
    "gathered_deferred": start_gathered_deferred,
    "many_deferred": start_deferred_in_one_call,
}
BULK = RUNNING | DEFERRED


async def bulk(settings: Settings, name: str) -> Samples:
    """Seconds per start of one way to start many runs, on its own journal."""
    count = settings.size(STARTS)
    samples = {}
    async with open_runtime(settings, name) as runtime:
        await BULK[name](runtime, 2)
        begun = perf_counter()
        runs = await BULK[name](runtime, count)
        samples[name] = [(perf_counter() - begun) / count]
        if name in RUNNING:
            await asyncio.gather(*(run.result() for run in runs))
            samples[f"{name}_finished"] = [(perf_counter() - begun) / count]
    return samples


async def measure(settings: Settings) -> Samples:
    """The latency of one start, then seconds per start of each bulk way."""
    samples = {"start": await latencies(settings)}
    for name in BULK:
        samples |= await bulk(settings, name)
    return samples


WORKLOADS = (
    Workload(
        name="W5",
        title="start() latency; 10,000 starts",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(
            Figure("start", "start() latency", floor="F1"),
            Figure("gathered", "each of 10,000 gathered, running", "T", "mean"),
            Figure("gathered_finished", "... until all have finished", "T", "mean"),
            Figure("gathered_deferred", "each of 10,000 gathered, deferred", "T", "mean"),
            Figure("many", "each of start_many(10,000), running", "T", "mean"),
            Figure("many_finished", "... until all have finished", "T", "mean"),
            Figure("many_deferred", "each of start_many(10,000), deferred", "T", "mean"),
        ),
        bars=(
            Bar("start", 1.2, "full", stage="goal", why=WHY_ONE),
            Bar("gathered", 4.0, "full", stage="goal", why=WHY_MANY),
            Bar("many", 4.0, "full", stage="goal", why=WHY_MANY),
        ),
        operations=4 * STARTS + LATENCIES,
    ),
)
