"""What is on its way to the disk, or on record and not reported yet, is no fact for anybody."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from durable import continue_as_new, sleep, step, workflow
from durable._journal.driver import InlineDriver
from durable.errors import JournalError
from durable.testing import VirtualClock, settle
from tests.engine.rig import (
    WAIT,
    Disk,
    Request,
    assert_cancelled,
    hold_writes,
    opened,
    quiet,
    until,
)

CALLS: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _clean() -> None:
    CALLS.clear()


def fail_writes(request: Request) -> None:
    """Let all writes fail."""
    if request.reads:
        request.perform()
    else:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        request.fail(error)


@step(name="unreported.act")
async def act(name: str) -> str:
    CALLS[name] += 1
    return name


@workflow(name="unreported.sleeper")
async def sleeper() -> None:
    await sleep(1000)


@workflow(name="unreported.relay")
async def relay(left: int) -> str:
    await sleep(10)
    if left:
        continue_as_new(left - 1)
    await act("last")
    await sleep(30)
    return "done"


async def test_second_cancellation_returns_when_the_end_is_on_record(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Until then a crash would bring the run back."""
    disk, held = Disk(), list[Request]()
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        run = await rt.start(sleeper)
        await quiet(rt)
        disk.meddle = partial(hold_writes, held)
        asked = [asyncio.ensure_future(run.cancel("enough"))]
        await until(lambda: held)
        asked.append(asyncio.ensure_future(run.cancel("at once")))
        await settle(50)
        assert not any(each.done() for each in asked)
        disk.let_go(held)
        await asyncio.gather(*asked)
        await assert_cancelled(run, "enough")


async def test_cancellation_reaches_the_successor_that_is_on_its_way_to_the_disk(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The run has ended in memory, and what goes on in its place is not on record yet."""
    disk, held = Disk(), list[Request]()
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        run = await rt.start(relay, 1)
        await quiet(rt)
        disk.meddle = partial(hold_writes, held)
        await virtual_clock.advance(10)
        await until(lambda: held)
        asked = asyncio.ensure_future(run.cancel("enough"))
        await settle(50)
        assert not asked.done()
        disk.let_go(held)
        await asked
        successor = await run.continued_as()
        assert successor is not None
        await assert_cancelled(successor, "enough")


async def pass_time(clock: VirtualClock) -> None:
    """Let time pass for as long as the test takes."""
    while True:
        await clock.advance(0.5)


@pytest.mark.parametrize("seconds", [4.2])
async def test_successor_that_is_found_before_its_birth_is_reported_lives_once(
    journal_path: Path, virtual_clock: VirtualClock, seconds: float
) -> None:
    """It is in the journal before its runtime hears of it; with two bodies all is done twice."""

    def slow(uri: str, read_only: bool) -> InlineDriver:
        latency = 1.0 if read_only else seconds
        return InlineDriver(uri, read_only, clock=virtual_clock, latency=lambda: latency)

    passing = asyncio.ensure_future(pass_time(virtual_clock))
    async with opened(journal_path, virtual_clock, driver=slow) as rt:
        run = await rt.start(relay, 1)
        while (successor := await run.continued_as()) is None:
            pass
        await successor.wake_up()  # meanwhile it is reported
        async with asyncio.timeout(WAIT):
            assert await successor.result() == "done"
    passing.cancel()
    assert CALLS["last"] == 1


async def test_closing_while_the_disk_fails_raises_in_no_callback(
    journal_path: Path, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What was to be recorded is not; the run goes on where the journal is opened next."""
    disk = Disk()
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        run = await rt.start(sleeper.options(run_id="one"))
        await quiet(rt)
        disk.meddle = fail_writes
        waking = asyncio.ensure_future(run.wake_up())
        await settle(50)
    with pytest.raises(JournalError):
        await waking
    assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == []
    async with opened(journal_path, virtual_clock) as rt:
        await virtual_clock.advance(1000)
        await rt.get_run("one").result(WAIT)
