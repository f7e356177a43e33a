"""Reading the journal: verified histories, pages of runs, other processes, sick files."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from contextlib import closing

import pytest

from durable._base.clock import SystemClock
from durable._journal.histories import read_history, read_last
from durable._journal.journal import Journal
from durable._journal.reader import _further
from durable.errors import JournalCorruptError, JournalError
from tests.journal.rig import (
    Plan,
    disk_error,
    event,
    new_run,
    open_journal,
    run_row,
    shaky,
    state,
    write,
)


async def recorded(path, run_id="a", events=3):
    """Record one run and close; return its key."""
    async with open_journal(path) as journal:
        pk, first = new_run(journal, run_id, events=events)
        await journal.perform(first)
    return pk


def tamper(path, statement, *parameters):
    """Change the file as another program would."""
    with closing(sqlite3.connect(path)) as connection:
        changed = connection.execute(statement, parameters).rowcount
        connection.commit()
    assert changed == 1


async def test_history_comes_back_as_it_was_written(journal_path):
    """Every column, in order, also in pieces."""
    async with open_journal(journal_path) as journal:
        pk = journal.next_pk()
        events = [event(pk, "a", seq, bytes([seq]) * seq) for seq in range(1, 10)]
        events[3] = events[3]._replace(
            event=events[3].event._replace(payload=None, due=-5, ref=2, name="é|\n")
        )
        await journal.perform(write(runs=[run_row(pk, "a")], events=events))
        whole = [item.event for item in events]
        assert await journal.reader.history(pk, "a") == whole
        assert await journal.reader.history(pk, "a", after_seq=4, limit=3) == whole[4:7]
        assert await journal.reader.last_event(pk, "a") == whole[-1]
        assert await journal.reader.last_event(99, "a") is None
        assert await journal.reader.history(99, "a") == []


class Disturbed(sqlite3.Connection):
    """A connection that has something happen before each of its statements."""

    def execute(self, *given):
        """Let it happen, then run the statement."""
        self.happens()
        return super().execute(*given)


@pytest.mark.parametrize("read", ["history", "last"])
async def test_events_recorded_between_the_queries_of_a_reading_are_no_damage(journal_path, read):
    """A reading sees one state of the file."""
    loop = asyncio.get_running_loop()
    async with open_journal(journal_path) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        recorded = itertools.count(2)

        def record_another():
            more = write(events=[event(pk, "a", next(recorded))])
            asyncio.run_coroutine_threadsafe(journal.perform(more), loop).result()

        def ask():
            with closing(sqlite3.connect(journal_path, factory=Disturbed)) as conn:
                conn.happens = record_another
                if read == "last":
                    return [read_last(pk, "a", conn)]
                return read_history("a", 0, (pk, 0, -1), conn)

        found = [event.seq for event in await asyncio.to_thread(ask)]
        assert found == ([3] if read == "last" else [1, 2, 3])


CHANGES = ["kind = 13", "ref = 1", "name = 'refund'", "at = at + 1", "due = 1", "payload = x'79'"]


@pytest.mark.parametrize("change", [*CHANGES, "payload = NULL", "crc = crc + 1"])
async def test_changed_event_is_never_handed_out(journal_path, change):
    """Whichever column was changed, the run and the event are named."""
    pk = await recorded(journal_path)
    tamper(journal_path, f"UPDATE events SET {change} WHERE run = ? AND seq = 3", pk)
    async with open_journal(journal_path) as journal:
        with pytest.raises(JournalCorruptError, match="event 3 of run a"):
            await journal.reader.history(pk, "a")
        with pytest.raises(JournalCorruptError, match="event 3 of run a"):
            await journal.reader.last_event(pk, "a")
        assert len(await journal.reader.history(pk, "a", limit=2)) == 2


@pytest.mark.parametrize("seq", [1, 2])
async def test_missing_event_is_noticed(journal_path, seq):
    """A hole in a history is damage, not a shorter history."""
    pk = await recorded(journal_path)
    tamper(journal_path, "DELETE FROM events WHERE run = ? AND seq = ?", pk, seq)
    async with open_journal(journal_path) as journal:
        with pytest.raises(JournalCorruptError, match=f"lacks event {seq}"):
            await journal.reader.history(pk, "a")


async def test_event_of_another_run_is_noticed(journal_path):
    """A row that was moved to another run does not match there."""
    pk = await recorded(journal_path)
    tamper(journal_path, "UPDATE events SET run = 50 WHERE run = ? AND seq = 1", pk)
    async with open_journal(journal_path) as journal:
        with pytest.raises(JournalCorruptError):
            await journal.reader.history(50, "b")


async def test_due_runs_come_in_pages_in_the_order_of_their_time(journal_path):
    """No run is missed or met twice at a page's edge, also with equal times."""
    async with open_journal(journal_path) as journal:
        times = [50, 10, 10, 10, 70, 20, 0, None]
        rows = [run_row(pk, f"r{pk}", wake_at=at) for pk, at in enumerate(times, 1)]
        await journal.perform(write(runs=rows))
        found, after = [], (0, 0)
        while page := await journal.reader.due_runs(after, 60, 2):
            found += [(row.wake_at, row.pk) for row in page]
            after = found[-1]
        assert found == [(10, 2), (10, 3), (10, 4), (20, 6), (50, 1)]
        assert [row.pk for row in await journal.reader.interrupted_runs(0, 9)] == [7]
        assert await journal.reader.interrupted_runs(7, 9) == []
        assert await journal.reader.next_wake(50) == 70
        assert await journal.reader.next_wake(0) == 10
        assert await journal.reader.next_wake(70) is None


async def test_blocked_runs_and_counts(journal_path):
    """What a person looks for first: parked runs, and how many there are of each kind."""
    async with open_journal(journal_path) as journal:
        rows = [run_row(pk, f"r{pk}", workflow=f"w{pk % 2}") for pk in range(1, 7)]
        await journal.perform(write(runs=rows, states=[state(2, "blocked"), state(5, "blocked")]))
        reader = journal.reader
        assert [row.pk for row in await reader.blocked_runs()] == [2, 5]
        assert [row.pk for row in await reader.blocked_runs(after_pk=2)] == [5]
        assert await reader.counts() == {"pending": 4, "blocked": 2}
        assert (await reader.run_by_pk(3)).run_id == "r3"
        assert await reader.run_by_pk(99) is None
        assert await reader.run_by_id("none") is None
        assert await reader.max_pk() == 6


@pytest.mark.parametrize("owned", [True, False])
async def test_reader_of_another_process_sees_what_is_committed(journal_path, owned):
    """While an owner lives, and when there is none."""
    pk = await recorded(journal_path)
    owner = await Journal.open(journal_path, clock=SystemClock()) if owned else None
    async with open_journal(journal_path, owner=False) as journal:
        assert len(await journal.reader.history(pk, "a")) == 3
        if owner is not None:
            await owner.perform(write(events=[event(pk, "a", 4)]))
            assert len(await journal.reader.history(pk, "a")) == 4
        with pytest.raises(JournalError, match="reading only"):
            journal.submit(write())
        assert (journal.journal_id, journal.writer) == ("", None)
    if owner is not None:
        await owner.close()


async def test_reader_can_never_write(journal_path):
    """Not by its file mode and not by its settings."""
    await recorded(journal_path)
    async with open_journal(journal_path) as journal:
        with pytest.raises(JournalError, match="readonly"):
            await journal.reader._ask(lambda c: c.execute("DELETE FROM runs"))
        found = await journal.reader._ask(lambda c: c.execute("PRAGMA query_only").fetchone())
        assert found == (1,)


async def test_missing_journal_is_not_created_by_a_reader(journal_path):
    """A typing error in a path must not leave an empty file."""
    with pytest.raises(JournalError, match="there is no journal at"):
        await Journal.open(journal_path, clock=SystemClock(), owner=False)
    assert not journal_path.exists()


async def test_read_error_is_reported_and_passes(journal_path):
    """One EIO is met by connecting again; a lasting one becomes a JournalError."""
    pk = await recorded(journal_path)
    plan = Plan(start="SELECT", error=lambda: disk_error(sqlite3.SQLITE_IOERR))

    def factory(uri, read_only):
        return shaky(plan)(uri, not read_only)  # the reading connection is the shaky one

    async with open_journal(journal_path, driver_factory=factory) as journal:
        plan.times = 1
        assert len(await journal.reader.history(pk, "a")) == 3
        assert plan.met == 1
        plan.times = 2
        with pytest.raises(JournalError, match="reading the journal"):
            await journal.reader.history(pk, "a")
        assert len(await journal.reader.history(pk, "a")) == 3


async def test_flipped_bits_never_change_what_is_read(journal_path, tmp_path, seed):
    """120 single flips in the file: an error or a true beginning, never another history."""
    draw = random.Random(seed)
    pk = await recorded(journal_path, events=200)
    async with open_journal(journal_path, owner=False) as journal:
        right = await journal.reader.history(pk, "a")
    content = journal_path.read_bytes()
    noticed = 0
    for number in range(120):
        damaged = bytearray(content)
        damaged[draw.randrange(4096, len(damaged))] ^= 1 << draw.randrange(8)
        copy = tmp_path / f"copy{number}"
        copy.write_bytes(damaged)
        try:
            async with open_journal(copy, owner=False) as journal:
                found = await journal.reader.history(pk, "a")
                assert found == right[: len(found)]
        except JournalError:
            noticed += 1
        copy.unlink()
    assert noticed > 0


@pytest.mark.parametrize(
    ("order", "on", "back"), [("oldest", (3, 2), (3, 1)), ("newest", (3, 1), (3, 2))]
)
def test_index_that_leads_back_is_damage(
    order: str, on: tuple[int, int], back: tuple[int, int]
) -> None:
    """Whoever followed it would never come to an end."""
    here = (3, 1) if order == "oldest" else (3, 2)
    assert _further(None, here, order) is None
    assert _further(here, None, order) == here
    assert _further(on, here, order) == on
    for place in (here, back):
        with pytest.raises(JournalCorruptError, match="out of order"):
            _further(place, here, order)
