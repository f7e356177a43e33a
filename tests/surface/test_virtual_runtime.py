"""`VirtualRuntime`: a test moves time, and runs keep up with it."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import Backoff, sleep, start, step, workflow
from durable.errors import (
    DurationError,
    JournalFullError,
    RuntimeClosedError,
    StepTimeoutError,
)
from durable.testing import VirtualClock, VirtualRuntime, settle

DAY_US = 86_400_000_000
pytestmark = pytest.mark.both_loops


@step
async def quick(value: int) -> int:
    await asyncio.sleep(0.01)
    return value


@step
def threaded(value: int) -> int:
    time.sleep(0.02)
    return value


@step(backoff=Backoff(initial=3600, factor=1, max=3600, jitter=0), max_retries=5)
async def failing(tries: list[int]) -> int:
    TRIES.append(1)
    if len(TRIES) < 4:
        raise ConnectionError
    return len(TRIES)


TRIES: list[int] = []


@step(timeout="1h", max_retries=0)
async def hanging() -> None:
    await asyncio.Event().wait()


@step(timeout="1m", max_retries=0)
def slow() -> str:
    time.sleep(0.3)
    return "done"


@workflow
async def slow_thread() -> str:
    return await slow()


@workflow
async def many_waits(days: int) -> int:
    total = 0
    for day in range(days):
        await sleep("1 day")
        total += await (quick if day % 2 else threaded)(1)
    return total


@workflow
async def retries() -> int:
    return await failing([])


@workflow
async def hangs() -> str:
    try:
        await hanging()
    except StepTimeoutError:
        return "too long"
    return "done"


@workflow
async def family(days: int) -> int:
    child = await start(many_waits, days)
    return await child.result()


async def test_advancing_passes_each_wait_at_its_own_instant(journal_path: Path) -> None:
    """Steps between the waits, in threads too, are done before time goes on."""
    async with VirtualRuntime(journal_path) as runtime:
        run = await runtime.start(many_waits, 6)
        await runtime.advance("5 days")
        assert await run.status() == "running"
        await runtime.advance(timedelta(days=1))
        assert await run.status() == "completed"
        assert await run.result() == 6
        begun, ended = await run.created_at(), await run.completed_at()
        assert ended is not None
        assert ended - begun == timedelta(days=6)


async def test_time_stands_still_unless_it_is_moved(journal_path: Path) -> None:
    """However long the test waits in real time."""
    async with VirtualRuntime(journal_path) as runtime:
        run = await runtime.start(many_waits, 1)
        before = runtime.clock.wall_us()
        await settle(200)
        assert runtime.clock.wall_us() == before
        assert await run.status() == "running"


async def test_fast_forward_jumps_to_the_end_of_a_run(journal_path: Path) -> None:
    """And not beyond; time stands still again behind the block."""
    async with VirtualRuntime(journal_path) as runtime:
        began = runtime.clock.wall_us()
        run = await runtime.start(many_waits, 4)
        async with runtime.fast_forward():
            assert await run.result() == 4
        assert runtime.clock.wall_us() - began == 4 * DAY_US
        other = await runtime.start(many_waits, 1)
        await settle(200)
        assert await other.status() == "running"


async def test_fast_forward_goes_through_retries_and_children(journal_path: Path) -> None:
    """A parent's wait for its child is not work that time would wait for."""
    TRIES.clear()
    async with VirtualRuntime(journal_path) as runtime, runtime.fast_forward():
        began = runtime.clock.wall_us()
        assert await (await runtime.start(retries)).result() == 4
        assert runtime.clock.wall_us() - began == 3 * 3600 * 1_000_000
        assert await (await runtime.start(family, 2)).result() == 2


async def test_a_hanging_step_meets_its_timeout(journal_path: Path) -> None:
    """Time goes on without a step that does nothing one could see."""
    async with VirtualRuntime(journal_path) as runtime, runtime.fast_forward():
        assert await (await runtime.start(hangs)).result() == "too long"


async def test_with_patience_a_slow_step_meets_no_timeout(journal_path: Path) -> None:
    """Real work in a thread may take longer than one waits for a step that hangs."""
    async with VirtualRuntime(journal_path, patience=5) as runtime, runtime.fast_forward():
        assert await (await runtime.start(slow_thread)).result() == "done"


async def test_two_runtimes_may_be_fast_forwarded_at_once(tmp_path: Path) -> None:
    """Each has its own time."""
    async with (
        VirtualRuntime(tmp_path / "a.db") as one, one.fast_forward(),
        VirtualRuntime(tmp_path / "b.db") as two, two.fast_forward(),
    ):  # fmt: skip
        runs = [await one.start(many_waits, 5), await two.start(many_waits, 3)]
        assert [await run.result() for run in runs] == [5, 3]
        assert one.clock.wall_us() - two.clock.wall_us() == 2 * DAY_US


async def test_an_error_in_the_block_ends_the_jumping(journal_path: Path) -> None:
    """It reaches the test, and nothing is left behind."""
    async with VirtualRuntime(journal_path) as runtime:
        with pytest.raises(ZeroDivisionError):
            async with runtime.fast_forward():
                raise ZeroDivisionError
        run = await runtime.start(many_waits, 1)
        await settle(200)
        assert await run.status() == "running"


async def test_a_clock_may_be_handed_on_to_the_next_runtime(journal_path: Path) -> None:
    """That is a restart: the wait goes on where it was."""
    clock = VirtualClock()
    async with VirtualRuntime(journal_path, clock=clock) as runtime:
        await runtime.start(many_waits.options(run_id="one"), 2)
        await runtime.advance("1 day")
    async with VirtualRuntime(journal_path, clock=clock) as runtime:
        await runtime.advance("1 day")
        assert await runtime.get_run("one").result() == 2


@pytest.mark.parametrize("duration", [-1, "soon", float("nan")])
async def test_time_moves_forward_by_a_duration_only(journal_path: Path, duration: object) -> None:
    """The same durations as everywhere."""
    async with VirtualRuntime(journal_path) as runtime:
        with pytest.raises(DurationError):
            await runtime.advance(duration)  # type: ignore[arg-type]


async def test_until_next_tells_what_is_armed(virtual_clock: VirtualClock) -> None:
    """None without a timer; cancelled ones do not count."""
    loop = asyncio.get_running_loop()
    assert virtual_clock.until_next() is None
    early = virtual_clock.call_later(loop, 5, lambda: None)
    virtual_clock.call_later(loop, 60, lambda: None)
    assert virtual_clock.until_next() == 5
    early.cancel()
    assert virtual_clock.until_next() == 60
    await virtual_clock.advance(60, settled=settle)
    assert virtual_clock.until_next() is None


# --- crashes and a failing disk ---------------------------------------------------------------


@step(max_retries=0)
async def note(what: str) -> int:
    NOTES.append(what)
    return len(NOTES)


@step(max_retries=0)
async def endless() -> None:
    NOTES.append("begun")
    await asyncio.Event().wait()


NOTES: list[str] = []


@workflow
async def two_notes() -> list[str]:
    try:
        await note("first")
        await sleep("1h")
        await note("second")
    finally:
        NOTES.append("unwound")
    return NOTES


@workflow
async def waits_for_ever() -> None:
    await endless()


@pytest.fixture(autouse=True)
def _no_notes() -> None:
    NOTES.clear()


async def test_after_a_crash_another_runtime_goes_on(journal_path: Path) -> None:
    """What was done is not done again, and no body was unwound."""
    async with VirtualRuntime(journal_path) as runtime:
        await runtime.start(two_notes.options(run_id="one"))
        await runtime.advance("30 minutes")
        await runtime.crash()
    assert NOTES == ["first"]
    async with VirtualRuntime(journal_path, clock=runtime.clock) as runtime:
        await runtime.advance("30 minutes")
        await runtime.get_run("one").result()
    assert NOTES == ["first", "second", "unwound"]


async def test_crash_interrupts_running_attempts(journal_path: Path) -> None:
    """They begin once more, under another number."""
    async with VirtualRuntime(journal_path) as runtime:
        await runtime.start(waits_for_ever.options(run_id="one"))
        await runtime.settled()
        await runtime.crash()
        with pytest.raises(RuntimeClosedError):
            await runtime.start(waits_for_ever)
        with pytest.raises(RuntimeClosedError):
            await runtime.crash()
    async with VirtualRuntime(journal_path, clock=runtime.clock) as runtime:
        await runtime.settled()
        events = await runtime.get_run("one").events()
        assert [e.name for e in events if e.kind == "step_retrying"] == ["interrupted"]
    assert NOTES == ["begun", "begun"]


async def test_runs_pause_while_the_disk_is_full(journal_path: Path) -> None:
    """New ones are refused; those that are there go on when there is space again."""
    async with VirtualRuntime(journal_path, patience=0.01) as runtime:
        run = await runtime.start(two_notes)
        await runtime.settled()
        runtime.disk.fail("full")
        with pytest.raises(JournalFullError):
            await runtime.start(two_notes)
        await runtime.advance("61 minutes")
        assert NOTES == ["first"]
        assert runtime.disk.failures > 1
        runtime.disk.heal()
        await runtime.advance("1 minute")
        assert await run.status() == "completed"
    assert NOTES == ["first", "second", "unwound"]


async def test_a_write_that_failed_and_is_there_all_the_same_counts(journal_path: Path) -> None:
    """The journal looks before it says that nothing was recorded."""
    async with VirtualRuntime(journal_path) as runtime:
        runtime.disk.fail("unknown", times=1)
        run = await runtime.start(two_notes)
        await runtime.advance("1h")
        assert await run.status() == "completed"
        assert runtime.disk.failures == 1
    assert NOTES == ["first", "second", "unwound"]


@pytest.mark.parametrize("given", [("on fire",), ("full", 0)])
async def test_a_disk_fails_in_known_ways_only(journal_path: Path, given: tuple[Any, ...]) -> None:
    """And the message names them."""
    async with VirtualRuntime(journal_path) as runtime:
        with pytest.raises(ValueError, match=r"on fire|times=0"):
            runtime.disk.fail(*given)
