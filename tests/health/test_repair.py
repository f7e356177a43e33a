"""`durable repair`: sound runs go on, damaged ones are set aside, and nothing is dropped unsaid."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from durable import verify
from durable._journal.care.repairing import Repair, plan_repair, repair_journal
from durable._journal.driver import InlineDriver
from durable._journal.files import JournalFiles
from durable._journal.journal import Journal
from durable._journal.swapping import finish
from durable._surface.cli import main
from durable.errors import JournalError, JournalLockedError, WorkflowRunBlockedError
from durable.testing import VirtualClock
from tests.engine.rig import crashing, elapse, make, opened, quiet
from tests.health.rig import SECRET, change, fill_open

IDS = {"sum", "talk", "fail", "nap", "wait", "family", "later"}


def repaired(path: Path) -> Repair:
    """Repair a journal that nobody has open; afterwards it is sound."""
    found = repair_journal(JournalFiles(path), "now")
    assert asyncio.run(verify(path)).findings == []
    return found


def fates(repair: Repair) -> dict[str | None, str]:
    """What became of the runs that were not kept as they were."""
    return {run.run_id: run.fate for run in repair.runs if run.fate != "kept"}


async def ends(path: Path) -> dict[str, str]:
    """Let the runs go on to their ends; how each stands then."""
    clock = VirtualClock()
    async with make(path, clock) as rt:
        await quiet(rt)
        if await rt.get_run("wait").status() == "running":
            await rt.resume_hook(f"token-{SECRET}", "yes")
            await rt.send("wait", "more", " and more")
        await elapse(rt, clock, 3 * 86_400, 43_200)
        return {each: await rt.get_run(each).status() for each in sorted(IDS)}


WELL = dict.fromkeys(sorted(IDS), "completed") | {"fail": "failed"}


def test_damaged_run_is_set_aside_and_the_others_go_on(journal: Path) -> None:
    """It is blocked with the reason; it is not forgotten, and its id is not free."""
    change(journal, "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 6")
    repair = repaired(journal)
    assert fates(repair) == {"sum": "set aside"}
    assert asyncio.run(ends(journal)) == {**WELL, "sum": "blocked"}

    async def look() -> None:
        async with opened(journal) as rt:
            with pytest.raises(WorkflowRunBlockedError, match="event 6 does not match") as error:
                await rt.get_run("sum").result()
            assert error.value.kind == "corrupt"
            assert "kept up to event 5" in error.value.reason
            assert len(await rt.get_run("sum").events()) == 5

    asyncio.run(look())


def test_run_that_was_set_aside_goes_on_when_it_is_resumed(journal: Path) -> None:
    """From the sound part of its history, by the will of a person."""
    change(journal, "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 6")
    repaired(journal)

    async def resume() -> None:
        async with opened(journal) as rt:
            run = rt.get_run("sum")
            await run.resume()
            assert await run.result(10) == 20

    asyncio.run(resume())


def test_what_is_not_kept_lies_in_the_folder_of_the_repair(journal: Path) -> None:
    """The damaged files as they were, each row of damaged runs, and what was done."""
    change(journal, "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 6")
    before = journal.read_bytes()
    repair = repaired(journal)
    assert repair.folder is not None
    folder = Path(repair.folder)
    assert sorted(os.listdir(folder)) == ["before.db", "quarantine.jsonl", "report.txt"]
    assert (folder / "before.db").read_bytes() == before
    lines = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert (lines[0]["run_id"], len(lines[0]["events"])) == ("sum", 13)
    report = (folder / "report.txt").read_text()
    assert "set aside: run sum: event 6 does not match its checksum" in report
    assert "(5 events and 0 chunks kept, 8 rows not)" in report
    assert {file.stat().st_mode & 0o077 for file in folder.iterdir()} == {0}
    assert folder.stat().st_mode & 0o777 == 0o700


# What is done to a journal, and what becomes of which run.
CASES: dict[str, dict[str | None, str]] = {
    "UPDATE runs SET status = 'failed' WHERE pk = 1": {"sum": "mended"},
    "UPDATE runs SET wake_at = 77 WHERE run_id = 'nap'": {"nap": "mended"},
    "UPDATE runs SET workflow = 'health.sun' WHERE run_id = 'later'": {"later": "set aside"},
    """UPDATE runs SET attributes = '{"a": "b"}' WHERE pk = 1""": {"sum": "set aside"},
    "UPDATE runs SET origin = '{' WHERE run_id = 'nap'": {"nap": "set aside"},
    "DELETE FROM runs WHERE run_id = 'nap'": {None: "lost"},
    "DELETE FROM events WHERE run = 1": {"sum": "set aside"},
    "DELETE FROM events WHERE run = 1 AND seq = 13": {"sum": "set aside"},
    "UPDATE chunks SET payload = x'80054b072e' WHERE run = 2 AND idx = 1": {"talk": "set aside"},
    "DELETE FROM hooks": {},
    "UPDATE hooks SET run = 1": {},
    "DELETE FROM attributes WHERE run = 1": {},
    "UPDATE meta SET value = 'x' WHERE key = 'journal_id'": {},
    "INSERT INTO requests VALUES (1, 'wake', 3, NULL, 0)": {},
}


@pytest.mark.parametrize("statement", CASES)
def test_each_kind_of_damage_is_mended_or_set_aside(journal: Path, statement: str) -> None:
    """Whatever is damaged, the result is a sound journal in which the others end."""
    change(journal, statement)
    repair = repaired(journal)
    assert fates(repair) == CASES[statement]
    came_to = asyncio.run(ends(journal)) if None not in fates(repair) else {}
    expected = {each: WELL[each] for each in came_to} | {
        str(run_id): "blocked" for run_id, fate in fates(repair).items() if fate == "set aside"
    }
    assert came_to == expected


def test_pages_that_cannot_be_read_cost_what_lies_in_them(journal: Path) -> None:
    """Pages of tables and of indexes: a sound journal comes out, and what is lost is told."""
    whole = journal.read_bytes()
    kept = []
    pages = [p for p in range(1, len(whole) // 4096) if b"health." in whole[p * 4096 :][:4096]]
    for page in [*pages[1:], 4, 9]:
        journal.write_bytes(whole[: page * 4096] + b"\xff" * 4096 + whole[(page + 1) * 4096 :])
        repair = repair_journal(JournalFiles(journal), str(page))
        assert asyncio.run(verify(journal)).findings == []
        kept.append(repair.counts()["kept"])
        if repair.counts()["kept"] < 8:
            assert len(repair.lines) > 1
    assert max(kept) == 8
    assert min(kept) < 8


def test_rows_in_the_wal_are_saved_too(journal_path: Path) -> None:
    """A journal that a crash has left, damaged in its database."""

    async def leave() -> None:
        async with crashing(journal_path, driver=InlineDriver) as rt:
            await fill_open(rt)
            for end in ("", "-wal"):
                data = Path(f"{journal_path}{end}").read_bytes()
                Path(f"{journal_path}.old{end}").write_bytes(data)

    asyncio.run(leave())
    old = Path(f"{journal_path}.old")
    change_beside = Path(f"{old}-wal").stat().st_size
    assert change_beside > 0
    repair = repaired(old)
    assert repair.counts() == {"kept": 8}
    assert not Path(f"{old}-wal").exists() or Path(f"{old}-wal").stat().st_size == 0


# --- no half repairs --------------------------------------------------------------------------


class CrashedError(Exception):
    """Stands for the death of the program."""


STAGES = ("copy", "read", "build", "report", "exchange")


@pytest.mark.parametrize("stage", STAGES)
def test_crash_before_the_exchange_leaves_the_journal_as_it_was(journal: Path, stage: str) -> None:
    """And the next repair does it all."""
    change(journal, "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 6")
    before = journal.read_bytes()

    def crash(reached: str) -> None:
        if reached == stage:
            raise CrashedError

    with pytest.raises(CrashedError):
        repair_journal(JournalFiles(journal), "first", crash)
    assert journal.read_bytes() == before
    assert fates(repaired(journal)) == {"sum": "set aside"}


@pytest.mark.slow
def test_kill_at_any_moment_of_the_exchange_leaves_the_old_or_the_new(
    template: Path, tmp_path: Path
) -> None:
    """Whoever opens the journal next finishes what was begun; a reader waits for that."""
    outcomes = set()
    for left in range(40):
        folder = tmp_path / str(left)
        folder.mkdir()
        path = folder / "app.db"
        path.write_bytes(template.read_bytes())
        change(path, "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 6")
        Path(f"{path}-wal").write_bytes(b"of the damaged database")
        pid = os.fork()
        if pid == 0:
            _die_after(path, left)
        _, status = os.waitpid(pid, 0)
        outcomes.add(_state(path))
        finish(JournalFiles(path))
        outcomes.add(_state(path))
        assert not Path(f"{path}.repair").exists()
        if os.waitstatus_to_exitcode(status) == 0:
            break
    else:
        raise AssertionError("it never came to its end")
    assert outcomes == {"old", "unfinished", "new"}


def _die_after(path: Path, left: int) -> None:
    """Repair, and die at the `left`th change of a name from the exchange on."""
    counts = [left]

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"os.remove", "os.rename", "os.link", "os.truncate"} and begun:
            counts[0] -= 1
            if counts[0] < 0:
                os._exit(9)

    begun: list[str] = []
    sys.addaudithook(audit)  # in this process alone, which ends here
    repair_journal(
        JournalFiles(path), "now", lambda s: begun.append(s) if s == "exchange" else None
    )
    os._exit(0)


def _state(path: Path) -> str:
    if Path(f"{path}.repair").exists():
        return "unfinished"
    is_new = not Path(f"{path}-wal").exists()
    found = asyncio.run(verify(path)).findings if is_new else [None]
    return "old" if found else "new"


async def test_unfinished_exchange_is_finished_by_the_next_owner(journal: Path) -> None:
    """And refused to readers until then."""
    change(journal, "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 6")

    def stop(reached: str) -> None:
        if reached == "exchange":
            raise CrashedError

    with pytest.raises(CrashedError):
        repair_journal(JournalFiles(journal), "now", stop)
    plan = {"draft": "app.db.repaired-now/after.db"}
    Path(f"{journal}.repair").write_text(json.dumps(plan))
    with pytest.raises(JournalError, match="is not finished"):
        await Journal.open(journal, clock=VirtualClock(), owner=False)
    async with opened(journal) as rt:
        assert await rt.get_run("sum").status() == "blocked"
    assert not Path(f"{journal}.repair").exists()


# --- the command ------------------------------------------------------------------------------

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(journal: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Performs `durable repair`: exit code, stdout, stderr."""

    def perform(*arguments: str) -> tuple[int, str, str]:
        code = main(["repair", str(journal), *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return perform


def test_repair_that_fails_leaves_no_copies_behind(journal: Path) -> None:
    """On a full disk each attempt would make it fuller."""
    change(journal, "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 6")
    errors = [OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("full")]
    for stage, error in zip(("build", "report"), errors, strict=True):

        def fail(reached: str, at: str = stage, error: Exception = error) -> None:
            if reached == at:
                raise error

        with pytest.raises((JournalError, OSError)):
            repair_journal(JournalFiles(journal), "first", fail)
        assert not list(journal.parent.glob("*.repaired-*"))
    assert fates(repaired(journal)) == {"sum": "set aside"}


def test_tables_of_the_users_own_need_no_repair_and_are_told(
    journal: Path, command: Command
) -> None:
    """A repair for another reason leaves them in the old file, and says so."""
    change(journal, "CREATE TABLE mine (x)", "INSERT INTO mine VALUES (42)")
    assert command() == (0, f"{journal}: nothing to repair\n", "")
    change(journal, "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 6")
    code, told, _ = command()
    assert code == 0
    assert "table mine is no part of a journal, and is not kept: copy it from before.db" in told


def test_sound_journal_is_left_alone(journal: Path, command: Command) -> None:
    """Not a byte is changed."""
    before = journal.read_bytes()
    assert command() == (0, f"{journal}: nothing to repair\n", "")
    assert journal.read_bytes() == before


def test_dry_run_tells_and_does_nothing(journal: Path, command: Command) -> None:
    """The same lines as the repair itself."""
    change(journal, "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 6")
    before = journal.read_bytes()
    code, told, _ = command("--dry-run")
    assert (code, journal.read_bytes()) == (3, before)
    assert "7 runs kept, 0 mended, 1 set aside, 0 lost" in told
    assert json.loads(command("--dry-run", "--json")[1])["runs"][0]["run_id"] == "sum"
    code, done, _ = command()
    assert (code, done.startswith(told)) == (0, True)
    assert f"lie in {journal}.repaired-" in done
    assert command()[1] == f"{journal}: nothing to repair\n"


async def test_repair_never_runs_beside_an_owner(journal_path: Path) -> None:
    """Who has it open is named."""
    async with opened(journal_path):
        with pytest.raises(JournalLockedError):
            from durable._surface.cli_repair import _owned

            with _owned(JournalFiles(journal_path)):
                pass


TOKENS = {
    "UPDATE hooks SET run = 1": (
        "run wait holds the token of event 3 again, whose row was missing or damaged: nothing is"
    ),
    "DELETE FROM hooks": "run wait holds the token of event 3 again, whose row was missing",
    "DELETE FROM events WHERE run = (SELECT run FROM hooks) AND seq > 2": (
        "a token held by run wait is free until the run goes on, or is resumed, and asks for it"
    ),
    "DELETE FROM runs WHERE run_id = 'wait'": (
        "a token held by the run of key 5, which is lost, is free: start it anew"
    ),
    "INSERT INTO hooks VALUES (x'00', 1, 6, 0)": (
        "a token held by run sum, which has ended, is free: nothing is to be done"
    ),
}


@pytest.mark.parametrize("statement", TOKENS)
def test_what_became_of_a_token_is_told_with_its_run_and_the_way_out(
    journal: Path, statement: str
) -> None:
    """Once for each token, and nothing of tokens that are as they were."""
    change(journal, statement)
    told = [line for line in repaired(journal).lines[1:] if " token " in line]
    assert len(told) == 1
    assert told[0].startswith(TOKENS[statement])


def test_plan_of_a_sound_journal_keeps_all(journal: Path) -> None:
    """Salvage reads what is there."""
    assert plan_repair(JournalFiles(journal)).counts() == {"kept": 8}
