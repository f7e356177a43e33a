"""Clocks that are set while a decision is on its way to the disk: what it asked for still lasts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from durable import Backoff, RetryableError, sleep, step, workflow
from durable.testing import VirtualClock, settle
from tests.engine.rig import Disk, Request, elapse, opened, quiet, until

HOUR = 3600
JUMPS = [10 * 365 * 86400, HOUR, 50, -50, -HOUR, -10 * 365 * 86400]
WOKEN: list[float] = []
ATTEMPTS: list[float] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    WOKEN.clear()
    ATTEMPTS.clear()


class Held:
    """Lets reading go on, and holds back what is to be written."""

    def __init__(self, disk: Disk) -> None:
        self.writes: list[Request] = []
        self._disk = disk
        disk.meddle = self._take

    def _take(self, request: Request) -> None:
        if request.reads:
            request.perform()
        else:
            self.writes.append(request)

    def let_go(self) -> None:
        """Write it all."""
        self._disk.let_go(self.writes)


async def set_clock_while(held: Held, clock: VirtualClock, jump: int) -> None:
    """Let two seconds pass and set the clock before what is decided reaches the disk."""
    await until(lambda: held.writes)
    await clock.advance(1)
    clock.set_wall(clock.wall_us() + jump * 1_000_000)
    await clock.advance(1)
    held.let_go()


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("how", ["sleep", "timeout"])
async def test_wait_lasts_its_time_when_the_clock_is_set_before_it_is_recorded(
    journal_path: Path, virtual_clock: VirtualClock, jump: int, how: str
) -> None:
    """Counted from the decision, neither less nor more."""

    @workflow
    async def flow() -> None:
        if how == "sleep":
            await sleep(100)
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(100):
                    await asyncio.Event().wait()
        WOKEN.append(virtual_clock.boot())

    disk = Disk()
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        await quiet(rt)
        held = Held(disk)
        started = asyncio.create_task(rt.start(flow))
        await set_clock_while(held, virtual_clock, jump)
        await elapse(rt, virtual_clock, 150, 50)
        await (await started).result()
    assert WOKEN == [100]


@pytest.mark.parametrize("jump", JUMPS)
async def test_pause_before_a_retry_lasts_its_time_when_the_clock_is_set_meanwhile(
    journal_path: Path, virtual_clock: VirtualClock, jump: int
) -> None:
    """Counted from the failure."""

    gate = asyncio.Event()

    @step(backoff=Backoff(initial=0, max=0))
    async def failing() -> None:
        await gate.wait()
        ATTEMPTS.append(virtual_clock.boot())
        if len(ATTEMPTS) == 1:
            raise RetryableError("later", retry_after=100)

    @workflow
    async def flow() -> None:
        await failing()

    disk = Disk()
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        run = await rt.start(flow)
        await settle()
        held = Held(disk)
        gate.set()
        await set_clock_while(held, virtual_clock, jump)
        await elapse(rt, virtual_clock, 150, 50)
        await run.result()
    assert ATTEMPTS == [0, 100]


@pytest.mark.parametrize("jump", JUMPS)
async def test_clean_up_has_its_grace_time_when_the_clock_is_set_before_it_is_recorded(
    journal_path: Path, virtual_clock: VirtualClock, jump: int
) -> None:
    """Counted from the request."""

    @workflow
    async def flow() -> None:
        try:
            await sleep("1 day")
        finally:
            await sleep("1 day")

    disk = Disk()
    async with opened(journal_path, virtual_clock, driver=disk, grace=100) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        held = Held(disk)
        cancelled = asyncio.create_task(run.cancel())
        await set_clock_while(held, virtual_clock, jump)
        await cancelled
        await elapse(rt, virtual_clock, 97, 97)
        assert await run.status() == "running"
        await elapse(rt, virtual_clock, 1, 1)
        assert await run.status() == "cancelled"
