"""W6: what bringing a run back costs, per event of its history.

Runs of 1,000 and of 10,000 steps fall asleep and the journal is closed. After it is opened
again each is woken: it is read, verified, replayed, and goes on to its end. The time
from the call to the result is divided by the events of the history.
"""

from __future__ import annotations

from time import perf_counter

from benchmarks.engine import open_runtime
from benchmarks.floors import Samples
from benchmarks.spread import spread
from benchmarks.workload import Bar, Figure, Settings, Workload
from durable import Run, sleep, step, workflow

STEPS = {"thousand": 1_000, "ten_thousand": 10_000}
TIMES = 3

# Counted in instructions (valgrind, T = 46,600), which load does not change.
WHY = (
    "of an event's 0.88 T, 0.21 T are Python's sqlite3 fetching a row of eight columns, 0.16 T "
    "its checksum and the event made of it, and 0.51 T the body: two coroutines, a future and a "
    "turn of a task per step, which replay must go through as the first time did. Handing an "
    "outcome over without suspending would save some 0.1 T, and a body that drives a coroutine "
    "by hand, or starts a task eagerly, could tell the difference."
)
WHY_GROWTH = (
    "nothing in a replay grows with its length. Measured in turns, as the two lengths are, it was "
    "0.5 to 0.8 in four passes; one measured after the other, as before, is compared at two "
    "speeds of a shared machine."
)


@step
async def add(number: int, other: int) -> int:
    """The smallest step."""
    return number + other


@workflow
async def long_history(steps: int) -> int:
    """Many steps, one after the other, then a sleep."""
    number = 0
    for other in range(steps):
        number = await add(number, other)
    await sleep(86_400)
    return number


async def _asleep(run: Run[int]) -> None:
    """Wait until it sleeps."""
    while not any("sleep" in what for what in (await run.status()).waiting_for):
        pass


async def measure(settings: Settings) -> Samples:
    """Seconds per replayed event for both lengths, taken in turns, and how they compare."""
    lengths = {name: settings.size(steps) for name, steps in STEPS.items()}
    asleep: list[tuple[str, str, int]] = []
    async with open_runtime(settings) as runtime:
        for _ in range(TIMES):
            for name, steps in lengths.items():
                run = await runtime.start(long_history, steps)
                await _asleep(run)
                asleep.append((name, run.run_id, len(await run.events())))
    samples: Samples = {name: [] for name in lengths}
    async with open_runtime(settings) as runtime:
        for name, run_id, events in asleep:
            begun = perf_counter()
            run = runtime.get_run(run_id)
            await run.wake_up()
            await run.result()
            samples[name].append((perf_counter() - begun) / events)
    short, long = (spread(samples[name]).p50 for name in STEPS)
    return samples | {"growth": [long / short]}


WORKLOADS = (
    Workload(
        name="W6",
        title="replay of a cold run",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(
            Figure("thousand", "per event, 1,000 steps", "T"),
            Figure("ten_thousand", "per event, 10,000 steps", "T"),
            Figure("growth", "the second over the first", unit="count"),
        ),
        bars=(
            Bar("thousand", 0.5, stage="goal", why=WHY),
            Bar("ten_thousand", 0.5, stage="goal", why=WHY),
            Bar("growth", 1.15, stage="goal", why=WHY_GROWTH),
        ),
        operations=2 * TIMES * sum(STEPS.values()),
    ),
)
