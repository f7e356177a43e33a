"""The first half of W8: how late sleeps end, and how long an event takes to have an effect.

A sleeper notes the wall time when its body goes on after `sleep(until)`: what that is later
than asked for. They are due one after the other, with nothing else going on, so that each
pays for its own way through timers, scheduler and body.

An event is the payload of a hook: from the call of `resume_hook` until that returns, which
means that the payload is recorded, and until the step begins that the body calls next,
which means that what the body decided is recorded too. The next event comes when all of that
is over: what is measured is an event's way, not its queue.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from time import perf_counter

from benchmarks.floors import Samples
from benchmarks.workload import Settings
from durable import Runtime, create_hook, resume_hook, sleep, step, workflow

SLEEPERS, APART_SECONDS, FIRST_SECONDS = 500, 0.006, 1.0
EVENTS = 300
TOKEN = "benchmark"

late: list[float] = []
acted: list[float] = []


@workflow
async def sleeper(until: datetime) -> None:
    """Sleeps once, and notes how late it woke."""
    await sleep(until)
    late.append(time.time() - until.timestamp())


@step
async def act(number: int) -> None:
    """Notes when it began."""
    acted.append(perf_counter())


@workflow
async def listener(events: int) -> None:
    """Acts on each event of a hook."""
    async with create_hook(int, token=TOKEN) as hook:
        for _ in range(events):
            await act(await hook)


async def lateness(runtime: Runtime, settings: Settings) -> list[float]:
    """Seconds between the instants asked for and the bodies going on."""
    late.clear()
    begin = datetime.now(UTC) + timedelta(seconds=FIRST_SECONDS)
    count = settings.size(SLEEPERS)
    dues = [begin + timedelta(seconds=n * APART_SECONDS) for n in range(count)]
    runs = await runtime.start_many(sleeper, [(due,) for due in dues])
    await asyncio.gather(*(run.result() for run in runs))
    return list(late)


async def events(runtime: Runtime, settings: Settings) -> Samples:
    """Seconds from `resume_hook` to its return, and to the step that follows."""
    acted.clear()
    count = settings.size(EVENTS)
    run = await runtime.start(listener, count)
    while not await run.hooks():
        await asyncio.sleep(0.01)
    called, returned = [], []
    for number in range(count):
        called.append(perf_counter())
        await resume_hook(TOKEN, number)
        returned.append(perf_counter())
        while len(acted) <= number:
            await asyncio.sleep(0.0001)
        await asyncio.sleep(APART_SECONDS)  # until what the step returned is recorded
    await run.result()
    return {
        "recorded": [end - begin for begin, end in zip(called, returned, strict=True)][1:],
        "acted": [end - begin for begin, end in zip(called, acted, strict=True)][1:],
    }
