"""W11: how long other work of the host's loop waits while 1000 runs are going on.

A ticker sleeps a millisecond at a time; what its sleeps take longer than that is what
the engine (or the machine) kept the loop from doing. The same ticker on a loop with
nothing else to do shows the machine's own share.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from benchmarks.engine import open_runtime
from benchmarks.floors import Samples
from benchmarks.spread import spread
from benchmarks.workload import Bar, Figure, Settings, Workload
from benchmarks.workloads.w3_concurrent import RUNS, STEPS, perform_runs
from benchmarks.workloads.w4_gather import fan_out
from benchmarks.workloads.w5_starts import start_in_one_call

TICK = 0.001

# Seen by a sampler that tells which calls fill the turns of the loop that are too long.
WHY = (
    "what the engine does by itself goes in slices of 5 ms, several of which (scheduler, answers "
    "of the writer) may share a turn of the host's loop, and 32 starts of a `gather` begin in one. "
    "But this work also asks for a thousand results in one `gather`: a loop runs all that is ready "
    "before it looks at its timers, so the first halves of these calls are one turn. The rest of "
    "the longest waits is the collector of Python, whose oldest generation holds all live runs."
)


async def tick(late: list[float]) -> None:
    """Note for ever how much later than asked for each sleep ends."""
    while True:
        begun = perf_counter()
        await asyncio.sleep(TICK)
        late.append(perf_counter() - begun - TICK)


async def measure(settings: Settings) -> Samples:
    """The p99 and the maximum of the ticker's delays, in seconds."""
    samples: Samples = {}
    async with open_runtime(settings) as runtime:
        await perform_runs(runtime, 2)

        async def gather() -> None:
            await (await runtime.start(fan_out, settings.size(10_000))).result()

        async def many() -> None:
            runs = await start_in_one_call(runtime, settings.size(10_000))
            await asyncio.gather(*(run.result() for run in runs))

        work = {
            "quiet": lambda: asyncio.sleep(1),
            "runs": lambda: perform_runs(runtime, settings.size(RUNS)),
            "gather": gather,
            "many": many,
        }
        for name, begin in work.items():
            late: list[float] = []
            ticker = asyncio.create_task(tick(late))
            await begin()
            ticker.cancel()
            found = spread(late)
            samples |= {f"{name}_p99": [found.p99], f"{name}_max": [found.max]}
    return samples


WORKLOADS = (
    Workload(
        name="W11",
        title="stall of the host's loop",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(
            Figure("quiet_p99", "p99, nothing going on"),
            Figure("quiet_max", "max, nothing going on"),
            Figure("runs_p99", "p99, 1000 runs x 5 steps"),
            Figure("runs_max", "max, 1000 runs x 5 steps"),
            Figure("gather_p99", "p99, one run that gathers 10,000 steps"),
            Figure("gather_max", "max, one run that gathers 10,000 steps"),
            Figure("many_p99", "p99, start_many of 10,000"),
            Figure("many_max", "max, start_many of 10,000"),
        ),
        bars=(
            Bar("runs_p99", 0.010, stage="goal", why=WHY),
            Bar("runs_max", 0.030, stage="goal", why=WHY),
        ),
        operations=RUNS * STEPS,
    ),
)
