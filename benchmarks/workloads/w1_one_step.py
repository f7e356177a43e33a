"""W1: what a caller waits for one run with one step, from `start()` to the result.

Runs follow each other, so that nothing shares a COMMIT: this is latency, not
throughput. The first run is not counted (imports, first use of the journal).
"""

from __future__ import annotations

from time import perf_counter

from benchmarks.engine import open_runtime
from benchmarks.floors import Samples
from benchmarks.workload import Bar, Figure, Settings, Workload
from durable import step, workflow

RUNS = 300

# Calls are those that tests/budgets count; instructions are callgrind's: load changes neither.
WHY = (
    "two COMMITs that cannot be one: `start()` returns when the run is durable, and the result "
    "when the step's outcome is. At full that is 2 F1t before anything else. The rest are some "
    "380 Python calls at full, 450 at process (the SQL's are among them then). In all a run is "
    "29.5 T in instructions, 4.4 T of them SQLite's."
)


@step
async def greet(number: int) -> str:
    """The smallest step that takes and returns something."""
    return f"hello {number}"


@workflow
async def one_step(number: int) -> str:
    """One step, its result returned."""
    return await greet(number)


async def measure(settings: Settings) -> Samples:
    """One sample per run, in seconds."""
    samples = []
    async with open_runtime(settings) as runtime:
        for number in range(settings.size(RUNS) + 1):
            begun = perf_counter()
            run = await runtime.start(one_step, number)
            await run.result()
            samples.append(perf_counter() - begun)
    return {"latency": samples[1:]}


WORKLOADS = (
    Workload(
        name="W1",
        title="one-step run, start to result",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(Figure("latency", "per run", floor="F1"),),
        bars=(
            Bar("latency", 2.6, "full", stage="goal", why=WHY),
            Bar("latency", 8.0, "process", stage="goal", why=WHY),
        ),
        operations=RUNS,
    ),
)
