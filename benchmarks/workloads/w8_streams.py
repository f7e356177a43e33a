"""W8: how late sleeps end, and how long things are on their way: events and streams.

Sleeps and events are in `w8_waits`. For the latency of a stream a step writes a chunk when
the one before has been read by all, so that nothing queues up: what is measured is one
COMMIT and the way around it. For the throughput it writes as fast as it may, and time runs
until the last chunk has been read. The reader in another process tells when it got each
chunk by the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

from benchmarks.engine import open_runtime
from benchmarks.floors import Samples
from benchmarks.workload import Bar, Figure, Settings, Workload
from benchmarks.workloads.w8_waits import EVENTS, SLEEPERS, events, lateness
from durable import Run, Runtime, get_writable, step, workflow

CHUNKS, FLOOD, READERS = 300, 10_000, 10

WHY_LATE = (
    "the median is a tenth of the limit: the fastest come sooner than a COMMIT could be done, so "
    "nothing is waited for but the timer and a turn of the loop. On a machine that did nothing "
    "else p99 was below 2 ms; where others use it, a host's timers are late too (W11)."
)
WHY_WAY = (
    "one COMMIT by the journal's thread is F1t, most of 1.5 F1 by itself, and what is read is "
    "read after it: the call looks up the hook, the payload is pickled and checksummed, the body "
    "goes on and its next step's row joins the COMMIT. In another process the reader is woken by "
    "a message, and reads the file: two more changes of process, each dearer than a thread's."
)

READER = """
import asyncio, sys
from time import perf_counter
from durable import Runtime

async def main() -> None:
    async with Runtime(sys.argv[1], durability=sys.argv[2]) as runtime:
        async for _ in runtime.get_run(sys.argv[3]).stream():
            print(perf_counter(), flush=True)

asyncio.run(main())
"""


class Turns:
    """Lets the step write when all readers have had the chunk before."""

    def __init__(self, readers: int) -> None:
        self._readers = readers
        self._read = 0
        self._all = asyncio.Event()
        self.written: list[float] = []
        self.delivered: list[float] = []

    def had(self, at: float) -> None:
        """Note that a reader got the newest chunk at the time `at`."""
        self._read += 1
        if self._read == self._readers:
            self._read = 0
            self.delivered.append(at - self.written[-1])
            self._all.set()

    async def next(self) -> None:
        """Wait until all have had the chunk written last."""
        await self._all.wait()
        self._all.clear()


turns: Turns | None = None


@step
async def write_in_turns(count: int) -> None:
    """Writes a chunk, waits for its readers, writes the next."""
    out = get_writable()
    assert turns is not None
    for number in range(count):
        turns.written.append(perf_counter())
        await out.write(number)
        await turns.next()


@step
async def write_on(count: int) -> None:
    """Writes as fast as it may."""
    await get_writable().write_from(range(count))


@step
async def yield_on(count: int) -> AsyncIterator[int]:
    """Yields as fast as it may."""
    for number in range(count):
        yield number


@workflow
async def latency(count: int) -> None:
    """A stream whose readers set the pace."""
    await write_in_turns(count)


@workflow
async def flood(count: int) -> None:
    """A stream at full speed."""
    await write_on(count)


@workflow
async def iterate(count: int) -> int:
    """A generator step at full speed, each item recorded before the body has it."""
    return sum([1 async for _ in yield_on(count)])


async def read(run: Run[None]) -> None:
    """Read to the end, telling of each chunk."""
    async for _ in run.stream():
        if turns is not None:
            turns.had(perf_counter())


@asynccontextmanager
async def reader_elsewhere(
    runtime: Runtime, run: Run[None], settings: Settings
) -> AsyncIterator[None]:
    """A process that reads the run's stream, whose times are told to `turns`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READER, str(runtime.path), settings.durability, run.run_id,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async for line in process.stdout:
        assert turns is not None
        turns.had(float(line))
    yield
    await process.wait()


async def delivery(runtime: Runtime, settings: Settings, readers: int) -> list[float]:
    """Seconds from each write until the last of some readers in this process had it."""
    global turns  # the step has no other way to reach the measurement
    turns = Turns(readers)
    run = await runtime.start(latency, settings.size(CHUNKS))
    await asyncio.gather(*(read(run) for _ in range(readers)))
    return turns.delivered[1:]


async def delivery_elsewhere(runtime: Runtime, settings: Settings) -> list[float]:
    """The same to one reader in another process."""
    global turns  # see above
    turns = Turns(1)
    run = await runtime.start(latency, settings.size(CHUNKS))
    async with reader_elsewhere(runtime, run, settings):
        await run.result()
    return turns.delivered[1:]


async def per_chunk(runtime: Runtime, settings: Settings) -> Samples:
    """Seconds per chunk at full speed, read to the end; and per item of a generator step."""
    global turns  # see above
    turns = None
    count = settings.size(FLOOD)
    begun = perf_counter()
    await read(await runtime.start(flood, count))
    flooded = perf_counter()
    await (await runtime.start(iterate, count)).result()
    return {
        "chunk": [(flooded - begun) / count],
        "item": [(perf_counter() - flooded) / count],
    }


async def measure(settings: Settings) -> Samples:
    """All of these, on one journal."""
    async with open_runtime(settings) as runtime:
        await read(await runtime.start(flood, 2))
        samples = {
            "late": await lateness(runtime, settings),
            **await events(runtime, settings),
            "one": await delivery(runtime, settings, 1),
            "ten": await delivery(runtime, settings, READERS),
            "process": await delivery_elsewhere(runtime, settings),
        }
        return samples | await per_chunk(runtime, settings)


WORKLOADS = (
    Workload(
        name="W8",
        title="sleeps, events, streams",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(
            Figure("late", "lateness of sleeps, p99", statistic="p99"),
            Figure("recorded", "resume_hook() until it returns", floor="F1"),
            Figure("acted", "resume_hook() until the step that follows begins", floor="F1"),
            Figure("one", "write to read, one reader", floor="F1"),
            Figure("ten", "write to read, the last of 10 readers", floor="F1"),
            Figure("process", "write to read, in another process", floor="F1"),
            Figure("chunk", "each of 10,000 chunks, written and read", "T", "mean"),
            Figure("item", "each of 10,000 items of an iterated generator", "T", "mean"),
        ),
        bars=(
            Bar("late", 0.005, stage="goal", why=WHY_LATE),
            Bar("acted", 1.5, "full", stage="goal", why=WHY_WAY),
            Bar("one", 1.5, "full", stage="goal", why=WHY_WAY),
            Bar("process", 3.0, "full", stage="goal", why=WHY_WAY),
        ),
        operations=SLEEPERS + EVENTS + 3 * CHUNKS + 2 * FLOOD,
    ),
)
