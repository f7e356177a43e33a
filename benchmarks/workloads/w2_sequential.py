"""W2: one run of 1000 steps, one after the other.

What a durable step costs when nothing can be shared: the COMMIT and what we add to
it. The COMMITs are counted between the first and the last step, so that the writes
that create and finish the run do not blur the count.
"""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter

from benchmarks.engine import counters, open_runtime
from benchmarks.floors import Samples
from benchmarks.workload import Bar, Figure, Settings, Workload
from durable import Runtime, step, workflow

STEPS = 1000

# Calls are those that tests/budgets count; instructions are callgrind's: load changes neither.
WHY = (
    "a step is one COMMIT, and at full one way to the journal's thread and back: F1t. Around it "
    "are 103 Python calls, 7.4 T in instructions (S has 1.15 T), of which the host's two "
    "turns take 22 calls, the scheduler's slice 10, the writer's batch 13. The COMMIT holds two "
    "rows with checksums, 1.5 pages to F1's one. At process, where nothing is flushed and the "
    "COMMIT is done on the loop, F1 is less than 2 T, and these calls are the whole distance."
)


class Trace:
    """When each step ran, and the COMMITs done until the first and the last one."""

    def __init__(self, runtime: Runtime, steps: int) -> None:
        self._runtime = runtime
        self._last = steps - 1
        self.times: list[float] = []
        self.commits: list[int] = []

    def note(self, number: int) -> None:
        """Called inside step `number`."""
        self.times.append(perf_counter())
        if number in (0, self._last):
            self.commits.append(counters(self._runtime).commits)


trace: Trace | None = None


@step
async def count(number: int) -> int:
    """Adds one, and notes when it ran."""
    if trace is not None:
        trace.note(number)
    return number + 1


@workflow
async def sequential(steps: int) -> int:
    """`steps` steps, each waiting for the one before."""
    number = 0
    for _ in range(steps):
        number = await count(number)
    return number


async def measure(settings: Settings) -> Samples:
    """The total per step, each interval between two steps, and COMMITs per step."""
    global trace  # the step has no other way to reach the measurement
    steps = settings.size(STEPS)
    async with open_runtime(settings) as runtime:
        await (await runtime.start(sequential, 2)).result()
        trace = Trace(runtime, steps)
        begun = perf_counter()
        run = await runtime.start(sequential, steps)
        await run.result()
        total = perf_counter() - begun
    first, last = trace.commits
    return {
        "step": [total / steps],
        "interval": [later - earlier for earlier, later in pairwise(trace.times)],
        "commits": [(last - first) / (steps - 1)],
    }


WORKLOADS = (
    Workload(
        name="W2",
        title="1000 sequential steps",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(
            Figure("step", "per step (total / steps)", floor="F1", statistic="mean"),
            Figure("interval", "step to step", floor="F1"),
            Figure("commits", "COMMITs per step", unit="count"),
        ),
        bars=(
            Bar("commits", 1.0),
            Bar("step", 1.5, "full"),
            Bar("step", 1.2, "full", stage="goal", why=WHY),
            Bar("step", 4.0, "process", stage="goal", why=WHY),
        ),
        operations=STEPS,
    ),
)
