"""W13: one run that gathers 1000 steps written as plain functions, which run in threads."""

from __future__ import annotations

import asyncio
from time import perf_counter

from benchmarks.engine import open_runtime
from benchmarks.floors import Samples
from benchmarks.workload import Bar, Figure, Settings, Workload
from durable import step, workflow

STEPS = 1000


@step
def square(number: int) -> int:
    """The smallest step that is no coroutine."""
    return number * number


@workflow
async def fan_out(steps: int) -> int:
    """All steps at once; the sum of what they return."""
    return sum(await asyncio.gather(*(square(number) for number in range(steps))))


async def measure(settings: Settings) -> Samples:
    """Seconds per step of the one run, after one that made the threads."""
    steps = settings.size(STEPS)
    async with open_runtime(settings) as runtime:
        await (await runtime.start(fan_out, 64)).result()
        begun = perf_counter()
        run = await runtime.start(fan_out, steps)
        await run.result()
        total = perf_counter() - begun
    return {"step": [total / steps]}


WORKLOADS = (
    Workload(
        name="W13",
        title="gather of 1000 steps in threads",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(Figure("step", "per step", floor="T", statistic="mean"),),
        bars=(Bar("step", 10.0, stage="goal"),),
        operations=STEPS,
    ),
)
