"""W7: 100,000 runs asleep, and the process that opens their journal.

The journal is filled by one process; a fresh one opens it and idles. Memory is counted
above that of the same process on an empty journal, so that only the runs are measured.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time

from benchmarks.engine import counters, open_runtime
from benchmarks.floors import Samples
from benchmarks.syscalls import io_counters
from benchmarks.workload import Bar, Figure, Settings, Workload
from durable import Runtime, sleep, workflow

RUNS = 100_000
PORTION = 5_000
SECONDS = 60
OPENINGS = 5


@workflow
async def sleeper(number: int) -> int:
    """Sleeps for a month."""
    await sleep(30 * 86_400)
    return number


async def fill(settings: Settings, count: int) -> None:
    """Put `count` runs to sleep."""
    async with open_runtime(settings, "asleep") as runtime:
        for begin in range(0, count, PORTION):
            some = range(begin, min(begin + PORTION, count))
            await runtime.start_many(sleeper, [(number,) for number in some])
        before = -1
        while before != counters(runtime).commits:
            before = counters(runtime).commits
            await asyncio.sleep(0.5)


def memory() -> int:
    """Resident bytes of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError("/proc/self/status has no VmRSS")


async def look(path: str, durability: str, seconds: float) -> dict[str, float]:
    """Open the journal, idle, and tell what that took."""
    begun = perf_counter()
    async with Runtime(path, durability=durability) as runtime:
        opened = perf_counter() - begun
        await asyncio.sleep(1)  # whatever opening has set in motion
        statements, busy = counters(runtime).statements, process_time()
        calls, _ = io_counters()
        begun = perf_counter()
        await asyncio.sleep(seconds)
        passed, spent = perf_counter() - begun, process_time() - busy
        return {
            "open": opened,
            "memory": memory(),
            "cpu": 100 * spent / passed,
            "statements": counters(runtime).statements - statements,
            "writes": io_counters()[0] - calls,
        }


def looked(settings: Settings, name: str, seconds: float) -> dict[str, float]:
    """`look` in a fresh process."""
    command = [
        sys.executable, "-m", "benchmarks.workloads.w7_asleep",
        str(settings.journal(name)), settings.durability, str(seconds),
    ]  # fmt: skip
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    answer: dict[str, float] = json.loads(said)
    return answer


def measure(settings: Settings) -> Samples:
    """What opening and idling cost with the runs, memory above an empty journal's."""
    settings.run(fill(settings, settings.size(RUNS)))
    looked(settings, "empty", 0)
    empty = [looked(settings, "empty", 0) for _ in range(OPENINGS)]
    asleep = [looked(settings, "asleep", 0) for _ in range(OPENINGS)]
    found = looked(settings, "asleep", settings.size(SECONDS))
    found["memory"] -= empty[0]["memory"]
    return {name: [value] for name, value in found.items()} | {
        "open": [one["open"] for one in asleep],
        "open_empty": [one["open"] for one in empty],
    }


WORKLOADS = (
    Workload(
        name="W7",
        title="100,000 runs asleep",
        perform=measure,
        figures=(
            Figure("open", "opening the journal"),
            Figure("open_empty", "opening an empty journal"),
            Figure("memory", "memory above an empty journal's", unit="bytes"),
            Figure("cpu", "processor while idle, percent", unit="count"),
            Figure("statements", "SQL statements in 60 s", unit="count"),
            Figure("writes", "write calls in 60 s (/proc)", unit="count"),
        ),
        bars=(
            Bar("open", 0.1, stage="goal"),
            Bar("memory", 30e6, stage="goal"),
            Bar("cpu", 0.05, stage="goal"),
            Bar("statements", 0, stage="goal"),
            Bar("writes", 0, stage="goal"),
        ),
        operations=RUNS,
        once=True,
        durabilities=("full",),
    ),
)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(look(sys.argv[1], sys.argv[2], float(sys.argv[3])))))
