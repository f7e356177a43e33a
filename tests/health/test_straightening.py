"""Damage to what SQLite needs to open a file at all costs no run whose rows are there."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from durable import Runtime, verify
from durable._journal.care.repairing import needs_repair, repair_journal
from durable._journal.driver import InlineDriver
from durable._journal.files import JournalFiles
from durable._surface.cli import main
from durable.errors import JournalCorruptError, JournalError
from tests.engine.rig import crashing
from tests.health.rig import fill_open

PAGE = 4096
Damage = Callable[[bytes], bytes]


def cut(data: bytes, start: int, new: bytes) -> bytes:
    """Return `data` with other bytes at one place."""
    return data[:start] + new + data[start + len(new) :]


def flipped(data: bytes, word: bytes) -> bytes:
    """Return `data` with a bit flipped in the first character of `word`."""
    place = data.index(word)
    return cut(data, place, bytes([data[place] ^ 1]))


HARMLESS: dict[str, Damage] = {
    "header gone": lambda data: cut(data, 0, bytes(100)),
    "magic": lambda data: cut(data, 3, b"\0"),
    "version that may write": lambda data: cut(data, 18, b"\x82"),
    "page size": lambda data: cut(data, 16, b"\0\0"),
    "number of pages": lambda data: cut(data, 28, b"\x7f"),
    "schema format": lambda data: cut(data, 47, b"\x14"),
    "schema version": lambda data: cut(data, 60, bytes(4)),
    "vacuum": lambda data: cut(data, 64, bytes(4)),
    "application id": lambda data: cut(data, 68, b"\0"),
    "root of the schema": lambda data: cut(data, 100, b"\0"),
    "text of a table": lambda data: flipped(data, b"run     INTEGER NOT NULL"),
    "no text in a table": lambda data: cut(data, data.index(b"deployment_id"), b"\xd4"),
    "text of an index": lambda data: flipped(data, b"INDEX runs_by_status"),
    "name of a table": lambda data: flipped(data, b"TABLE chunks"),
    "a page of the schema": lambda data: cut(
        data, data.index(b"CREATE TABLE runs") // PAGE * PAGE, bytes(PAGE)
    ),
    "the last page, which holds the schema": lambda data: data[:-PAGE],
}


@pytest.mark.parametrize("damage", HARMLESS.values(), ids=HARMLESS)
def test_what_only_hinders_sqlite_costs_no_run(journal: Path, damage: Damage) -> None:
    """It is damage, and repaired, every run is kept as it was, and nothing is dropped."""
    with closing(sqlite3.connect(journal)) as conn:
        before = conn.execute("SELECT * FROM events").fetchall()
    journal.write_bytes(damage(journal.read_bytes()))
    assert needs_repair(JournalFiles(journal))
    repair = repair_journal(JournalFiles(journal), "now")
    assert dict(repair.counts()) == {"kept": 8}
    assert asyncio.run(verify(journal)).findings == []
    with closing(sqlite3.connect(journal)) as conn:
        assert conn.execute("SELECT * FROM events").fetchall() == before
    assert sorted(path.name for path in Path(str(repair.folder)).iterdir()) == [
        "before.db", "quarantine.jsonl", "report.txt",
    ]  # fmt: skip


async def test_error_of_a_journal_that_sqlite_only_reads_names_the_repair(journal: Path) -> None:
    """Nothing else tells it from a file that one may not write."""
    journal.write_bytes(HARMLESS["version that may write"](journal.read_bytes()))
    with pytest.raises(JournalError, match="durable repair"):
        await Runtime(journal).open()


@pytest.mark.parametrize("pages", [10, 17, 20, 23])
def test_journal_that_was_cut_off_keeps_what_is_left(journal: Path, pages: int) -> None:
    """Each run is kept, set aside or lost, and told; the rest is a sound journal."""
    journal.write_bytes(journal.read_bytes()[: pages * PAGE - 100])
    repair = repair_journal(JournalFiles(journal), "now")
    assert sum(repair.counts().values()) == 8
    assert asyncio.run(verify(journal)).findings == []


NOTHING_LEFT: dict[str, Damage] = {
    "another file": lambda _: b"The quick brown fox\n" * 500,
    "a header": lambda data: data[:50],
    "one page": lambda data: data[:PAGE],
}


@pytest.mark.parametrize("damage", NOTHING_LEFT.values(), ids=NOTHING_LEFT)
def test_journal_of_which_nothing_can_be_read_is_not_replaced_by_an_empty_one(
    journal: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error in one line; the file is as it was, and nothing new lies beside it."""
    journal.write_bytes(damage(journal.read_bytes()))
    before = journal.read_bytes()
    with pytest.raises(JournalCorruptError, match="nothing was changed"):
        repair_journal(JournalFiles(journal), "now")
    assert main(["repair", str(journal)]) == 1
    assert capsys.readouterr().err.startswith(f"durable: nothing of {journal} can be read (")
    assert journal.read_bytes() == before
    assert not list(journal.parent.glob("*.repaired-*"))


def test_rows_in_the_wal_are_saved_when_the_header_is_gone(journal_path: Path) -> None:
    """A crash has left a -wal that holds all pages, and the database has lost its first ones."""
    old = Path(f"{journal_path}.old")

    async def leave() -> None:
        async with crashing(journal_path, driver=InlineDriver) as rt:
            await fill_open(rt)
            for end in ("", "-wal"):
                Path(f"{old}{end}").write_bytes(Path(f"{journal_path}{end}").read_bytes())

    asyncio.run(leave())
    assert os.path.getsize(f"{old}-wal") > PAGE
    old.write_bytes(bytes(200) + old.read_bytes()[200:])
    repair = repair_journal(JournalFiles(old), "now")
    assert dict(repair.counts()) == {"kept": 8}
    assert asyncio.run(verify(old)).findings == []
