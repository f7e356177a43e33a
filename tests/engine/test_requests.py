"""What is asked of a run that has begun while no process has the journal open is done later."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable import sleep, step, workflow
from durable._journal.row_ops import add_request
from durable._journal.sql import QUERIES
from durable._surface.bystander import commanding
from durable.testing import VirtualClock, settle
from tests.engine.rig import (
    assert_cancelled,
    crashing,
    elapse,
    kinds,
    opened,
    quiet,
    until,
    without_workflow,
)

seen: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    seen.clear()


@step(name="requests.note")
async def note(what: str) -> None:
    """Note that it ran."""
    seen.append(what)


@step(name="requests.hang")
async def hang() -> None:
    """Never end by itself."""
    seen.append("hanging")
    await asyncio.Event().wait()


@workflow(name="requests.sleeper")
async def sleeper() -> str:
    """Sleep twice, and clean up when cancelled, which takes a while."""
    try:
        await sleep(100)
        await note("first")
        await sleep(100)
    except asyncio.CancelledError as error:
        await note(f"cancelled: {error}")
        await sleep(5)
        await note("cleaned up")
        raise
    return "awake"


@workflow(name="requests.hanging")
async def hanging() -> None:
    """One step that does not end."""
    await hang()


def pending(path: Path) -> list[Any]:
    """Return the requests that stand in the journal."""
    with closing(sqlite3.connect(path)) as beside:
        return beside.execute("SELECT run, kind, seq FROM requests").fetchall()


def leave(beside: sqlite3.Connection, pk: int, kind: str, seq: int) -> None:
    """Leave a request in the journal."""
    op = add_request(pk, kind, seq, None)
    beside.execute(QUERIES[op.query], op.values)


async def leave_asleep(path: Path, clock: VirtualClock) -> str:
    """Leave a sleeping run behind."""
    async with opened(path, clock) as rt:
        run = await rt.start(sleeper)
        await quiet(rt)
    return run.run_id


async def ask(path: Path, run_id: str, *kinds: str) -> None:
    """Ask without an owner; twice is the same as once."""
    for kind in kinds * 2:
        async with commanding(path) as port:
            if kind == "cancel":
                assert await port.cancel(run_id, "enough") is False
            else:
                assert await port.wake_up(run_id, None) is None


async def test_body_is_cancelled_by_the_next_owner(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """With the reason, at its await, with time to clean up; and replay follows that."""
    run_id = await leave_asleep(journal_path, virtual_clock)
    await ask(journal_path, run_id, "cancel")
    assert pending(journal_path) == [(1, "cancel", 3)]
    async with crashing(journal_path, virtual_clock) as rt:
        await until(lambda: not pending(journal_path))
        await quiet(rt)
        assert await rt.get_run(run_id).status() == "running"
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await elapse(rt, virtual_clock, 5, 1)
        await assert_cancelled(rt.get_run(run_id), "enough")
    assert seen == ["cancelled: enough", "cleaned up"]


async def test_sleep_is_ended_by_the_next_owner(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The one that was pending, and not the one that comes after it."""
    run_id = await leave_asleep(journal_path, virtual_clock)
    await ask(journal_path, run_id, "wake")
    async with opened(journal_path, virtual_clock) as rt:
        await until(lambda: not pending(journal_path))
        await quiet(rt)
        assert seen == ["first"]
        run = rt.get_run(run_id)
        assert await run.status() == "running"
        await elapse(rt, virtual_clock, 100)
        assert await run.result(5) == "awake"


@pytest.mark.parametrize("kind", ["cancel", "wake"])
async def test_request_that_was_done_before_a_crash_is_not_done_again(
    journal_path: Path, virtual_clock: VirtualClock, kind: str
) -> None:
    """The process may die before it could delete the request."""
    run_id = await leave_asleep(journal_path, virtual_clock)
    await ask(journal_path, run_id, kind)
    (request,) = pending(journal_path)
    async with crashing(journal_path, virtual_clock) as rt:
        await until(lambda: not pending(journal_path))
        await quiet(rt)
    with closing(sqlite3.connect(journal_path)) as beside, beside:
        leave(beside, *request)
    async with opened(journal_path, virtual_clock) as rt:
        await until(lambda: not pending(journal_path))
        await quiet(rt)
        run = rt.get_run(run_id)
        assert await run.status() == "running"
        await elapse(rt, virtual_clock, 110, 5)
        if kind == "cancel":
            await assert_cancelled(run, "enough")
            assert (await kinds(run)).count("cancel_requested") == 1
            assert seen == ["cancelled: enough", "cleaned up"]
        else:
            assert await run.result(5) == "awake"


async def test_attempt_does_not_begin_again_for_a_run_that_was_cancelled_meanwhile(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """What was in flight at the crash is given up instead."""
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(hanging)
        await until(lambda: seen)
    await ask(journal_path, run.run_id, "cancel")
    async with opened(journal_path, virtual_clock) as rt:
        await until(lambda: not pending(journal_path))
        await assert_cancelled(rt.get_run(run.run_id), "enough")
        await settle(50)
    assert seen == ["hanging"]


async def test_request_waits_for_the_code_of_its_run(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A sleep is ended once the code is there; a cancelled run needs none to end."""
    sleeping = [await leave_asleep(journal_path, virtual_clock) for _ in range(2)]
    await ask(journal_path, sleeping[0], "wake")
    await ask(journal_path, sleeping[1], "cancel")
    with without_workflow(sleeper):
        async with opened(journal_path, virtual_clock) as rt:
            await until(lambda: len(pending(journal_path)) == 1)
            await assert_cancelled(rt.get_run(sleeping[1]), "enough")
            assert await rt.get_run(sleeping[0]).status() == "blocked"
    async with opened(journal_path, virtual_clock) as rt:
        await until(lambda: not pending(journal_path))
        await until(lambda: seen)
        await quiet(rt)
    assert seen == ["first"]


async def test_request_for_a_run_that_is_gone_is_forgotten(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Ended or deleted, nothing is left to be done."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper)
        await elapse(rt, virtual_clock, 200, 50)
        assert await run.result(5) == "awake"
    with closing(sqlite3.connect(journal_path)) as beside, beside:
        leave(beside, 1, "cancel", 3)
        leave(beside, 7, "wake", 3)
    async with opened(journal_path, virtual_clock) as rt:
        await until(lambda: not pending(journal_path))
        assert await rt.get_run(run.run_id).result(5) == "awake"
