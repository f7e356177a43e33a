"""idle: what 100 sleeping runs cost while nothing is due.

Counts over a few seconds: SQL statements of the journal's writer, bytes and calls
that the process writes (/proc), processor time, and, where strace is installed and
may attach, every system call, those that change a file apart. A count of zero is the
point; a clock tick (one slow wake-up of the loop while waits are pending) is allowed.
"""

from __future__ import annotations

import asyncio
from time import perf_counter, process_time

from benchmarks.engine import counters, open_runtime
from benchmarks.floors import Samples
from benchmarks.syscalls import SystemCalls, file_writes, io_counters
from benchmarks.workload import Bar, Figure, Settings, Workload
from durable import Runtime, sleep, workflow

RUNS = 100
SECONDS = 10


@workflow
async def sleeper(number: int) -> int:
    """Sleeps until tomorrow."""
    await sleep(86_400)
    return number


async def put_to_sleep(runtime: Runtime, count: int) -> None:
    """Start `count` sleepers and wait until the writer has nothing left to write."""
    await runtime.start_many(sleeper, [(number,) for number in range(count)])
    before = -1
    while before != counters(runtime).commits:
        before = counters(runtime).commits
        await asyncio.sleep(0.5)


async def measure(settings: Settings) -> Samples:
    """Counts over the idle seconds, with all runs asleep."""
    async with open_runtime(settings) as runtime:
        await put_to_sleep(runtime, RUNS)
        tracer = SystemCalls.attach(settings.directory / "strace.txt")
        statements, busy, begun = counters(runtime).statements, process_time(), perf_counter()
        calls, written = io_counters()
        await asyncio.sleep(settings.size(SECONDS))
        calls_after, written_after = io_counters()
        spent, passed = process_time() - busy, perf_counter() - begun
        statements = counters(runtime).statements - statements
        traced = tracer.detach()
    samples: Samples = {
        "statements": [statements],
        "write_calls": [calls_after - calls],
        "written": [written_after - written],
        "cpu": [100 * spent / passed],
    }
    if traced is not None:
        samples["file_writes"] = [file_writes(traced)]
        samples["system_calls"] = [sum(traced.values()) / passed]
    return samples


WORKLOADS = (
    Workload(
        name="idle",
        title="100 runs asleep, nothing due",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(
            Figure("statements", "SQL statements", unit="count"),
            Figure("write_calls", "write calls (/proc)", unit="count"),
            Figure("written", "bytes to the disk (/proc)", unit="bytes"),
            Figure("file_writes", "writes and fsyncs (strace)", unit="count"),
            Figure("system_calls", "system calls per second (strace)", unit="count"),
            Figure("cpu", "processor, percent", unit="count"),
        ),
        bars=(Bar("statements", 0), Bar("write_calls", 0), Bar("file_writes", 0)),
        once=True,
    ),
)
