"""`durable.verify`: what is sound is called so, and what is not is named by its place."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from durable import Encryption, verify
from durable._journal.driver import InlineDriver
from durable._surface.cli_keys import rekey_file
from durable.errors import JournalCorruptError, JournalError
from tests.engine.rig import crashing, make, opened, quiet
from tests.health.rig import change, fill_open, flip


def findings(path: Path) -> list[str]:
    """What is wrong with a journal, as lines."""
    found = asyncio.run(verify(path)).findings
    return [f"{each.table} {each.run_id} {each.seq}: {each.what}" for each in found]


def test_sound_journal_has_no_findings(journal: Path) -> None:
    """And tells how much it holds."""
    found = asyncio.run(verify(journal))
    assert found.findings == []
    assert (found.runs, found.chunks) == (8, 3)
    assert found.events > 40


async def test_verify_works_beside_an_owner_and_after_its_death(journal_path: Path) -> None:
    """What the owner has recorded by now is what is looked at."""
    async with crashing(journal_path) as rt:
        await fill_open(rt)
        found = await verify(journal_path)
        assert (found.runs, found.findings) == (8, [])
        await rt.get_run("nap").cancel()
        await quiet(rt)
        assert (await verify(journal_path)).findings == []
    after = await verify(journal_path)
    assert after.findings == []
    assert after.events > found.events


async def test_verify_in_the_process_of_the_owner_leaves_its_locks_alone(
    journal_path: Path,
) -> None:
    """Who closes a file drops all locks of its process on it; then others delete the -wal."""
    beside = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version')"
    wal = journal_path.with_name(f"{journal_path.name}-wal")
    async with opened(journal_path) as rt:
        await fill_open(rt)
        before = wal.stat().st_ino
        assert (await verify(journal_path)).findings == []
        words = [sys.executable, "-c", beside, str(journal_path)]
        await asyncio.to_thread(subprocess.run, words, check=True)
        assert wal.stat().st_ino == before


async def test_run_that_is_just_being_deleted_is_no_finding(journal_path: Path) -> None:
    """Its remains belong to no run, and are in the trash."""
    async with opened(journal_path) as rt:
        await fill_open(rt)
        await rt.journal.delete_run(1)
        found = await verify(journal_path)
        assert (found.runs, found.findings) == (7, [])


async def test_forked_run_is_sound_and_can_be_taken_elsewhere(
    journal_path: Path, tmp_path: Path
) -> None:
    """Its history is set back to the very event that says so."""
    async with opened(journal_path) as rt:
        await fill_open(rt)
        fork = await rt.get_run("sum").fork(at=1, run_id="fork")
        await quiet(rt)
        assert (await verify(journal_path)).findings == []
        document = await fork.export()
        async with opened(tmp_path / "other.db") as other:
            there = await other.import_run(document)
            assert await there.result() == 20


@pytest.mark.parametrize("hide", [True, False])
async def test_sealed_journal_is_sound_without_its_key(
    journal_path: Path, tmp_path: Path, hide: bool
) -> None:
    """Also with another key since: the mark of its newest event is no alarm then."""
    pytest.importorskip("cryptography")
    key, other = bytes(range(32)), bytes(range(1, 33))
    async with make(journal_path, encryption=Encryption(key, hide=hide)) as rt:
        await fill_open(rt)
    assert (await verify(journal_path)).findings == []
    await rekey_file(
        str(journal_path), Encryption(lambda: [other, key], hide=hide).ring(), takes_plain=False
    )
    assert (await verify(journal_path)).findings == []
    async with make(journal_path, encryption=Encryption(other, hide=hide)) as rt:
        assert await rt.get_run("sum").result() == 20


# Statements that no index and no trigger stands in the way of, and what is said about each.
DAMAGE = {
    "UPDATE events SET payload = x'80054b072e' WHERE run = 1 AND seq = 4": (
        "events sum 4: event 4 does not match its checksum"
    ),
    "UPDATE events SET name = 'x' WHERE run = 1 AND seq = 3": (
        "events sum 3: event 3 does not match its checksum"
    ),
    "DELETE FROM events WHERE run = 1 AND seq = 4": "events sum 4: event 4 is missing",
    "DELETE FROM events WHERE run = 1 AND seq IN (1, 2)": "events sum 1: event 1 to 2 is missing",
    "DELETE FROM events WHERE run = 1": "events sum None: the history is missing",
    "UPDATE events SET run = 99 WHERE run = 1 AND seq = 13": (
        "events None 13: 1 event from number 13 on of no run"
    ),
    "DELETE FROM events WHERE run = 1 AND seq = 13": (
        "events sum None: its run is completed, and its history ends with step_completed"
    ),
    "UPDATE runs SET status = 'failed' WHERE pk = 1": (
        "runs sum None: the row is damaged: its state do not match the checksum"
    ),
    "UPDATE runs SET wake_at = 7 WHERE pk = 1": (
        "runs sum None: the row is damaged: its state do not match the checksum"
    ),
    "UPDATE runs SET deadline = deadline + 1 WHERE run_id = 'nap'": (
        "runs nap None: the row is damaged: what was said at its creation do not match the checksum"
    ),
    "UPDATE runs SET workflow = 'health.sun' WHERE pk = 1": (
        "runs sum None: the row is damaged: what was said at its creation do not match the checksum"
    ),
    """UPDATE runs SET attributes = '{"customer": "7"}' WHERE pk = 1""": (
        "runs sum None: the row is damaged: its attributes do not match the checksum"
    ),
    "DELETE FROM runs WHERE pk = 1": "events None 1: 13 events from number 1 on of no run",
    "UPDATE chunks SET payload = x'80054b072e' WHERE run = 2 AND idx = 1": (
        "chunks talk 1: chunk 1 of stream 'log' does not match its checksum"
    ),
    "DELETE FROM chunks WHERE run = 2 AND idx = 0": (
        "chunks talk 0: chunk 0 of stream 'log' is missing: the next one is 1"
    ),
    "UPDATE hooks SET run = 1": "hooks sum 3: a row does not match its checksum",
    "UPDATE meta SET value = 0 WHERE key = 'clean'": (
        "meta None None: row clean does not match its checksum"
    ),
    "DELETE FROM meta WHERE key = 'journal_id'": "meta None None: row journal_id is missing",
    "DELETE FROM attributes WHERE run = 1": (
        "attributes sum None: attribute 'customer' is not indexed"
    ),
    "INSERT INTO attributes VALUES ('a', 'b', 0, 1)": (
        "attributes sum None: attribute 'a' is indexed, and the run has it not"
    ),
    "INSERT INTO trash VALUES (1)": "trash sum None: it is a run, and in the trash as well",
    "INSERT INTO requests VALUES (1, 'wake', 3, NULL, 0)": (
        "requests sum None: a request to wake does not match its checksum"
    ),
}


@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_is_named_by_its_place(journal: Path, statement: str) -> None:
    """Table, run and number; for every table."""
    change(journal, statement)
    found = findings(journal)
    assert DAMAGE[statement] in found
    assert len({line.split(": ")[0].split()[1] for line in found} - {"None"}) <= 1


def test_changed_schema_is_a_finding(journal: Path) -> None:
    """What is missing or changed, and what hangs on our tables; not what is the user's own."""
    change(journal, "DROP INDEX runs_blocked", "CREATE INDEX mine ON runs (deadline)")
    change(journal, "CREATE TABLE theirs (x)", "CREATE INDEX of_theirs ON theirs (x)", "ANALYZE")
    found = findings(journal)
    assert "file None None: the schema lacks runs_blocked, or has it changed" in found
    assert "file None None: the schema holds mine, which is not ours" in found
    assert len(found) == 2


def test_damaged_page_hides_nothing_but_itself(journal: Path) -> None:
    """The structure is reported, and what can be read elsewhere is read."""
    content = bytearray(journal.read_bytes())
    place = content.index(b"health.sum") // 4096 * 4096
    content[place : place + 8] = b"\xff" * 8
    journal.write_bytes(content)
    found = asyncio.run(verify(journal))
    assert any(each.table == "file" for each in found.findings)
    assert found.chunks == 3


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    """A missing file, a file of something else, a head that is damaged."""
    with pytest.raises(JournalError, match="there is no journal"):
        findings(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("no database at all" * 100)
    with pytest.raises(JournalCorruptError, match="is not a journal"):
        findings(tmp_path / "text.db")


def test_text_that_is_no_utf8_is_damage_of_its_row_alone(journal: Path) -> None:
    """The other rows are read all the same."""
    place = journal.read_bytes().index(b"health.talk")
    flip(journal, place * 8 + 7)
    found = asyncio.run(verify(journal))
    assert {each.run_id for each in found.findings} - {None} == {"talk"}
    assert found.runs == 8


async def test_verify_changes_no_byte_of_the_journal(journal_path: Path) -> None:
    """Not even of one whose owner died, with all that matters in the -wal."""
    async with crashing(journal_path, driver=InlineDriver) as rt:
        await fill_open(rt)
        before = [Path(f"{journal_path}{end}").read_bytes() for end in ("", "-wal")]
        assert len(before[1]) > 0
        await verify(journal_path)
        assert [Path(f"{journal_path}{end}").read_bytes() for end in ("", "-wal")] == before
    assert (await verify(journal_path)).runs == 8
