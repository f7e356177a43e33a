"""W3: 1000 runs at the same time, 5 steps each, from the first `start()` to the last result."""

from __future__ import annotations

import asyncio
from time import perf_counter

from benchmarks.engine import open_runtime
from benchmarks.floors import Samples
from benchmarks.workload import Bar, Figure, Settings, Workload
from durable import Runtime, step, workflow

RUNS = 1000
STEPS = 5

# Counted in instructions (callgrind; T = 46,660), which load does not change.
WHY = (
    "a step with its fifth of a run takes 8.5 T of instructions (0.9 T in SQLite); "
    "without any engine it takes S, 1.15 T. A step costs what W4's does, 4.6 T; the other 19 T of "
    "a run are arguments bound, an id, a row with its indexes, a body with its loop and task, a "
    "handle, its end, its result. While the journal's thread writes, it and the loop take turns "
    "at the interpreter's lock, and the collector goes through all that 1000 live runs hold."
)


@step
async def add(number: int, other: int) -> int:
    """The smallest step."""
    return number + other


@workflow
async def five_steps(number: int) -> int:
    """Five steps, each waiting for the one before."""
    for other in range(STEPS):
        number = await add(number, other)
    return number


async def perform_runs(runtime: Runtime, count: int) -> None:
    """Start `count` runs at once and wait for all of them."""
    runs = await asyncio.gather(*(runtime.start(five_steps, number) for number in range(count)))
    await asyncio.gather(*(run.result() for run in runs))


async def measure(settings: Settings) -> Samples:
    """Seconds per step, the starts and the results included."""
    count = settings.size(RUNS)
    async with open_runtime(settings) as runtime:
        await perform_runs(runtime, 2)
        begun = perf_counter()
        await perform_runs(runtime, count)
        total = perf_counter() - begun
    return {"step": [total / (count * STEPS)]}


WORKLOADS = (
    Workload(
        name="W3",
        title="1000 concurrent runs x 5 steps",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(Figure("step", "per step", floor="T", statistic="mean"),),
        bars=(Bar("step", 7.0), Bar("step", 2.0, stage="goal", why=WHY)),
        operations=RUNS * STEPS,
    ),
)
