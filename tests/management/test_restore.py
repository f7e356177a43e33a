"""Restoring: a backup in the place of a journal, whatever a crash has left there, or nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from durable import backup, restore, verify, workflow
from durable._journal.care.restoring import restore_journal
from durable._journal.driver import InlineDriver
from durable._journal.files import JournalFiles
from durable._journal.journal import Journal
from durable._surface.bystander import command
from durable._surface.cli import main
from durable.errors import (
    BackupError,
    JournalError,
    JournalLockedError,
    JournalRolledBackError,
    JournalVersionError,
)
from durable.testing import VirtualClock
from tests.engine.rig import crashing, make, opened, quiet

ENDS = ("", "-wal", "-shm", ".mark", ".running", ".reserve")
OLD, NEW = ["after", "before"], ["before"]  # runs of the crashed journal, and of its backup


@workflow(name="restore.one")
async def one(value: int) -> int:
    return value


async def _make(folder: Path) -> None:
    path = folder / "app.db"
    async with crashing(path, durability="full") as rt:
        await (await rt.start(one.options(run_id="before"), 1)).result()
        await backup(folder / "monday.db")
        await (await rt.start(one.options(run_id="after"), 2)).result()
        await quiet(rt)
        (folder / "crashed").mkdir()
        for end in ENDS:
            if os.path.exists(f"{path}{end}"):
                shutil.copy(f"{path}{end}", folder / "crashed" / f"app.db{end}")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a backup, and with a journal as its owner's death has left it later."""
    folder = tmp_path_factory.mktemp("template")
    asyncio.run(_make(folder))
    return folder


def place(template: Path, folder: Path) -> Path:
    """Put the crashed journal and its backup into a folder; return the journal's path."""
    shutil.copytree(template / "crashed", folder)
    shutil.copy(template / "monday.db", folder / "monday.db")
    assert (folder / "app.db-wal").stat().st_size > 0
    return folder / "app.db"


@pytest.fixture
def crashed(template: Path, tmp_path: Path) -> Path:
    """A journal whose owner died after the backup `monday.db` beside it was made."""
    return place(template, tmp_path / "place")


async def runs_of(path: Path) -> list[str]:
    """Open a journal as its owner, and return the ids of its runs."""
    async with opened(path) as rt:
        return sorted(info.run_id for info in await rt.list_runs())


def left(path: Path) -> list[str]:
    """Names of what lies beside a journal, without its own files and the backup."""
    ours = {f"app.db{end}" for end in (*ENDS, ".lock", ".sock")}
    ours |= {"monday.db", "monday.db-wal", "monday.db-shm"}  # SQLite's, where it has only read
    return sorted({name for name in os.listdir(path.parent) if name not in ours})


# --- what it is for ---------------------------------------------------------------------------


async def test_restored_journal_is_the_backup_whatever_wal_a_crash_has_left(crashed: Path) -> None:
    """A copy put beside the old -wal would be the journal of the crash."""
    found = await restore(crashed.parent / "monday.db", crashed, overwrite=True)
    assert (found.path, found.runs, found.events) == (str(crashed), 1, 3)
    assert found.bytes == crashed.stat().st_size
    assert await runs_of(crashed) == NEW
    assert (await verify(crashed)).findings == []


async def test_files_that_were_there_are_kept_as_a_whole_journal(crashed: Path) -> None:
    """In one folder, of mode 0700, under their own names; they can be opened, or restored."""
    before = {end: Path(f"{crashed}{end}").read_bytes() for end in ENDS if end != "-shm"}
    found = await restore(crashed.parent / "monday.db", crashed, overwrite=True)
    assert found.replaced is not None
    folder = Path(found.replaced)
    assert left(crashed) == [folder.name]
    assert folder.name.startswith("app.db.replaced-")
    assert {end: (folder / f"app.db{end}").read_bytes() for end in before} == before
    assert folder.stat().st_mode & 0o777 == 0o700
    back = await restore(folder / "app.db", crashed, overwrite=True)
    assert back.runs == 2
    assert await runs_of(crashed) == OLD


async def test_backup_can_be_restored_where_there_is_no_journal(crashed: Path) -> None:
    """Then nothing is moved; the backup itself is not touched, and the copy is private."""
    monday, other = crashed.parent / "monday.db", crashed.parent / "other.db"
    before = monday.read_bytes()
    found = await restore(monday, other)
    assert found.replaced is None
    assert other.stat().st_mode & 0o777 == 0o600
    assert await runs_of(other) == NEW
    assert monday.read_bytes() == before


async def test_restored_journal_notices_a_later_rollback(crashed: Path) -> None:
    """The old mark is gone, and a new one is kept: copying the backup over it is refused."""
    monday = crashed.parent / "monday.db"
    await restore(monday, crashed, overwrite=True)
    async with opened(crashed, durability="full") as rt:
        await (await rt.start(one.options(run_id="later"), 3)).result()
    shutil.copy(monday, crashed)
    with pytest.raises(JournalRolledBackError):
        await make(crashed).open()
    await restore(monday, crashed, overwrite=True)
    assert await runs_of(crashed) == NEW


async def test_stale_mark_or_wal_without_a_journal_does_no_harm(crashed: Path) -> None:
    """Somebody has moved the database alone away: the rest goes with the restore, too."""
    monday = crashed.parent / "monday.db"
    crashed.unlink()
    with pytest.raises(FileExistsError):
        await restore(monday, crashed)
    Path(f"{crashed}-wal").unlink()
    found = await restore(monday, crashed)
    assert found.replaced is not None
    assert "app.db.mark" in os.listdir(found.replaced)
    assert await runs_of(crashed) == NEW


async def test_changes_in_the_wal_of_the_backup_belong_to_it(crashed: Path) -> None:
    """What is given may be a crashed journal itself; it is read as SQLite reads it."""
    found = await restore(crashed, crashed.parent / "other.db")
    assert found.runs == 2
    assert await runs_of(crashed.parent / "other.db") == OLD


# --- what is refused --------------------------------------------------------------------------


async def test_journal_that_is_there_is_replaced_only_if_asked(crashed: Path) -> None:
    """Nothing is changed otherwise."""
    with pytest.raises(FileExistsError, match="overwrite=True"):
        await restore(crashed.parent / "monday.db", crashed)
    assert left(crashed) == []
    assert await runs_of(crashed) == OLD


async def test_journal_that_is_open_is_not_replaced(crashed: Path) -> None:
    """Here or in another process: its owner is named."""
    async with opened(crashed):
        with pytest.raises(JournalLockedError, match="open already in this process"):
            await restore(crashed.parent / "monday.db", crashed, overwrite=True)
    assert left(crashed) == []
    assert await runs_of(crashed) == OLD


async def test_journal_is_not_restored_from_itself(crashed: Path) -> None:
    """Under whatever name."""
    link = crashed.parent / "link.db"
    link.symlink_to(crashed)
    with pytest.raises(BackupError, match="from itself"):
        await restore(link, crashed, overwrite=True)
    assert await runs_of(crashed) == OLD


BAD = {
    "UPDATE events SET payload = x'80054b072e' WHERE seq = 1": (BackupError, "is damaged"),
    "PRAGMA user_version = 99": (JournalVersionError, "schema version 99"),
    "PRAGMA application_id = 1": (BackupError, "the header of .* is damaged"),
    "DROP INDEX runs_by_expiry": (BackupError, "not as it was made"),
}


@pytest.mark.parametrize("statement", BAD)
async def test_backup_that_is_no_sound_journal_is_refused(crashed: Path, statement: str) -> None:
    """Before anything is changed, and with the reason."""
    monday = crashed.parent / "monday.db"
    with closing(sqlite3.connect(monday, isolation_level=None)) as conn:
        conn.execute(statement)
    error, why = BAD[statement]
    with pytest.raises(error, match=why):
        await restore(monday, crashed, overwrite=True)
    assert left(crashed) == []
    assert await runs_of(crashed) == OLD


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, None])
async def test_file_that_is_no_backup_is_refused(crashed: Path, content: bytes | None) -> None:
    """An empty one, one of something else, and none at all."""
    monday = crashed.parent / "monday.db"
    monday.unlink() if content is None else monday.write_bytes(content)
    with pytest.raises(JournalError, match=r"is empty|not a database|there is no journal"):
        await restore(monday, crashed, overwrite=True)
    assert left(crashed) == []
    assert await runs_of(crashed) == OLD


async def test_backup_with_a_damaged_page_is_refused(crashed: Path) -> None:
    """The structure of the copy is looked at, and not only its rows."""
    monday = crashed.parent / "monday.db"
    data = monday.read_bytes()
    for page in range(1, len(data) // 4096):
        monday.write_bytes(data[: page * 4096] + b"\xff" * 4096 + data[(page + 1) * 4096 :])
        try:
            await restore(monday, crashed, overwrite=True)
        except BackupError:
            continue
        raise AssertionError(f"page {page} was not looked at")
    assert await runs_of(crashed) == OLD


# --- no half restores -------------------------------------------------------------------------


@pytest.mark.slow
def test_kill_between_any_two_operations_leaves_the_old_journal_or_the_new(
    template: Path, tmp_path: Path
) -> None:
    """And none of the old files is lost, when the next owner has opened it."""
    outcomes = []
    for left_over in range(200):
        path = place(template, tmp_path / str(left_over))
        pid = os.fork()
        if pid == 0:
            _die_after(path, left_over)
        _, status = os.waitpid(pid, 0)
        if Path(f"{path}.repair").exists():
            _refused_to_readers(path)
        found = asyncio.run(runs_of(path))
        assert found in (OLD, NEW)
        outcomes.append(found)
        _nothing_is_lost(path, found)
        shutil.rmtree(path.parent)
        if os.waitstatus_to_exitcode(status) == 0:
            break
    else:
        raise AssertionError("it never came to its end")
    assert outcomes == sorted(outcomes)  # once it is the new one it stays so
    assert outcomes.count(OLD) > 5
    assert outcomes.count(NEW) > 5


def _die_after(path: Path, operations: int) -> None:
    """Restore, and die before the operation of this number on files beside the journal."""
    counts = [operations]

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"os.remove", "os.rename", "os.mkdir", "os.link", "open", "sqlite3.connect"}:
            counts[0] -= str(path.parent) in str(arguments[0])
            if counts[0] < 0:
                os._exit(9)

    sys.addaudithook(audit)  # in this process alone, which ends here
    files = JournalFiles(path)
    restore_journal(JournalFiles(path.parent / "monday.db"), files, "now", overwrite=True)
    os._exit(0)


def _refused_to_readers(path: Path) -> None:
    """Who looks meanwhile is told that it is not finished, and by what it gets finished."""

    async def look() -> None:
        with pytest.raises(JournalError, match=r"not finished.*durable repair"):
            await Journal.open(path, clock=VirtualClock(), owner=False, driver_factory=InlineDriver)
        with pytest.raises(JournalError, match="not finished"):
            await verify(path)

    asyncio.run(look())


def _nothing_is_lost(path: Path, found: list[str]) -> None:
    """The old journal is where it was, or aside; drafts may lie about."""
    aside = path.parent / "app.db.replaced-now"
    others = [name for name in left(path) if name != aside.name]
    assert all(name.endswith((".part", ".part-journal")) for name in others), others
    assert aside.exists() == (found == NEW)
    if found == NEW:
        assert asyncio.run(runs_of(aside / "app.db")) == OLD


async def test_restore_that_was_killed_is_finished_by_a_command(crashed: Path) -> None:
    """One that needs an owner, though there is no database at that moment."""
    draft = crashed.parent / "app.db.01234567.part"
    shutil.copy(crashed.parent / "monday.db", draft)
    crashed.rename(crashed.parent / "aside.db")
    plan = {"draft": draft.name, "aside": "app.db.replaced-now"}
    Path(f"{crashed}.repair").write_text(json.dumps(plan))

    async def nothing(_: object) -> None:
        return None

    await command(crashed, nothing)
    assert await runs_of(crashed) == NEW
    assert not Path(f"{crashed}.repair").exists()


async def test_failure_in_the_exchange_is_told_with_the_way_out(crashed: Path) -> None:
    """Nothing is lost, and the next opening finishes it."""

    def block(stage: str) -> None:
        if stage == "exchange":
            (crashed.parent / "app.db.replaced-now").write_text("a file where the folder goes")

    monday = JournalFiles(crashed.parent / "monday.db")
    with pytest.raises(JournalError, match="repeat this, or open the journal"):
        restore_journal(monday, JournalFiles(crashed), "now", overwrite=True, stage=block)
    (crashed.parent / "app.db.replaced-now").unlink()
    assert await runs_of(crashed) == NEW


# --- the command ------------------------------------------------------------------------------


def test_command_restores_and_tells_where_the_old_files_are(
    crashed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused without --overwrite in one line; the journal is named either way."""
    monday = str(crashed.parent / "monday.db")
    assert main(["restore", monday, str(crashed)]) == 1
    told = f"durable: {crashed} exists already: choose another path, or give --overwrite\n"
    assert capsys.readouterr().err == told
    assert main(["restore", monday, "--db", str(crashed), "--overwrite"]) == 0
    told = f"{crashed}: 1 run, 3 events restored, all checked; the files that were there lie in "
    assert capsys.readouterr().out.startswith(f"{told}{crashed}.replaced-")
    assert main(["doctor", str(crashed)]) == 0
    assert "1 older copy beside it" in capsys.readouterr().out
    assert main(["restore", monday, str(crashed.parent / "new.db")]) == 0
    assert capsys.readouterr().out.endswith("restored, all checked\n")
