"""Writing to the journal while the disk fails, fills up, or loses our files."""

from __future__ import annotations

import asyncio
import os
import sqlite3

import pytest

from durable._base.clock import SystemClock
from durable._journal.journal import Journal
from durable.errors import JournalError, JournalFullError
from tests.journal.rig import (
    Plan,
    broken_sync,
    disk_error,
    event,
    full,
    new_run,
    open_journal,
    outside,
    run_row,
    shaky,
    until,
    write,
)


class EagerClock(SystemClock):
    """Timers fire at once, and are remembered."""

    def __init__(self):
        self.delays = []
        self.advance = 0.0

    def boot(self):
        return super().boot() + self.advance

    def call_later(self, loop, delay_seconds, callback):
        self.delays.append(delay_seconds)
        return loop.call_later(0, callback)


class StoppedClock(SystemClock):
    """Timers never fire by themselves."""

    def __init__(self):
        self.armed = []

    def call_later(self, loop, delay_seconds, callback):
        self.armed.append(callback)
        return loop.call_later(3600, callback)


FAULTS = [full, broken_sync]


@pytest.mark.parametrize("error", FAULTS)
@pytest.mark.parametrize("landed", [False, True])
async def test_vital_write_survives_a_commit_that_raised(journal_path, error, landed):
    """Performed again, it is there exactly once, whether the COMMIT had landed or not."""
    plan = Plan(error=error, landed=landed)
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        pk, first = new_run(journal, "a", events=3, vital=True)
        plan.times = 1
        await journal.perform(first)
        assert plan.met == 1
        assert first.existing == {}, "our own row must not be taken for another run's"
        assert outside(journal_path, "SELECT seq FROM events WHERE run = ?", pk) == [
            (1,),
            (2,),
            (3,),
        ]
        assert journal.writer.paused is None


async def test_non_vital_write_that_did_not_land_is_refused(journal_path):
    """`start()` on a full disk raises, and nothing of it is recorded."""
    plan = Plan()
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        plan.times = 1
        with pytest.raises(JournalFullError, match="disk is full"):
            await journal.perform(new_run(journal, "a")[1])
        assert outside(journal_path, "SELECT count(*) FROM runs") == [(0,)]
        await journal.perform(new_run(journal, "b")[1])
        assert outside(journal_path, "SELECT run_id FROM runs") == [("b",)]


async def test_non_vital_write_that_did_land_succeeds(journal_path):
    """An error of a COMMIT that took effect is not reported as a failure."""
    plan = Plan(error=broken_sync, landed=True)
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        plan.times = 1
        await journal.perform(new_run(journal, "a")[1])
        assert plan.met == 1
        assert outside(journal_path, "SELECT run_id FROM runs") == [("a",)]


async def test_mixed_batch_keeps_what_is_vital_and_refuses_the_rest(journal_path):
    """Each write of the failed batch gets its own answer, in the end the right one."""
    plan = Plan(error=broken_sync)
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        answers = {}
        journal.submit(write())
        for name, vital in (("a", True), ("b", False), ("c", True)):
            _, one = new_run(journal, name, vital=vital)
            one.done = lambda error, name=name: answers.update({name: type(error)})
            journal.submit(one)
        plan.seen.clear()
        plan.times = 2  # the empty write, and the three
        await journal.perform(write(vital=True))
        assert answers == {"a": type(None), "b": JournalError, "c": type(None)}
        assert outside(journal_path, "SELECT run_id FROM runs ORDER BY 1") == [("a",), ("c",)]


async def test_vital_write_waits_through_a_long_outage(journal_path, caplog):
    """Attempts get rarer, one log line tells of the pause and one of its end."""
    plan, clock = Plan(), EagerClock()
    async with open_journal(journal_path, driver_factory=shaky(plan), clock=clock) as journal:
        plan.times = 12
        await journal.perform(new_run(journal, "a", vital=True)[1])
        assert plan.met == 12
        assert clock.delays[:4] == [0.05, 0.1, 0.2, 0.4]
        assert max(clock.delays) == 2.0
        assert caplog.text.count("paused") == 1
        assert caplog.text.count("goes on") == 1


async def test_paused_writer_says_so_and_refuses_new_starts_at_once(journal_path):
    """While the disk is known to fail, `start()` need not wait for it."""
    plan, clock = Plan(), StoppedClock()
    async with open_journal(journal_path, driver_factory=shaky(plan), clock=clock) as journal:
        plan.times = 2
        answer = asyncio.ensure_future(journal.perform(new_run(journal, "a", vital=True)[1]))
        await until(lambda: clock.armed)
        assert "full" in journal.writer.paused
        with pytest.raises(JournalFullError):
            await journal.perform(new_run(journal, "b")[1])
        assert await journal.reader.counts() == {}, "reading goes on"
        clock.armed.pop()()
        await answer
        assert journal.writer.paused is None


async def test_nothing_is_refused_before_it_was_read_again(journal_path):
    """The reopening fails twice; only then is it known that the run is not there."""
    plan, clock = Plan(), EagerClock()
    async with open_journal(journal_path, driver_factory=shaky(plan), clock=clock) as journal:
        plan.times, plan.connects = 1, 2
        with pytest.raises(JournalError):
            await journal.perform(new_run(journal, "a")[1])
        assert plan.connects == 0
        plan.times, plan.connects, plan.landed = 1, 2, True
        await journal.perform(new_run(journal, "b")[1])
        assert plan.connects == 0


async def test_fault_before_commit_is_answered_at_once(journal_path):
    """A lock held by another program: not recorded, and known not to be."""
    plan = Plan(start="BEGIN", error=lambda: disk_error(sqlite3.SQLITE_BUSY))
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        plan.times = 1
        with pytest.raises(JournalError, match="holds a lock"):
            await journal.perform(new_run(journal, "a")[1])
        await journal.perform(new_run(journal, "b")[1])


async def test_closing_while_the_disk_fails_does_not_hang(journal_path):
    """Waiting writes are answered with an error, and the journal closes."""
    plan, clock = Plan(times=0), StoppedClock()
    journal = await Journal.open(journal_path, driver_factory=shaky(plan), clock=clock)
    plan.times = 1000
    answer = asyncio.ensure_future(journal.perform(new_run(journal, "a", vital=True)[1]))
    await until(lambda: clock.armed)
    await journal.close()
    with pytest.raises(JournalError, match="closed while it could not be written"):
        await answer
    async with open_journal(journal_path) as again:
        assert not again.clean


@pytest.mark.parametrize("vital", [False, True])
async def test_owner_whose_lock_is_gone_records_nothing_more(journal_path, vital):
    """Another process may own the journal by then: one more COMMIT would be one too many."""
    owned, clock = True, StoppedClock()
    journal = await Journal.open(journal_path, clock=clock, still_owned=lambda: owned)
    await journal.perform(new_run(journal, "before")[1])
    owned = False
    late = asyncio.ensure_future(journal.perform(new_run(journal, "late", vital=vital)[1]))
    await until(lambda: journal.writer.paused)
    assert outside(journal_path, "SELECT run_id FROM runs") == [("before",)]
    await journal.close()
    with pytest.raises(JournalError, match=r"lock file was deleted|could not be written"):
        await late
    assert outside(journal_path, "SELECT run_id FROM runs") == [("before",)]
    # Nor that it has ended well: the other one may crash.
    assert outside(journal_path, "SELECT value FROM meta WHERE key = 'clean'") == [(0,)]


# --- a disk that is really full -----------------------------------------------------


async def test_full_file_pauses_work_and_resumes_by_itself(journal_path):
    """SQLite's own FULL: nothing is lost, nothing half done, and it goes on with space."""
    clock = EagerClock()
    async with open_journal(journal_path, clock=clock) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        await _limit_pages(journal, 30)
        with pytest.raises(JournalFullError):
            await journal.perform(write(events=[event(pk, "a", 2, b"x" * 500_000)]))
        assert len(await journal.reader.history(pk, "a")) == 1
        # Reopening forgets the limit: that is the space coming back.
        await _limit_pages(journal, 30)
        await journal.perform(write(events=[event(pk, "a", 2, b"x" * 500_000)], vital=True))
        assert len(await journal.reader.history(pk, "a")) == 2


async def _limit_pages(journal, pages):
    await journal.writer.run(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())


async def test_reserve_is_given_up_when_full_and_taken_again_later(journal_path):
    """1 MB is kept for bad times, freed at the first sign of them, and restored."""
    plan, clock = Plan(), EagerClock()
    reserve = journal_path.with_name(journal_path.name + ".reserve")
    async with open_journal(journal_path, driver_factory=shaky(plan), clock=clock) as journal:
        assert reserve.stat().st_blocks * 512 >= 1 << 20
        assert reserve.stat().st_mode & 0o777 == 0o600
        plan.times = 1
        await journal.perform(new_run(journal, "a", vital=True)[1])
        assert not reserve.exists()
        clock.advance += 3600
        await journal.perform(write())
        await journal.perform(write())
        await journal.writer.run(lambda _: None)
        assert reserve.exists()


# --- files that go away under us ----------------------------------------------------


async def test_deleted_wal_is_noticed_within_one_commit_and_loses_nothing(journal_path, caplog):
    """Another program deletes -wal and -shm: what was and is acknowledged is in the file."""
    async with open_journal(journal_path) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        for suffix in ("-wal", "-shm"):
            os.unlink(f"{journal_path}{suffix}")
        await journal.perform(write(events=[event(pk, "a", 2)], vital=True))
        await journal.perform(write(events=[event(pk, "a", 3)]))
        assert outside(journal_path, "SELECT max(seq) FROM events") == [(3,)]
        assert len(await journal.reader.history(pk, "a")) == 3
        assert journal.writer.paused is None
        assert caplog.text.count("-wal file was deleted") == 1


async def test_foreign_checkpoint_after_an_inner_close_is_survived(journal_path, caplog):
    """A copy made inside our process drops SQLite's locks; then an outsider deletes the -wal."""
    async with open_journal(journal_path) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        journal_path.read_bytes()  # opens and closes the file: the locks are gone
        await _run_outside(journal_path)
        for seq in range(2, 22):
            await journal.perform(write(events=[event(pk, "a", seq)], vital=True))
        assert await _run_outside(journal_path) == "21"
        assert "-wal file was deleted" in caplog.text, "otherwise the trap did not spring"


async def _run_outside(path):
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
    program += "print(c.execute('SELECT max(seq) FROM events').fetchone()[0]); c.close()"
    process = await asyncio.create_subprocess_exec(
        "python3", "-c", program, str(path), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode().strip()


async def test_replaced_file_stops_writing_until_it_is_put_back(journal_path):
    """An old copy in place of the journal is never written to."""
    clock = StoppedClock()
    away = journal_path.with_name("away")
    async with open_journal(journal_path, clock=clock) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        journal_path.rename(away)
        journal_path.write_bytes(b"")
        vital = asyncio.ensure_future(
            journal.perform(write(events=[event(pk, "a", 2)], vital=True))
        )
        await until(lambda: clock.armed)
        assert "deleted or replaced" in journal.writer.paused
        assert journal_path.read_bytes() == b""
        with pytest.raises(JournalError, match="put the original back"):
            await journal.perform(write(runs=[run_row(9, "b")]))
        with pytest.raises(JournalError, match="deleted or replaced"):
            await journal.reader.run_by_id("a")
        away.replace(journal_path)
        clock.armed.pop()()
        await vital
        assert len(await journal.reader.history(pk, "a")) == 2
