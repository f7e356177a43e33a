"""Rows that are lost or lead elsewhere: nothing is made of other rows instead."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durable import create_hook, step, workflow
from durable._surface.selecting import Order
from durable.errors import JournalCorruptError
from durable.testing import VirtualClock
from tests.engine.rig import WAIT, opened, quiet


@step
async def three() -> int:
    """Return 3."""
    return 3


@workflow(name="damage.double")
async def double() -> int:
    """Return another value than its last step."""
    return 2 * await three()


@workflow(name="damage.listening")
async def listening() -> object:
    """Wait for a hook."""
    return await create_hook(token="the token")


def harm(path: Path, statement: str) -> None:
    """Change the journal as another program might."""
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement).rowcount == 1


async def test_result_of_a_run_whose_end_is_lost_is_not_made_of_another_event(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The value of its last step is no result, though it is the newest one on record."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(double)
        assert await run.result(WAIT) == 6
        # Not the last event of all, whose loss is noticed at the opening.
        await (await rt.start(double)).result(WAIT)
    harm(journal_path, "DELETE FROM events WHERE kind = 3 AND run = 1")
    async with opened(journal_path, virtual_clock) as rt:
        with pytest.raises(JournalCorruptError, match="last event of its history is step_comp"):
            await rt.get_run(run.run_id).result(WAIT)


async def test_hook_row_that_leads_to_another_event_is_told(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """What is recorded there is not taken for a hook."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(listening)
        await quiet(rt)
    harm(journal_path, "UPDATE hooks SET seq = 2")
    async with opened(journal_path, virtual_clock) as rt:
        with pytest.raises(JournalCorruptError):
            await rt.get_run(run.run_id).hooks()


@pytest.mark.parametrize("order", ["newest", "oldest"])
@pytest.mark.parametrize("created_at", [2**62, -(2**62)])
async def test_run_whose_time_no_calendar_knows_is_listed_among_the_others(
    journal_path: Path, virtual_clock: VirtualClock, created_at: int, order: Order
) -> None:
    """One flipped bit of one row does not take the listing away, and pages go on behind it."""
    async with opened(journal_path, virtual_clock) as rt:
        for _ in range(3):
            await (await rt.start(double)).result(WAIT)
    harm(journal_path, f"UPDATE runs SET created_at = {created_at} WHERE pk = 2")
    async with opened(journal_path, virtual_clock) as rt:
        shown = await rt.list_runs(order=order)
        assert sorted(info.status for info in shown) == ["blocked", "completed", "completed"]
        [damaged] = [info for info in shown if info.status == "blocked"]
        assert damaged.created_at.year == 1970

        page = await rt.list_runs(order=order, limit=1)
        for info in shown[:-1]:
            assert [info.run_id] == [each.run_id for each in page]
            page = await rt.list_runs(order=order, limit=1, cursor=page.next_cursor)
        assert [shown[-1].run_id] == [each.run_id for each in page]
        assert page.next_cursor is None
