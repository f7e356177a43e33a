"""Rows that are lost or lead elsewhere: nothing is made of other rows instead."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durable import create_hook, step, workflow
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
