"""Writing to the journal: group commit, idempotence, refusals. No faults of the disk."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from durable._base.clock import SystemClock
from durable._journal.driver import InlineDriver
from durable._journal.journal import Journal
from durable.errors import InternalError, RuntimeClosedError
from tests.journal.rig import (
    Plan,
    event,
    new_run,
    open_journal,
    outside,
    run_row,
    shaky,
    state,
    write,
)


async def test_performed_write_is_in_the_file_for_other_programs(journal_path):
    """Once `perform` returns, run, events and state can be read from outside."""
    async with open_journal(journal_path) as journal:
        pk, first = new_run(journal, "a", events=2)
        first.states = [state(pk, "running", wake_at=7)]
        await journal.perform(first)
        assert outside(journal_path, "SELECT run_id, status, wake_at FROM runs") == [
            ("a", "running", 7)
        ]
        assert outside(journal_path, "SELECT seq FROM events WHERE run = ?", pk) == [(1,), (2,)]


async def test_lone_write_costs_one_hop_and_one_commit(journal_path):
    """A sequential step is BEGIN, one insert, COMMIT, on one function call of the driver."""
    plan = Plan()
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        plan.seen.clear()
        await journal.perform(write(events=[event(pk, "a", 2)]))
        assert [text.split()[0] for text in plan.seen] == ["BEGIN", "INSERT", "COMMIT"]


async def test_writes_submitted_while_one_is_in_flight_share_one_commit(journal_path):
    """1 + 500 writes of one instant make two commits, and few statements."""
    async with open_journal(journal_path) as journal:
        done: list[int] = []
        before = journal.writer.commits, journal.writer.statements
        for number in range(501):
            _, one = new_run(journal, f"r{number}")
            one.done = lambda error, number=number: done.append(number)
            journal.submit(one)
        await journal.perform(write())
        assert done == list(range(501)), "callbacks come in submission order"
        assert journal.writer.commits - before[0] == 2
        # BEGIN, runs, events, COMMIT; the 500 events of the second commit take 5 statements.
        assert journal.writer.statements - before[1] == 4 + 8
        assert await journal.reader.counts() == {"pending": 501}


async def test_nothing_is_reported_before_commit(journal_path):
    """When `done` runs, another program sees the row already."""
    async with open_journal(journal_path) as journal:
        seen: list[object] = []
        pk, first = new_run(journal, "a")
        first.done = lambda error: seen.append(
            outside(journal_path, "SELECT count(*) FROM events WHERE run = ?", pk)
        )
        await journal.perform(first)
        assert seen == [[(1,)]]


async def test_idle_journal_runs_no_statement(journal_path):
    """Between two writes, and after them, the connection is left alone."""
    plan = Plan()
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        await journal.perform(new_run(journal, "a")[1])
        plan.seen.clear()
        for _ in range(200):
            await asyncio.sleep(0)
        assert plan.seen == []


async def test_existing_run_id_is_left_out_and_returned(journal_path):
    """The second start finds the first one's row; its own events are not recorded."""
    async with open_journal(journal_path) as journal:
        pk, first = new_run(journal, "same", workflow="first")
        await journal.perform(first)
        assert first.existing == {}
        other = journal.next_pk()
        both = write(
            runs=[run_row(other, "same"), run_row(other + 1, "fresh")],
            events=[event(other, "same", 1), event(other + 1, "fresh", 1)],
            states=[state(other), state(other + 1)],
        )
        await journal.perform(both)
        assert both.existing == {"same": run_row(pk, "same", workflow="first")}
        assert outside(journal_path, "SELECT run FROM events ORDER BY run") == [(pk,), (other + 1,)]
        assert (await journal.reader.run_by_id("fresh")).status == "running"


async def test_same_run_id_twice_in_one_batch_is_recorded_once(journal_path):
    """Of two starts in one commit the first wins and the second learns of it."""
    async with open_journal(journal_path) as journal:
        journal.submit(write())  # keeps the writer busy, so that the next two share a batch
        first_pk, first = new_run(journal, "same")
        _, second = new_run(journal, "same")
        journal.submit(first)
        await journal.perform(second)
        assert first.existing == {}
        assert second.existing["same"].pk == first_pk
        assert await journal.reader.counts() == {"pending": 1}


async def test_write_performed_twice_changes_nothing(journal_path):
    """The same rows again: no error, no second row, not taken for another run's."""
    async with open_journal(journal_path) as journal:
        _, first = new_run(journal, "a", events=3)
        await journal.perform(first)
        before = outside(journal_path, "SELECT * FROM events")
        await journal.perform(write(runs=first.runs, events=first.events))
        assert outside(journal_path, "SELECT * FROM events") == before


async def test_event_recorded_differently_is_refused_as_a_defect(journal_path):
    """A step has one outcome for ever: another event under its number is an InternalError."""
    async with open_journal(journal_path) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        with pytest.raises(InternalError, match="recorded differently"):
            await journal.perform(write(events=[event(pk, "a", 1, b"other")]))
        (found,) = await journal.reader.history(pk, "a")
        assert found.payload == b"x"


@pytest.mark.parametrize("culprit", ["overflow", "surrogate", "type", "status", "stray state"])
async def test_only_the_faulty_write_of_a_batch_is_refused(journal_path, culprit):
    """Its neighbours in the same commit are recorded and told so."""
    async with open_journal(journal_path) as journal:
        pk = journal.next_pk()
        bad = {
            "overflow": write(runs=[run_row(pk, "bad", created_at=1 << 70)]),
            "surrogate": write(runs=[run_row(pk, "bad", workflow="\udc80")]),
            "type": write(runs=[run_row(pk, "bad", attributes={"not": "text"})]),
            "status": write(runs=[run_row(pk, "bad", status="odd")]),
            "stray state": write(runs=[run_row(pk, "bad")], states=[state(99)]),
        }[culprit]
        outcomes: list[tuple[str, BaseException | None]] = []
        journal.submit(write())
        writes = {"one": new_run(journal, "one")[1], "bad": bad}
        writes["two"] = new_run(journal, "two")[1]
        for name, one in writes.items():
            one.done = lambda error, name=name: outcomes.append((name, error))
            journal.submit(one)
        await journal.perform(write())
        assert [name for name, _ in outcomes] == ["one", "bad", "two"]
        assert [type(error) for _, error in outcomes] == [type(None), InternalError, type(None)]
        assert outside(journal_path, "SELECT run_id FROM runs ORDER BY 1") == [("one",), ("two",)]


async def test_raising_callback_does_not_keep_the_others_from_theirs(journal_path, caplog):
    """A defect in one caller must not leave another one waiting."""
    async with open_journal(journal_path) as journal:
        called: list[str] = []

        def bad(error):
            called.append("bad")
            raise ValueError("a defect")

        journal.submit(write(done=bad))
        journal.submit(write(done=bad))
        journal.submit(write(done=lambda error: called.append("good")))
        await journal.perform(write())
        assert called == ["bad", "bad", "good"]
        assert "a callback after a write raised" in caplog.text


async def test_cancelled_waiter_does_not_cancel_the_write(journal_path):
    """The write stands, whole, although nobody waits for it any more."""
    async with open_journal(journal_path) as journal:
        pk, first = new_run(journal, "a", events=3)
        waiting = asyncio.ensure_future(journal.perform(first))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await journal.perform(write())
        assert len(await journal.reader.history(pk, "a")) == 3


async def test_suspect_step_is_remembered_until_cleared(journal_path):
    """What was running alone when the process died is known at the next opening."""
    async with open_journal(journal_path) as journal:
        await journal.perform(write(suspect=(4, 2)))
    async with open_journal(journal_path) as journal:
        assert journal.suspect == (4, 2)
        await journal.perform(write(clear_suspect=True))
    async with open_journal(journal_path) as journal:
        assert journal.suspect is None


async def test_keys_of_runs_go_on_after_reopening(journal_path):
    """`next_pk` never gives a key that is in use."""
    async with open_journal(journal_path) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
    async with open_journal(journal_path) as journal:
        assert journal.next_pk() == pk + 1


async def test_writing_to_a_closed_journal_raises(journal_path):
    """Nothing is taken in that would never be answered."""
    journal = await Journal.open(journal_path, clock=SystemClock())
    await journal.close()
    with pytest.raises(RuntimeClosedError):
        journal.submit(write())


async def test_writes_in_the_queue_are_done_before_closing(journal_path):
    """Closing right after submitting loses nothing."""
    async with open_journal(journal_path) as journal:
        answers: list[object] = []
        for number in range(50):
            _, one = new_run(journal, f"r{number}")
            one.done = answers.append
            journal.submit(one)
    assert answers == [None] * 50
    assert outside(journal_path, "SELECT count(*) FROM runs") == [(50,)]


async def test_inline_driver_gives_the_same_rows(journal_path):
    """The simulation's driver runs the same SQL, without a thread."""
    async with open_journal(journal_path, driver_factory=InlineDriver) as journal:
        pk, first = new_run(journal, "a", events=2)
        await journal.perform(first)
        assert [e.seq for e in await journal.reader.history(pk, "a")] == [1, 2]


async def test_large_batches_are_split_without_splitting_a_write(journal_path):
    """12,000 events in 12 writes: all there, each write whole in one commit."""
    async with open_journal(journal_path) as journal:
        for number in range(12):
            journal.submit(new_run(journal, f"r{number}", events=1000)[1])
        await journal.perform(write())
        assert outside(journal_path, "SELECT count(*) FROM events") == [(12_000,)]
        assert 3 <= journal.writer.commits <= 5


async def test_durability_process_uses_normal_synchronous(journal_path):
    """The weaker promise is really the cheaper setting, and the default is not."""
    for durability, level in (("process", 1), ("full", 2)):
        async with open_journal(journal_path, durability=durability) as journal:
            found = await journal.writer.run(lambda c: c.execute("PRAGMA synchronous").fetchone())
            assert found == (level,)


async def test_unknown_durability_is_refused(journal_path):
    """A typing error must not weaken the promise silently."""
    with pytest.raises(ValueError, match="'ful'"):
        await Journal.open(journal_path, clock=SystemClock(), durability="ful")


async def test_job_between_batches_that_raises_harms_nothing(journal_path):
    """A failing statement of a job is its own affair."""
    async with open_journal(journal_path) as journal:
        with pytest.raises(InternalError) as caught:
            await journal.writer.run(lambda c: c.execute("SELECT nonsense"))
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        await journal.perform(new_run(journal, "a")[1])
