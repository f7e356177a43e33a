"""Commands that meet a run at the moment at which it is parked, or whose history is damaged."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durable import Run, sleep, step, workflow
from durable._journal.high_water import forget_mark
from durable._surface.bystander import commanding
from durable.errors import WorkflowRunBlockedError, WorkflowRunCancelledError
from durable.testing import VirtualClock, settle
from tests.engine.rig import (
    ENDS,
    Disk,
    Request,
    assert_cancelled,
    hold_writes,
    kinds,
    messages,
    opened,
    quiet,
)

TURNS = range(12)  # of the loop between two things, so that every order of them is met


def _never() -> None:
    raise ValueError("this value cannot be loaded")


class Unloadable:
    """Can be stored and not loaded."""

    def __reduce__(self) -> Any:
        return (_never, ())


@step(name="commands.gated", max_retries=0)
async def gated() -> Unloadable:
    """Return, when the test says so, what parks the run."""
    await gates[-1].wait()
    return Unloadable()


gates: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    gates[:] = [asyncio.Event()]


@workflow(name="commands.parked")
async def parked() -> None:
    """Sleep and wait for a step at the same time."""
    async with asyncio.TaskGroup() as group:
        group.create_task(sleep(1000))
        group.create_task(gated())


async def _until_parked(run: Run[Any]) -> None:
    with pytest.raises(WorkflowRunBlockedError):
        await run.result(5)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("count", [1, 2])
async def test_cancelling_a_run_that_is_being_parked_ends_it(
    journal_path: Path, turns: int, count: int
) -> None:
    """A cancellation that was acknowledged is on record, whatever shared its turn."""
    async with opened(journal_path) as rt:
        run = await rt.start(parked)
        await quiet_but_running(rt)
        gates[-1].set()
        await settle(turns)
        await asyncio.gather(*[run.cancel("enough") for _ in range(count)])
        shown = await kinds(run)
        assert "cancel_requested" in shown or shown[-1] == "run_cancelled"
        if shown[-1] == "run_cancelled":
            await assert_cancelled(run, "enough")
        assert len([kind for kind in shown if kind in ENDS]) <= 1


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("disk", ["fast", "slow"])
async def test_run_is_not_loaded_again_before_its_parking_is_on_record(
    journal_path: Path, turns: int, disk: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks for it meanwhile finds it blocked, and not as it was before."""
    drives, held = Disk(), list[Request]()
    async with opened(journal_path, driver=drives) as rt:
        run = await rt.start(parked)
        await quiet_but_running(rt)
        if disk == "slow":
            drives.meddle = partial(hold_writes, held)
        gates[-1].set()
        await settle(turns)
        asked = asyncio.ensure_future(run.wake_up([99]))
        if disk == "slow":
            await settle(20)
            drives.let_go(held)
        assert await asked == 0
        await _until_parked(run)
        await quiet(rt)
        assert len([text for text in messages(caplog) if "is blocked" in text]) == 1


async def quiet_but_running(rt: Any) -> None:
    """Yield until the step is being attempted."""
    while not any(run.attempts for run in rt._engine.scheduler):
        await asyncio.sleep(0)
    await settle()


@pytest.mark.parametrize("turns", TURNS)
async def test_waking_a_run_that_is_being_parked_counts_what_is_on_record(
    journal_path: Path, turns: int
) -> None:
    """A sleep that it did not come to is not counted, and goes on."""
    async with opened(journal_path) as rt:
        run = await rt.start(parked)
        await quiet_but_running(rt)
        gates[-1].set()
        await settle(turns)
        woken = await run.wake_up()
        await _until_parked(run)
        assert woken == (await kinds(run)).count("wait_completed")


# --- damaged histories ----------------------------------------------------------------


@workflow(name="commands.sleeper")
async def sleeper() -> str:
    """Sleep for long."""
    await sleep(100)
    return "awake"


DAMAGE = {
    "payload": "UPDATE events SET payload = x'00' WHERE run = 1 AND seq = 1",
    "gap": "DELETE FROM events WHERE run = 1 AND seq = 2",
    "last": "UPDATE events SET name = 'else' WHERE run = 1 AND seq = 3",
    "all": "DELETE FROM events WHERE run = 1",
}


async def _damaged(path: Path, clock: VirtualClock, damage: str) -> None:
    """Leave a sleeping run behind, damage its history, and let it fall due."""
    async with opened(path, clock) as rt:
        await rt.start(sleeper.options(run_id="hurt"))
        await quiet(rt)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    forget_mark(str(path))
    clock.suspend(200)


@pytest.mark.parametrize("damage", DAMAGE)
async def test_run_with_a_damaged_history_can_be_cancelled(
    journal_path: Path, virtual_clock: VirtualClock, damage: str
) -> None:
    """Its end is appended, so that it is no longer blocked and is deleted in time."""
    await _damaged(journal_path, virtual_clock, DAMAGE[damage])
    async with opened(journal_path, virtual_clock, retention="1h") as rt:
        await quiet(rt)
        await virtual_clock.advance(0)
        run = rt.get_run("hurt")
        await _until_parked(run)
        await run.cancel("damaged")
        with pytest.raises(WorkflowRunCancelledError, match="damaged"):
            await run.result()
        with closing(sqlite3.connect(journal_path)) as beside:
            last = beside.execute("SELECT seq, kind FROM events ORDER BY seq DESC").fetchone()
            assert last == (1 if damage == "all" else 4, 5)
    virtual_clock.suspend(4000)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await virtual_clock.advance(60)
        await quiet(rt)
        await settle(50)
        assert not await rt.get_run("hurt").exists()


@pytest.mark.parametrize("damage", DAMAGE)
async def test_run_with_a_damaged_history_can_be_cancelled_without_an_owner(
    journal_path: Path, virtual_clock: VirtualClock, damage: str
) -> None:
    """As by the command line, when no program has the journal open."""
    await _damaged(journal_path, virtual_clock, DAMAGE[damage])
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await virtual_clock.advance(0)
        await _until_parked(rt.get_run("hurt"))
    async with commanding(journal_path) as port:
        await port.cancel("hurt", "damaged")
    async with opened(journal_path, virtual_clock) as rt:
        with pytest.raises(WorkflowRunCancelledError, match="damaged"):
            await rt.get_run("hurt").result()
