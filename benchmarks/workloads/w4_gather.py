"""W4: one run that gathers 1000 steps, from `start()` to the result."""

from __future__ import annotations

import asyncio
from time import perf_counter

from benchmarks.engine import open_runtime
from benchmarks.floors import Samples
from benchmarks.workload import Bar, Figure, Settings, Workload
from durable import step, workflow

STEPS = 1000

# Counted in instructions (callgrind; T = 46,660), which load does not change.
WHY = (
    "a step takes 4.6 T of instructions; without any engine it takes S, 1.15 T. SQLite has 0.27 T "
    "and pickle 0.03 T in both, so 3.3 T are the engine's Python: 48 calls (tests/budgets lists "
    "them), some 0.07 T each with their lines. 2 T would leave twelve calls for names, replay's "
    "check, attempt, outcome, time limit, cancellation, two events with checksums and the handing "
    "over to the writer. No part of it is large: it is the "
    "number of small ones, each of which a promise asks for, that plain Python is too slow for."
)


@step
async def square(number: int) -> int:
    """The smallest step."""
    return number * number


@workflow
async def fan_out(steps: int) -> int:
    """All steps at once; the sum of what they return."""
    return sum(await asyncio.gather(*(square(number) for number in range(steps))))


async def measure(settings: Settings) -> Samples:
    """Seconds per step of the one run."""
    steps = settings.size(STEPS)
    async with open_runtime(settings) as runtime:
        await (await runtime.start(fan_out, 2)).result()
        begun = perf_counter()
        run = await runtime.start(fan_out, steps)
        await run.result()
        total = perf_counter() - begun
    return {"step": [total / steps]}


WORKLOADS = (
    Workload(
        name="W4",
        title="gather of 1000 steps",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(Figure("step", "per step", floor="T", statistic="mean"),),
        bars=(Bar("step", 7.0), Bar("step", 2.0, stage="goal", why=WHY)),
        operations=STEPS,
    ),
)
