"""Backups: made while runs go on, checked whole, and never half there."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from durable import (
    Backup,
    Runtime,
    SyncRuntime,
    backup,
    get_writable,
    set_attributes,
    sleep,
    step,
    workflow,
)
from durable.errors import BackupError, JournalError, RuntimeClosedError
from tests.engine.rig import opened, quiet
from tests.surface.programs import Program, spawn

WAIT = 30.0


@step
async def one(value: int, data: bytes = b"") -> int:
    await asyncio.sleep(0)
    return value


@workflow(name="backup.working")
async def working(number: int) -> int:
    await set_attributes({"number": str(number % 10)})
    for n in range(5):
        number += await one(n)
    return number


@workflow(name="backup.napping")
async def napping() -> None:
    await sleep("1 day")


@step
async def bulky(size: int) -> bytes:
    return os.urandom(size)


@workflow(name="backup.large")
async def large(pieces: int) -> int:
    total = 0
    for _ in range(pieces):
        total += len(await bulky(200_000))
    return total


def left(path: Path) -> list[str]:
    """Names in a directory, without those of the journal that is backed up."""
    return sorted(name for name in os.listdir(path) if not name.startswith("app.db"))


async def test_backup_made_while_1000_runs_work_holds_all_that_was_acknowledged(
    journal_path: Path, tmp_path: Path
) -> None:
    """Runs are started and end before, while and after; the copy opens, and all of them end."""
    copy = tmp_path / "copy.db"
    async with Runtime(journal_path, durability="process") as rt:
        acknowledged = await rt.start_many(working, [(n,) for n in range(500)])
        ended = await rt.start(working, 1)
        await ended.result(WAIT)
        making = asyncio.create_task(rt.backup(copy))
        later = [await rt.start(working, n) for n in range(500)]
        made = await making
        again = await rt.backup(tmp_path / "later.db")
        for run in [*acknowledged, *later]:
            await run.result(WAIT)
    assert made.runs >= 501
    assert made.path == str(copy)
    assert made.bytes == copy.stat().st_size
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert again.runs == 1001
    async with Runtime(copy, durability="process") as rt:
        assert await rt.get_run(ended.run_id).status() == "completed"
        for number, run in enumerate(acknowledged):
            assert await rt.get_run(run.run_id).result(WAIT) == number + 10
        assert await rt.count_runs() == made.runs
        assert await rt.count_runs(attributes={"number": "3"}) >= 50
    async with Runtime(tmp_path / "later.db", durability="process") as rt:
        for number, run in enumerate(later):
            assert await rt.get_run(run.run_id).result(WAIT) == number + 10


async def test_host_and_writer_go_on_while_a_large_journal_is_copied(
    journal_path: Path, tmp_path: Path
) -> None:
    """Steps complete, and the loop turns, many times during one backup."""
    async with Runtime(journal_path, durability="process") as rt:
        await (await rt.start(large, 200)).result(WAIT)
        making = asyncio.create_task(rt.backup(tmp_path / "copy.db"))
        turns, runs = 0, 0
        while not making.done():
            await (await rt.start(working, 0)).result(WAIT)
            runs += 1
            await asyncio.sleep(0)
            turns += 1
        assert (await making).bytes > 40_000_000
        assert runs >= 5


async def test_backup_refuses_to_overwrite_unless_asked(journal_path: Path, tmp_path: Path) -> None:
    """A file, a directory, the journal itself, another journal that is open."""
    async with opened(journal_path) as rt:
        await quiet(rt)
        taken = tmp_path / "taken"
        taken.write_text("mine")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            await rt.backup(taken)
        assert taken.read_text() == "mine"
        assert (await rt.backup(taken, overwrite=True)).runs == 0
        for own in ("", "-wal", "-shm", ".lock", ".reserve", ".mark"):
            with pytest.raises(BackupError, match="belongs to the journal itself"):
                await rt.backup(f"{journal_path}{own}", overwrite=True)
        with pytest.raises(FileExistsError):
            await rt.backup(tmp_path, overwrite=True)
        with pytest.raises(BackupError, match="No such file"):
            await rt.backup(tmp_path / "no" / "copy.db")
        async with Runtime(tmp_path / "other.db") as other:
            with pytest.raises(BackupError, match="a journal that is open"):
                await rt.backup(tmp_path / "other.db", overwrite=True)
            assert await other.count_runs() == 0
    assert left(tmp_path) == [
        "other.db", "other.db.lock", "other.db.mark", "other.db.reserve", "taken",
    ]  # fmt: skip


async def test_copy_with_a_damaged_event_is_no_backup(journal_path: Path, tmp_path: Path) -> None:
    """Every checksum is looked at: a bit that fell over in the journal is told, by its place."""
    async with opened(journal_path) as rt:
        run = await rt.start(working.options(run_id="w"), 1)
        await run.result(WAIT)
        await rt.journal.writer.run(
            lambda conn: conn.execute(
                "UPDATE events SET payload = x'80054b072e' WHERE kind = 12 AND seq = 7"
            )
        )
        with pytest.raises(BackupError, match="event 7 of run w is damaged"):
            await rt.backup(tmp_path / "copy.db")
        await rt.journal.writer.run(
            lambda conn: conn.execute("DELETE FROM events WHERE kind = 12 AND seq = 7")
        )
        with pytest.raises(BackupError, match="event 8 of run w is not in its place"):
            await rt.backup(tmp_path / "copy.db")
        await rt.journal.writer.run(lambda conn: conn.execute("DELETE FROM events"))
        with pytest.raises(BackupError, match="run w has no history"):
            await rt.backup(tmp_path / "copy.db")
        await rt.journal.writer.run(lambda conn: conn.execute("DELETE FROM runs"))
        assert (await rt.backup(tmp_path / "copy.db")).runs == 0
    assert left(tmp_path) == ["copy.db"]


@workflow(name="backup.talking")
async def talking() -> None:
    for n in range(3):
        await get_writable("log").write(n)


async def test_copy_with_a_damaged_chunk_is_no_backup(journal_path: Path, tmp_path: Path) -> None:
    """Streams are looked at like histories."""
    async with opened(journal_path) as rt:
        await (await rt.start(talking.options(run_id="t"))).result(WAIT)
        change = "UPDATE chunks SET payload = x'80054b092e' WHERE idx = 1"
        await rt.journal.writer.run(lambda conn: conn.execute(change))
        with pytest.raises(BackupError, match="chunk 1 of stream 'log' of run t is damaged"):
            await rt.backup(tmp_path / "copy.db")
        gap = "DELETE FROM chunks WHERE idx = 1"
        await rt.journal.writer.run(lambda conn: conn.execute(gap))
        with pytest.raises(BackupError, match="chunk 2 of stream 'log' of run t is not in its"):
            await rt.backup(tmp_path / "copy.db")
    assert left(tmp_path) == []


async def test_backup_in_the_middle_of_a_deletion_is_good(
    journal_path: Path, tmp_path: Path
) -> None:
    """What is in the trash is no run; the copy's first opening deletes it."""
    async with opened(journal_path) as rt:
        run = await rt.start(working.options(run_id="w"), 1)
        await run.result(WAIT)
        await rt.journal.delete_run(1)
        made = await rt.backup(tmp_path / "copy.db")
        assert (made.runs, made.events) == (0, 0)
    async with opened(tmp_path / "copy.db") as rt:
        await asyncio.wait([rt._engine._sweeper._task])
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)


async def test_cancelled_backup_leaves_nothing(journal_path: Path, tmp_path: Path) -> None:
    """Who gives up waiting calls it off."""
    async with Runtime(journal_path, durability="process") as rt:
        await (await rt.start(large, 100)).result(WAIT)
        making = asyncio.create_task(rt.backup(tmp_path / "copy.db"))
        while not left(tmp_path):
            await asyncio.sleep(0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert left(tmp_path) == []
        assert (await rt.backup(tmp_path / "copy.db")).runs == 1


async def test_closing_calls_a_backup_off(journal_path: Path, tmp_path: Path) -> None:
    """The journal is closed in order, and whoever waits for the backup is told."""
    rt = Runtime(journal_path, durability="process")
    await rt.open()
    await (await rt.start(large, 100)).result(WAIT)
    making = asyncio.create_task(rt.backup(tmp_path / "copy.db"))
    while not left(tmp_path):
        await asyncio.sleep(0)
    await rt.close()
    with pytest.raises(BackupError, match="called off"):
        await making
    assert left(tmp_path) == []
    with pytest.raises((RuntimeClosedError, JournalError)):
        await rt.backup(tmp_path / "copy.db")
    async with Runtime(journal_path) as again:
        assert again.journal.clean


async def test_two_backups_at_once_are_both_good(journal_path: Path, tmp_path: Path) -> None:
    """To two files; to the same one the second is refused."""
    async with Runtime(journal_path, durability="process") as rt:
        await (await rt.start(large, 20)).result(WAIT)
        targets = [tmp_path / "a", tmp_path / "b", tmp_path / "a"]
        made = await asyncio.gather(
            *(rt.backup(target) for target in targets), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in made) == [
            "Backup", "Backup", "FileExistsError",
        ]  # fmt: skip
    assert left(tmp_path) == ["a", "b"]


@workflow(name="backup.self")
async def backing(path: str) -> int:
    return (await backup(path)).runs


async def test_body_makes_a_backup_as_a_recorded_step(journal_path: Path, tmp_path: Path) -> None:
    """Such as a nightly one, which sleeps in between."""
    async with opened(journal_path) as rt:
        run = await rt.start(backing, str(tmp_path / "copy.db"))
        assert await run.result(WAIT) == 1
        assert (tmp_path / "copy.db").exists()


def test_sync_runtime_backs_up(journal_path: Path, tmp_path: Path) -> None:
    """The blocking form."""
    with SyncRuntime(journal_path) as rt:
        rt.start(working, 1).result()
        made = rt.backup(tmp_path / "copy.db")
        assert isinstance(made, Backup)
        assert made.runs == 1


KILLED = """
import asyncio, os, sys
from durable import Runtime, step, workflow

@step
async def bulky() -> bytes:
    return os.urandom(200_000)

@workflow(name="large")
async def large() -> None:
    for _ in range(300):
        await bulky()

async def main() -> None:
    async with Runtime("app.db", durability="process") as rt:
        await (await rt.start(large))
        making = asyncio.create_task(rt.backup("copy.db"))
        while not any("part" in name for name in os.listdir(".")):
            await asyncio.sleep(0)
        print("copying", flush=True)
        await making
        print("made", flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
def test_kill_in_the_middle_leaves_a_draft_and_no_backup(tmp_path: Path) -> None:
    """What has the backup's name is always a good one."""
    with spawn(Program(tmp_path, KILLED)) as process:
        process.until("copying")
        process.kill()
    assert not (tmp_path / "copy.db").exists()
    with SyncRuntime(tmp_path / "app.db") as rt:
        assert rt.backup(tmp_path / "copy.db").runs == 1
