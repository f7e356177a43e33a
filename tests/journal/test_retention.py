"""Retention: what is expired goes, whole, in small pieces, and gives its space back."""

from __future__ import annotations

import asyncio

import pytest

from durable._base.clock import SystemClock
from durable._journal.journal import Journal
from durable.errors import JournalCorruptError, JournalError, WorkflowRunNotFoundError
from tests.journal.rig import (
    Plan,
    event,
    full,
    new_run,
    open_journal,
    outside,
    run_row,
    shaky,
    state,
    until,
    write,
)


def big_run(journal, run_id, expires_at, status="completed", events=40):
    """A write of a run with 40 KB of history."""
    pk = journal.next_pk()
    rows = [event(pk, run_id, seq, b"x" * 1000) for seq in range(1, events + 1)]
    row = run_row(pk, run_id, status=status, expires_at=expires_at)
    return write(runs=[row], events=rows)


async def test_expired_runs_are_deleted_and_the_space_returned(journal_path):
    """100 runs of 40 KB expire: the file is small again, the others untouched."""
    plan = Plan()
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        await journal.perform(big_run(journal, "kept", expires_at=5_000))
        for number in range(100):
            journal.submit(big_run(journal, f"r{number}", expires_at=number))
        await journal.perform(write())
        await journal.writer.run(lambda c: c.execute("PRAGMA wal_checkpoint").fetchone())
        before = journal_path.stat().st_size
        assert await journal.next_expiry() == 0
        plan.seen.clear()
        assert await journal.delete_expired(4_000) == 100
        vacuums = [text for text in plan.seen if "incremental_vacuum" in text]
        assert 10 < len(vacuums) < 30, "4,500 pages, 256 at a time"
        assert await journal.next_expiry() == 5_000
        assert len(await journal.reader.history(1, "kept")) == 40
    assert before > 4_000_000
    assert journal_path.stat().st_size < before / 10
    assert outside(journal_path, "SELECT count(*) FROM events") == [(40,)]
    assert outside(journal_path, "SELECT count(*) FROM trash") == [(0,)]


async def test_limit_and_time_are_kept(journal_path):
    """At most so many, the oldest first, none before its time."""
    async with open_journal(journal_path) as journal:
        for number in (30, 10, 20, 40):
            await journal.perform(big_run(journal, f"r{number}", expires_at=number, events=1))
        assert await journal.delete_expired(35, limit=2) == 2
        assert outside(journal_path, "SELECT run_id FROM runs ORDER BY 1") == [("r30",), ("r40",)]
        assert await journal.delete_expired(35) == 1
        assert await journal.delete_expired(35) == 0


async def test_unfinished_run_is_never_deleted(journal_path):
    """Not even if somebody gave it an expiry."""
    async with open_journal(journal_path) as journal:
        await journal.perform(big_run(journal, "a", expires_at=1, status="running"))
        assert await journal.delete_expired(1_000) == 0
        assert await journal.reader.counts() == {"running": 1}


async def test_pieces_are_small_and_writes_get_in_between(journal_path):
    """A long deletion does not hold up a running workflow."""
    async with open_journal(journal_path) as journal:
        await journal.perform(big_run(journal, "huge", expires_at=1, events=5_000))
        pk, first = new_run(journal, "busy")
        await journal.perform(first)
        deleting = asyncio.ensure_future(journal.delete_expired(10))
        between = 0
        while not deleting.done():
            between += 1
            await journal.perform(write(events=[event(pk, "busy", between + 1)]))
        assert await deleting == 1
        assert between > 10


async def test_deletion_that_was_interrupted_goes_on_after_reopening(journal_path):
    """Half deleted is invisible: no row, no history; the rest goes the next time."""
    plan = Plan(start="DELETE FROM events")
    journal = await Journal.open(journal_path, clock=SystemClock(), driver_factory=shaky(plan))
    await journal.perform(big_run(journal, "huge", expires_at=1, events=2_000))
    deleting = asyncio.ensure_future(journal.delete_expired(10))
    await until(lambda: sum(text.startswith("DELETE FROM events") for text in plan.seen) > 1)
    deleting.cancel()
    await asyncio.gather(deleting, return_exceptions=True)
    await journal.close()
    async with open_journal(journal_path) as again:
        assert await again.reader.run_by_id("huge") is None
        (left,) = outside(journal_path, "SELECT count(*) FROM events")
        assert 0 < left[0] < 2_000
        assert again.next_pk() > 1, "its key is not free yet"
        assert await again.delete_expired(10) == 0
        assert outside(journal_path, "SELECT count(*) FROM events") == [(0,)]


async def test_history_that_is_going_is_that_of_no_run(journal_path):
    """Its first events are gone and the last ones are still there: deleted, not damaged."""
    plan = Plan(start="DELETE FROM events")
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        await journal.perform(big_run(journal, "huge", expires_at=1, events=1_200))
        await journal.perform(big_run(journal, "whole", expires_at=None, events=3))
        deleting = asyncio.ensure_future(journal.delete_expired(10))
        await until(lambda: sum(text.startswith("DELETE FROM events") for text in plan.seen) > 1)
        with pytest.raises(WorkflowRunNotFoundError):
            await journal.reader.history(1, "huge")
        await deleting
        assert await journal.reader.history(1, "huge") == []
        await journal.writer.run(lambda c: c.execute("DELETE FROM events WHERE seq = 1"))
        with pytest.raises(JournalCorruptError, match="lacks event 1"):
            await journal.reader.history(2, "whole")


async def test_full_disk_while_deleting_is_reported_and_harms_nothing(journal_path):
    """The next attempt succeeds."""
    plan = Plan(error=full)
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        await journal.perform(big_run(journal, "a", expires_at=1))
        plan.times = 1
        with pytest.raises(JournalError):
            await journal.delete_expired(10)
        assert await journal.delete_expired(10) == 1


async def test_run_id_can_be_used_again_after_retention(journal_path):
    """The id is free; the new run has nothing of the old one."""
    async with open_journal(journal_path) as journal:
        await journal.perform(big_run(journal, "a", expires_at=1))
        await journal.delete_expired(10)
        pk, second = new_run(journal, "a")
        await journal.perform(second)
        assert second.existing == {}
        assert len(await journal.reader.history(pk, "a")) == 1


async def test_state_sets_the_expiry(journal_path):
    """A finishing run enters retention with its last write."""
    async with open_journal(journal_path) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        assert await journal.next_expiry() is None
        await journal.perform(write(states=[state(pk, "completed", expires_at=77)]))
        assert await journal.next_expiry() == 77
