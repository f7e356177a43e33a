"""W12: what a long history and a full journal cost: the last step, the next start.

A run of 50,000 steps is timed around its 100th, 1,000th, 10,000th and last step; starts
are timed in an empty journal and beside 1,000,000 finished runs. Each is divided by its
own beginning, so that 1.0 means "does not grow". At `process` only: there no flush hides what
grows. The finished runs are rows put in through the journal's writer, some thousand to a
COMMIT, their disk not waited for.
"""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter

from benchmarks.engine import fill_with_finished_runs, open_runtime
from benchmarks.floors import Samples
from benchmarks.spread import spread
from benchmarks.workload import Bar, Figure, Settings, Workload
from benchmarks.workloads.w5_starts import trivial
from durable import step, workflow

MARKS = {"at_100": 100, "at_1000": 1_000, "at_10000": 10_000, "at_50000": 50_000}
WINDOW = 100  # steps whose median speaks for a mark
FINISHED = 1_000_000
STARTS = 300

WHY = (
    "no statement of a step or a start reads what has ended. Measured in turns, as the two "
    "journals are, a start was 0.99; one measured after the other, as before, is compared at two "
    "speeds of a shared machine."
)

times: list[float] = []


@step
async def count(number: int) -> int:
    """Adds one, and notes when it ran."""
    times.append(perf_counter())
    return number + 1


@workflow
async def very_long(steps: int) -> int:
    """`steps` steps, each waiting for the one before."""
    number = 0
    for _ in range(steps):
        number = await count(number)
    return number


async def steps_of_one_run(settings: Settings) -> dict[str, float]:
    """Seconds from step to step around each mark."""
    marks = {name: settings.size(mark) for name, mark in MARKS.items()}
    async with open_runtime(settings, "steps") as runtime:
        await (await runtime.start(very_long, max(marks.values()))).result()
    window = settings.size(WINDOW)
    lasted = [later - earlier for earlier, later in pairwise(times)]
    return {name: spread(lasted[max(0, mark - window) : mark]).p50 for name, mark in marks.items()}


async def starts(settings: Settings) -> dict[str, float]:
    """Median seconds of a `start()` in two journals, taken in turns: an empty and a full one."""
    sizes = {"few": 0, "many": settings.size(FINISHED)}
    for name, finished in sizes.items():
        async with open_runtime(settings, name) as runtime:
            await fill_with_finished_runs(runtime, finished)
    samples: dict[str, list[float]] = {name: [] for name in sizes}
    async with open_runtime(settings, "few") as few, open_runtime(settings, "many") as many:
        for number in range(settings.size(STARTS)):
            for name, runtime in (("few", few), ("many", many)):
                begun = perf_counter()
                run = await runtime.start(trivial, number)
                samples[name].append(perf_counter() - begun)
                await run.result()
    return {name: spread(lasted).p50 for name, lasted in samples.items()}


async def measure(settings: Settings) -> Samples:
    """The medians, and their ratios to the first of their kind."""
    steps = await steps_of_one_run(settings)
    medians = steps | await starts(settings)
    samples = {name: [value] for name, value in medians.items()}
    samples |= {
        f"{name}_growth": [value / steps["at_100"]]
        for name, value in steps.items()
        if name != "at_100"
    }
    return samples | {"many_growth": [medians["many"] / medians["few"]]}


WORKLOADS = (
    Workload(
        name="W12",
        title="growth",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(
            Figure("at_100", "step to step, around step 100"),
            *(Figure(name, f"... {name[3:]}") for name in MARKS if name != "at_100"),
            *(
                Figure(f"{name}_growth", f"step {name[3:]} over step 100", unit="count")
                for name in MARKS
                if name != "at_100"
            ),
            Figure("few", "start(), empty journal"),
            Figure("many", "start(), beside 1,000,000 finished runs"),
            Figure("many_growth", "the second over the first", unit="count"),
        ),
        bars=(
            *(Bar(f"{name}_growth", 1.15, stage="goal") for name in MARKS if name != "at_100"),
            Bar("many_growth", 1.15, stage="goal", why=WHY),
        ),
        operations=max(MARKS.values()),
        once=True,
        durabilities=("process",),
    ),
)
