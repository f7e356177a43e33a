"""A run whose last events are gone: it alone is parked, and an older copy is still refused."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durable import Run
from durable._journal.care.repairing import plan_repair, repair_journal
from durable._journal.files import JournalFiles
from durable._surface.cli import main
from durable.errors import JournalCorruptError, JournalRolledBackError, WorkflowRunBlockedError
from durable.testing import VirtualClock
from tests.engine.rig import crashing, elapse, make, opened, quiet
from tests.health.rig import adding, change, executed, fill_open, napping

DAYS = 3 * 86_400


@pytest.fixture(autouse=True)
def _clean() -> None:
    executed.clear()


async def leave(path: Path, *, crash: bool = False) -> None:
    """Leave a journal whose newest event is the sleep of the run "last"."""
    async with (crashing if crash else opened)(path, durability="full") as rt:
        await fill_open(rt)
        await rt.start(napping.options(run_id="last"), "x")
        await quiet(rt)


def cut_short(path: Path, run_id: str, left: int) -> None:
    """Delete the events of a run behind the first ones, as no crash does it."""
    where = f"run = (SELECT pk FROM runs WHERE run_id = '{run_id}') AND seq > {left}"
    change(path, f"DELETE FROM events WHERE {where}")


async def why_blocked(run: Run[object]) -> WorkflowRunBlockedError:
    """Return why a run is parked."""
    with pytest.raises(WorkflowRunBlockedError) as blocked:
        await run.result(5)
    return blocked.value


async def test_run_that_has_lost_its_end_is_parked_and_the_others_go_on(
    journal_path: Path,
) -> None:
    """At each opening, until somebody lets it go on from what is left, or ends it."""
    await leave(journal_path)
    cut_short(journal_path, "last", 3)
    for _ in range(2):
        async with opened(journal_path) as rt:
            await quiet(rt)
            error = await why_blocked(rt.get_run("last"))
            assert error.kind == "corrupt"
            assert "event 5" in error.reason
    clock = VirtualClock()
    executed.clear()
    async with opened(journal_path, clock) as rt:
        await quiet(rt)
        await elapse(rt, clock, DAYS, 43_200)
        assert await rt.get_run("nap").status() == "completed"
        assert not [each for each in executed if each.startswith("last")]
        await rt.get_run("last").resume()
        await quiet(rt)
        assert len([each for each in executed if each.startswith("last")]) == 1
        await elapse(rt, clock, DAYS, 43_200)
        assert await rt.get_run("last").result() == "x"
    assert await opens(journal_path)


async def opens(path: Path) -> bool:
    """Tell whether a journal opens, or is refused as rolled back."""
    try:
        async with make(path):
            return True
    except JournalRolledBackError:
        return False


async def test_paused_run_that_has_lost_its_end_is_not_only_paused(journal_path: Path) -> None:
    """To go on is another decision now."""
    async with opened(journal_path) as rt:
        run = await rt.start(napping.options(run_id="last"), "x")
        await quiet(rt)
        await run.pause("lunch")
    cut_short(journal_path, "last", 3)
    async with opened(journal_path) as rt:
        assert (await why_blocked(rt.get_run("last"))).kind == "corrupt"
        await rt.get_run("last").cancel()
        assert await rt.get_run("last").status() == "cancelled"


async def test_run_that_had_ended_tells_that_its_end_is_gone(journal_path: Path) -> None:
    """It does not run again: nothing of it is left to do."""
    async with opened(journal_path) as rt:
        await (await rt.start(adding.options(run_id="last"), 2)).result()
    cut_short(journal_path, "last", 3)
    executed.clear()
    async with opened(journal_path) as rt:
        await quiet(rt)
        with pytest.raises(JournalCorruptError):
            await rt.get_run("last").result(5)
    assert executed == []


async def test_run_of_which_nothing_is_left_is_the_loss_of_the_journal(journal_path: Path) -> None:
    """There is nothing to park, and its id would seem to be free."""
    await leave(journal_path)
    cut_short(journal_path, "last", 0)
    change(journal_path, "DELETE FROM runs WHERE run_id = 'last'")
    assert not await opens(journal_path)


async def test_end_that_went_before_the_journal_was_closed_is_the_loss_of_the_journal(
    journal_path: Path,
) -> None:
    """After a crash nothing tells an event that was removed from a lost end of all."""
    await leave(journal_path, crash=True)
    cut_short(journal_path, "last", 3)
    assert not await opens(journal_path)


async def test_older_copy_is_refused_whole_however_it_was_closed(
    journal_path: Path, tmp_path: Path
) -> None:
    """As it was, or gone on by itself since; also if a run of it was cut short."""
    await leave(journal_path)
    old = tmp_path / "old.db"
    shutil.copy(journal_path, old)
    async with opened(journal_path, durability="full") as rt:
        await (await rt.start(adding.options(run_id="later still"), 1)).result()
    for number, change_of_it in enumerate((_nothing, _shorten, _go_on)):
        copy = tmp_path / f"{number}.db"
        shutil.copy(old, copy)
        await change_of_it(copy)
        shutil.copy(f"{journal_path}.mark", f"{copy}.mark")
        assert not await opens(copy), number


async def _nothing(path: Path) -> None: ...


async def _shorten(path: Path) -> None:
    cut_short(path, "last", 3)


async def _go_on(path: Path) -> None:
    async with opened(path, durability="full") as rt:
        await (await rt.start(adding.options(run_id="elsewhere"), 2)).result()


def test_repair_sets_the_run_aside_that_has_lost_its_end(
    journal_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything else has opened the journal; doctor names it."""
    asyncio.run(leave(journal_path))
    cut_short(journal_path, "last", 3)
    assert main(["doctor", "--db", str(journal_path)]) == 3
    assert "event 5 of run last" in capsys.readouterr().out
    planned = plan_repair(JournalFiles(journal_path))
    assert [run.run_id for run in planned.runs if run.fate == "set aside"] == ["last"]
    assert main(["repair", "--dry-run", "--db", str(journal_path)]) == 3
    repair_journal(JournalFiles(journal_path), "now")
    with closing(sqlite3.connect(journal_path)) as conn:
        found = conn.execute("SELECT status, blocked FROM runs WHERE run_id = 'last'").fetchone()
    assert found[0] == "blocked"
    assert "event 5" in found[1]
    assert asyncio.run(opens(journal_path))
