"""Deleting runs: whole, only when they have ended, and never half visible."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Runtime,
    SyncRuntime,
    get_writable,
    list_runs,
    set_attributes,
    sleep,
    step,
    workflow,
)
from durable._journal.driver import InlineDriver
from durable.errors import (
    JournalError,
    RuntimeClosedError,
    WorkflowRunNotFinishedError,
    WorkflowRunNotFoundError,
)
from durable.testing import VirtualClock
from tests.engine.rig import crash, make, opened, quiet, without_workflow

WAIT = 30.0


@step
async def one(value: int) -> int:
    return value


@workflow(name="delete.long")
async def long(count: int) -> int:
    await set_attributes({"count": str(count)})
    await get_writable().write("begun")
    for n in range(count):
        await one(n)
    return count


@workflow(name="delete.napping")
async def napping() -> None:
    await sleep("1 day")


def rows_of(path: Path) -> dict[str, int]:
    """How many rows each table of a closed journal has."""
    with closing(sqlite3.connect(path)) as connection:
        names = ("runs", "events", "attributes", "hooks", "chunks", "trash")
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names
        }


async def test_deleted_run_is_gone_with_all_that_was_its(journal_path: Path) -> None:
    """Row, history, attributes and result; the id is free again."""
    async with opened(journal_path) as rt:
        run = await rt.start(long.options(run_id="gone", attributes={"a": "b"}), 3)
        kept = await rt.start(long.options(run_id="kept"), 3)
        await run.result(WAIT)
        await kept.result(WAIT)
        await run.delete()
        assert not await run.exists()
        for ask in (run.status, run.events, run.result, run.delete, run.attributes):
            with pytest.raises(WorkflowRunNotFoundError):
                await ask()
        assert [info.run_id for info in await list_runs()] == ["kept"]
        assert not await list_runs(attributes={"a": "b"})
        again = await rt.start(long.options(run_id="gone"), 1)
        assert await again.result(WAIT) == 1
        await again.delete()
        events = len(await kept.events())
    assert rows_of(journal_path) == {
        "runs": 1, "events": events, "attributes": 1, "hooks": 0, "chunks": 1,
        "trash": 0,
    }  # fmt: skip


async def test_only_finished_runs_can_be_deleted(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Running, blocked, delayed: cancel it first, says the error; nothing was deleted."""
    async with opened(journal_path, virtual_clock) as rt:
        asleep = await rt.start(napping.options(run_id="asleep"))
        await rt.start(napping.options(run_id="delayed", delay="1h"))
        await quiet(rt)
        await refuses(rt, "asleep", "running")
        await refuses(rt, "delayed", "pending")
        await asleep.cancel()
        await asleep.delete()
        await rt.start(napping.options(run_id="blocked"))
        await quiet(rt)
    with without_workflow(napping):
        async with opened(journal_path, virtual_clock) as rt:
            await rt.get_run("blocked").wake_up()
            await quiet(rt)
            await refuses(rt, "blocked", "blocked")
            await rt.get_run("blocked").cancel()
            await rt.get_run("blocked").delete()
    async with opened(journal_path, virtual_clock) as rt:
        assert [info.run_id for info in await rt.list_runs()] == ["delayed"]


async def refuses(rt: Runtime, run_id: str, status: str) -> None:
    """The run cannot be deleted, and stays."""
    with pytest.raises(WorkflowRunNotFinishedError, match=f"is {status}: cancel it first"):
        await rt.get_run(run_id).delete()
    assert await rt.get_run(run_id).status() == status


async def test_unknown_run_cannot_be_deleted(journal_path: Path) -> None:
    """A typing error is told."""
    async with opened(journal_path) as rt:
        with pytest.raises(WorkflowRunNotFoundError, match="'nobody'"):
            await rt.get_run("nobody").delete()


async def test_large_run_is_deleted_in_pieces_beside_running_ones(journal_path: Path) -> None:
    """`delete` returns at once; other runs go on while the rest of it is deleted."""
    async with Runtime(journal_path, durability="process") as rt:
        run = await rt.start(long.options(run_id="large"), 3000)
        await run.result(60)
        await run.delete()
        assert not await run.exists()
        other = await rt.start(long, 50)
        assert await other.result(WAIT) == 50
        events = len(await other.events())
    async with Runtime(journal_path):
        pass  # an opening finishes what a closing has cut short
    assert rows_of(journal_path)["events"] == events
    assert rows_of(journal_path)["trash"] == 0


async def test_deletion_cut_short_by_a_crash_is_finished_by_the_next_opening(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """At no moment does anybody see a part of the run."""
    rt = make(journal_path, virtual_clock)
    await rt.open()
    run = await rt.start(long.options(run_id="large"), 1500)
    await run.result(WAIT)
    await run.delete()
    await crash(rt)
    found = rows_of(journal_path)
    assert found["runs"] == 0
    assert found["events"] > 0, "the crash came too late for this test"
    async with opened(journal_path, virtual_clock) as again:
        assert not await again.get_run("large").exists()
        with pytest.raises(WorkflowRunNotFoundError):
            await again.get_run("large").events()
        await asyncio.wait([again._engine._sweeper._task])
    assert rows_of(journal_path) == dict.fromkeys(found, 0)


class Late(InlineDriver):
    """Gives other work a turn between two questions of a reader."""

    async def call(self, fn: Any) -> Any:
        await asyncio.sleep(0)
        return await super().call(fn)


async def test_history_that_is_being_deleted_is_no_damaged_one(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Who reads a run while it goes is told that there is none, whenever that is."""
    told: set[str] = set()
    async with opened(journal_path, virtual_clock, driver=Late) as rt:
        for number in range(6):
            run = await rt.start(long.options(run_id=f"r{number}"), 600)
            await run.result(WAIT)
            events = await run.events()
            deleting = asyncio.create_task(run.delete())
            while not deleting.done() or rt._engine._sweeper._task.done() is False:
                try:
                    assert await run.events() == events, "a part of it was seen"
                except WorkflowRunNotFoundError:
                    told.add("gone")
                await asyncio.sleep(0)
            await deleting
    assert "gone" in told


async def test_deleting_after_closing_is_refused(journal_path: Path) -> None:
    """Like every other command."""
    async with opened(journal_path) as rt:
        run = await rt.start(long, 1)
        await run.result(WAIT)
    with pytest.raises((RuntimeClosedError, JournalError)):
        await run.delete()


def test_sync_run_deletes(journal_path: Path) -> None:
    """The blocking form."""
    with SyncRuntime(journal_path) as rt:
        run = rt.start(long, 1)
        run.result()
        run.delete()
        assert not run.exists()


@workflow(name="delete.deleter")
async def deleter(run_id: str) -> bool:
    from durable import get_run

    await get_run(run_id).delete()
    return await get_run(run_id).exists()


async def test_body_deletes_a_run_as_a_step(journal_path: Path) -> None:
    """Recorded, so that replay does not delete a later run of the same id."""
    async with opened(journal_path) as rt:
        await (await rt.start(long.options(run_id="old"), 1)).result(WAIT)
        assert await (await rt.start(deleter, "old")).result(WAIT) is False
