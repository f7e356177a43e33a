"""What happens between a request to the journal and its answer, or instead of the answer."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durable import Run, Runtime, get_run, get_step_metadata, sleep, start, step, workflow
from durable._journal.high_water import forget_mark
from durable.errors import JournalError, WorkflowRunFailedError, WorkflowRunNotFoundError
from durable.testing import VirtualClock, settle
from tests.engine.rig import (
    AT_ONCE,
    Disk,
    Request,
    count_rows,
    crashing,
    elapse,
    kinds,
    messages,
    opened,
    quiet,
    until,
    without_workflow,
)


def io_error() -> sqlite3.OperationalError:
    """Return what SQLite says of a disk that fails."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error


def hold(held: list[Request], reads: bool, request: Request) -> None:
    """Keep reads, or writes, for later."""
    if request.reads is reads:
        held.append(request)
    else:
        request.perform()


def fail_reads(request: Request) -> None:
    """Let whatever reads fail."""
    if request.reads:
        request.fail(io_error())
    else:
        request.perform()


def fail_writes(request: Request) -> None:
    """Let whatever writes fail."""
    if request.reads:
        request.perform()
    else:
        request.fail(io_error())


@step(name="moments.note")
async def note(value: Any) -> Any:
    """Return what came."""
    return value


@workflow(name="moments.sleeper")
async def sleeper(seconds: float = 100) -> str:
    """Sleep, then one step."""
    await sleep(seconds)
    return str(await note("awake"))


@workflow(name="moments.other")
async def other() -> None:
    """Sleep for long."""
    await sleep(100_000)


# --- starts that are refused ----------------------------------------------------------


@workflow(name="moments.cleans")
async def cleans() -> str:
    """Call one step, and another one when cancelled."""
    try:
        await note(1)
    finally:
        await note(2)
    return "done"


def foreign_events(path: Path) -> list[Any]:
    """Return the events that belong to no run."""
    with closing(sqlite3.connect(path)) as beside:
        found = beside.execute("SELECT run, seq FROM events WHERE run NOT IN (SELECT pk FROM runs)")
        return found.fetchall()


async def test_refused_start_leaves_no_events_whatever_has_reached_the_run(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Its deadline comes while its creation is on the way to a disk that fails."""
    disk, held = Disk(), list[Request]()
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        await settle(50)  # the sweeper has looked
        disk.meddle = partial(hold, held, False)
        refused = asyncio.ensure_future(rt.start(cleans.options(timeout=5)))
        await until(lambda: held)
        await virtual_clock.advance(10)
        await settle()
        held.pop(0).fail(io_error())
        disk.let_go(held)
        await virtual_clock.advance(1)
        with pytest.raises(JournalError):
            await refused
        await quiet(rt)
        assert await count_rows(rt) == 0
        assert foreign_events(journal_path) == []
        assert await (await rt.start(cleans)).result(5) == "done"
    async with opened(journal_path, virtual_clock) as rt:
        assert await (await rt.start(cleans)).result(5) == "done"
    assert foreign_events(journal_path) == []


async def test_key_of_events_without_a_run_is_given_to_no_other(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A damaged or half-deleted journal may hold some; a new run would meet them as its own."""
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(cleans)
        await run.result(5)
    with closing(sqlite3.connect(journal_path)) as beside, beside:
        beside.execute("UPDATE events SET run = 2 WHERE run = 1")
    forget_mark(str(journal_path))
    async with opened(journal_path, virtual_clock) as rt:
        assert await (await rt.start(cleans)).result(5) == "done"
        assert await rt.reader.max_pk() == 3


async def test_run_that_is_recorded_while_the_runtime_goes_down_begins_in_the_next_one(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A runtime that has let go of the journal takes no run into its memory."""
    async with crashing(journal_path, virtual_clock) as rt:
        starting = asyncio.ensure_future(rt.start(cleans.options(run_id="late")))
        with closing(sqlite3.connect(journal_path)) as beside:
            while beside.execute("SELECT count(*) FROM runs").fetchone() == (0,):
                await asyncio.sleep(0)
    await settle()
    assert list(rt._engine.scheduler) == []
    await asyncio.wait([starting])
    async with opened(journal_path, virtual_clock) as rt:
        assert await rt.get_run("late").result(5) == "done"


async def test_runtime_that_closes_while_the_disk_fails_calls_no_run_damaged(
    journal_path: Path, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be written is done again at the next opening; nothing is wrong with it."""
    disk = Disk()
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        await rt.start(sleeper.options(run_id="caught"), 1)
        await settle(50)
        disk.meddle = fail_writes
        await virtual_clock.advance(2)
        await settle(50)
    assert [line for line in messages(caplog) if "blocked" in line] == []
    assert "writing is paused" in caplog.text
    async with opened(journal_path, virtual_clock) as rt:
        await virtual_clock.advance(0)
        assert await rt.get_run("caught").result(5) == "awake"


# --- loads that are cut short ---------------------------------------------------------


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_run_wakes_though_the_command_that_was_loading_it_gave_up(
    journal_path: Path, virtual_clock: VirtualClock, how: str
) -> None:
    """It falls due while it is being read from the journal for somebody else."""
    disk, held = Disk(), list[Request]()
    async with opened(journal_path, virtual_clock, idle_runs=1, driver=disk) as rt:
        run = await rt.start(sleeper)
        await quiet(rt)
        await rt.start(other)
        await quiet(rt)
        assert rt._engine.scheduler.get(run.run_id) is None
        await virtual_clock.advance(99)
        asked = asyncio.ensure_future(run.wake_up([99]))
        for _ in range(3):  # its row is read, then its history is not
            await until(lambda: rt._engine._loader._loads or asked.done())
            await settle(1)
        disk.meddle = partial(hold, held, True)
        await settle()
        await virtual_clock.advance(2)
        if how == "cancelled":
            asked.cancel()
        else:
            for request in held:
                request.fail(io_error())
            held.clear()
        await settle(50)
        disk.let_go(held)
        await asyncio.wait([asked])
        await elapse(rt, virtual_clock, 5, 1)
        assert await run.result(5) == "awake"


async def test_resumed_run_goes_on_though_it_could_not_be_read_at_once(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """It is no longer recorded as blocked, so nobody would resume it again."""
    disk, written = Disk(), []

    def fail_after_a_write(request: Request) -> None:
        if request.reads and written:
            return request.fail(io_error())
        if not request.reads:
            written.append(request)
        request.perform()

    gates.append(asyncio.Event())
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(waiter)
        await settle(20)
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        run = rt.get_run(run.run_id)
        with without_workflow(waiter):
            await until(lambda: _is_blocked(run))
            await quiet(rt)
            disk.meddle = fail_after_a_write
        await settle(50)  # it is known again, resumed, and cannot be read
        assert rt._engine.scheduler.get(run.run_id) is None
        disk.let_go([])
        assert await run.status() == "running"
        gates[-1].set()
        await virtual_clock.advance(1)
        assert await run.result(5) == "done"


async def _is_blocked(run: Run[Any]) -> bool:
    return await run.status() == "blocked"


@step(name="moments.gated")
async def gated() -> None:
    """Wait until the test says so."""
    await gates[-1].wait()


gates: list[asyncio.Event] = []


@workflow(name="moments.waiter")
async def waiter() -> str:
    """One step that the test holds up."""
    await gated()
    return "done"


@workflow(name="moments.asker")
async def asker(run_id: str) -> list[Any]:
    """Ask another run."""
    await gated()
    asked = get_run(run_id)
    return [str(await asked.status()), await asked.exists(), await asked.result()]


async def test_journal_that_cannot_be_read_is_not_the_failure_of_the_step_that_asks(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A body that asks another run gets the answer once there is one."""
    disk = Disk()
    gates.append(asyncio.Event())
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        asked = await rt.start(sleeper, 0)
        assert await asked.result(5) == "awake"
        run = await rt.start(asker, asked.run_id)
        await settle(20)
        disk.meddle = fail_reads
        gates[-1].set()
        await settle(50)
        assert "step_failed" not in [event.kind for event in await _events(disk, run)]
        disk.meddle = fail_reads
        await virtual_clock.advance(1)
        await settle(50)
        disk.let_go([])
        await virtual_clock.advance(2)
        await until(lambda: _has_ended(run))
        assert await run.result(5) == ["completed", True, "awake"]
        assert not {"step_failed", "step_retrying"} & set(await kinds(run))


async def _events(disk: Disk, run: Any) -> Any:
    disk.let_go([])
    return await run.events()


async def _has_ended(run: Any) -> bool:
    return (await run.status()) != "running"


BROKEN: list[str] = []


@step(name="moments.fragile", max_retries=0)
async def fragile() -> str:
    """Fail while something is broken."""
    if BROKEN:
        raise ValueError(BROKEN[0])
    return "mended"


@workflow(name="moments.failing")
async def failing() -> Any:
    """One step."""
    return await fragile()


async def failed_run(rt: Runtime) -> Run[Any]:
    """Return a run that has failed, and would not again; nothing is under way."""
    BROKEN.append("the world")
    run = await rt.start(failing)
    with pytest.raises(WorkflowRunFailedError):
        await run.result()
    BROKEN.clear()
    await quiet(rt)
    return run


async def fork_from_the_start(run: Run[Any]) -> Run[Any]:
    """Return a run that goes on from before the step."""
    return await run.fork("moments.fragile")


@pytest.mark.parametrize("again", [Run.retry, fork_from_the_start])
async def test_what_is_recorded_is_done_though_reading_fails_afterwards(
    journal_path: Path, virtual_clock: VirtualClock, again: Any
) -> None:
    """Who retries or forks a run is told so, and it goes on once the disk can be read."""
    disk, written = Disk(), list[Request]()

    def fail_reads_after_two_writes(request: Request) -> None:
        if not request.reads:  # the first is a barrier
            written.append(request)
        if request.reads and len(written) >= 2:
            request.fail(io_error())
        else:
            request.perform()

    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        failed = await failed_run(rt)
        disk.meddle = fail_reads_after_two_writes
        run = await again(failed) or failed
        assert len(written) == 2
        disk.let_go([])
        await elapse(rt, virtual_clock, 1)
        assert await run.result(5) == "mended"


TRIES: list[int] = []
GATES: dict[str, asyncio.Event] = {}


@step(name="moments.tried", backoff=AT_ONCE)
async def tried(gate: str) -> str:
    """Fail once, when told to go on."""
    TRIES.append(get_step_metadata().attempt)
    await GATES[gate].wait()
    if len(TRIES) == 1:
        raise ValueError("once")
    return "done"


@workflow(name="moments.trying")
async def trying() -> str:
    """One step."""
    return await tried("on")


async def test_attempt_that_fails_while_its_run_is_resumed_is_recorded_before_the_next(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A crash in between would make it an attempt that nobody has counted."""
    disk, resumption, retry = Disk(), list[Request](), list[Request]()
    TRIES.clear()
    GATES["on"] = asyncio.Event()
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        run = await rt.start(trying)
        await until(lambda: TRIES)
        await run.pause()
        disk.meddle = partial(hold, resumption, False)
        resuming = asyncio.ensure_future(run.resume())
        await until(lambda: resumption)
        GATES["on"].set()
        await settle(20)
        disk.meddle = partial(hold, retry, False)
        resumption.pop().perform()
        await until(lambda: retry)
        await settle(20)
        before = list(TRIES)
        disk.let_go(retry)
        await resuming
        assert await run.result(5) == "done"
        assert (await kinds(run)).count("step_retrying") == 1
    assert (before, TRIES) == ([1], [1, 2])


# --- closing, and deleting ------------------------------------------------------------


@workflow(name="moments.parent")
async def parent() -> Any:
    """Start a child that sleeps, and wait for it."""
    child = await start(sleeper)
    return await child.result()


async def test_closing_does_not_wait_for_a_parent_that_waits_for_its_child(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """It takes none of the drain time, and both go on at the next opening."""
    async with asyncio.timeout(10), opened(journal_path, virtual_clock, drain_seconds=30) as rt:
        run = await rt.start(parent)
        await until(lambda: rt._engine._families.waiting_runs)
        await settle(20)
    async with opened(journal_path, virtual_clock) as rt:
        run = rt.get_run(run.run_id)
        await virtual_clock.advance(100)
        assert await run.result(5) == "awake"
        assert (await kinds(run)).count("step_completed") == 2


def delete_after_some(journal_path: Path, left: list[int], request: Request) -> None:
    """Delete all runs before the last of so many reads."""
    left[0] -= request.reads
    if left[0] == 0:
        with closing(sqlite3.connect(journal_path)) as beside, beside:
            beside.execute("DELETE FROM events")
            beside.execute("DELETE FROM runs")
    request.perform()


@pytest.mark.parametrize("reads", [1, 2])
@pytest.mark.parametrize("again", [Run.retry, fork_from_the_start])
async def test_run_that_is_deleted_while_it_is_set_back_is_not_found(
    journal_path: Path, virtual_clock: VirtualClock, again: Any, reads: int
) -> None:
    """Retention may take it between its row and its history."""
    disk = Disk()
    async with opened(journal_path, virtual_clock, driver=disk) as rt:
        failed = await failed_run(rt)
        await settle(50)  # the sweeper has looked
        disk.meddle = partial(delete_after_some, journal_path, [reads])
        with pytest.raises(WorkflowRunNotFoundError):
            await again(failed)


@pytest.mark.parametrize("reads", range(1, 4))
async def test_result_of_a_run_that_is_deleted_meanwhile_is_not_found(
    journal_path: Path, virtual_clock: VirtualClock, reads: int
) -> None:
    """Retention may take it between any two of the reads that the answer needs."""
    disk = Disk()
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper, 0)
        assert await run.result(5) == "awake"
    async with opened(journal_path, virtual_clock, driver=disk) as rt:  # it remembers no end
        run = rt.get_run(run.run_id)
        await quiet(rt)
        await settle(50)  # the sweeper has looked
        disk.meddle = partial(delete_after_some, journal_path, [reads])
        if reads == 3:
            assert await run.result(5) == "awake"
        else:
            with pytest.raises(WorkflowRunNotFoundError):
                await run.result(5)
