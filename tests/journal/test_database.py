"""Opening: settings, permissions, versions, migrations, unclean ends, foreign files."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest

from durable._base.clock import SystemClock
from durable._journal import database, migrations
from durable._journal.driver import connect
from durable._journal.files import JournalFiles
from durable._journal.journal import Journal
from durable._journal.migrations import MIGRATIONS, Migration
from durable._journal.records import RunRow
from durable._journal.sql import QUERIES, parse, statements
from durable.errors import JournalCorruptError, JournalError, JournalVersionError
from tests.journal.rig import event, new_run, open_journal, outside, write

LATEST = MIGRATIONS[-1].version


def mode(path):
    return os.stat(path).st_mode & 0o777


async def test_settings_are_those_of_a_safe_journal(journal_path):
    """Each pragma that a promise rests on, as the open connection reports it."""
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "auto_vacuum": 2,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "mmap_size": 0,
        "fullfsync": 1,
        "checkpoint_fullfsync": 1,
        "busy_timeout": 5000,
        "application_id": migrations.APPLICATION_ID,
        "user_version": LATEST,
    }
    async with open_journal(journal_path) as journal:
        for name, value in wanted.items():
            found = await journal.writer.run(
                lambda c, name=name: c.execute(f"PRAGMA {name}").fetchone()
            )
            assert (name, found) == (name, (value,))
        tables = dict(outside(journal_path, "SELECT name, strict FROM pragma_table_list"))
        assert {"runs", "events", "trash", "meta"} <= tables.keys()
        assert {name for name in tables if not name.startswith("sqlite_")} == {
            name for name, strict in tables.items() if strict
        }


def test_setting_that_is_not_accepted_refuses_the_journal(journal_path):
    """On an in-memory database WAL cannot be had, and this is said."""
    connection = sqlite3.connect(":memory:")
    with pytest.raises(JournalError, match="journal_mode = wal"):
        database.apply_settings(connection, "full")
    connection.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
async def test_all_files_are_private_whatever_the_umask(journal_path, umask):
    """0600 for the journal, -wal, -shm and the reserve."""
    before = os.umask(umask)
    try:
        async with open_journal(journal_path) as journal:
            await journal.perform(new_run(journal, "a")[1])
            found = {path.name: mode(path) for path in journal_path.parent.iterdir()}
    finally:
        os.umask(before)
    names = {journal_path.name + suffix for suffix in ("", "-wal", "-shm", ".reserve", ".mark")}
    assert found == dict.fromkeys(names, 0o600)


async def test_existing_journal_that_others_could_read_is_made_private(journal_path):
    """A file restored from a backup with loose permissions is tightened."""
    async with open_journal(journal_path):
        pass
    journal_path.chmod(0o644)
    async with open_journal(journal_path):
        assert mode(journal_path) == 0o600


async def test_closing_leaves_one_file_with_everything(journal_path):
    """No -wal after a proper end; the next opening knows that it was proper."""
    async with open_journal(journal_path) as journal:
        await journal.perform(new_run(journal, "a")[1])
        first_id = journal.journal_id
        assert journal.clean
        assert journal.boot_number == 1
    assert {path.name for path in journal_path.parent.iterdir()} == {
        "app.db", "app.db.mark", "app.db.reserve",
    }  # fmt: skip
    async with open_journal(journal_path) as journal:
        assert (journal.clean, journal.boot_number) == (True, 2)
        assert journal.journal_id == first_id
        assert len(first_id) == 32
        assert (await journal.reader.run_by_id("a")).run_id == "a"


async def test_unclean_end_is_known_at_the_next_opening(journal_path):
    """Also when the owner says so itself."""
    journal = await Journal.open(journal_path, clock=SystemClock())
    await journal.close(clean=False)
    async with open_journal(journal_path) as again:
        assert not again.clean


@pytest.mark.parametrize(("clean", "size"), [(False, 1), (False, 20_000), (True, 1)])
async def test_damage_is_found_at_opening(journal_path, clean, size):
    """A small file is always checked before anything of it is used, a large one if need be."""
    await damaged(journal_path, clean, size)
    with pytest.raises(JournalCorruptError, match="damaged"):
        await Journal.open(journal_path, clock=SystemClock())


async def test_large_file_is_not_read_at_opening_after_a_proper_end(journal_path):
    """Opening takes as long as it takes to look at what is due."""
    await damaged(journal_path, True, 20_000)
    await (await Journal.open(journal_path, clock=SystemClock())).close()


async def damaged(journal_path, clean, size):
    """Make a journal of which one page is damaged."""
    journal = await Journal.open(journal_path, clock=SystemClock())
    pk, first = new_run(journal, "a", events=1)
    await journal.perform(first)
    more = [event(pk, "a", seq, bytes(size)) for seq in range(2, 500)]
    await journal.perform(write(events=more))
    await journal.close(clean=clean)
    content = bytearray(journal_path.read_bytes())
    content[-4096:-4000] = b"\xff" * 96  # the head of a page full of events
    journal_path.write_bytes(content)


async def test_newer_journal_is_refused_untouched(journal_path):
    """A file of a later release keeps every byte."""
    async with open_journal(journal_path):
        pass
    connection = sqlite3.connect(journal_path)
    connection.execute(f"PRAGMA user_version = {LATEST + 1}")
    connection.close()
    before = journal_path.read_bytes()
    with pytest.raises(JournalVersionError, match="install the newer durable"):
        await Journal.open(journal_path, clock=SystemClock())
    with pytest.raises(JournalVersionError):
        await Journal.open(journal_path, clock=SystemClock(), owner=False)
    assert journal_path.read_bytes() == before


async def test_database_of_another_program_is_refused_untouched(journal_path):
    """A user's own tables are not ours to migrate."""
    connection = sqlite3.connect(journal_path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = journal_path.read_bytes()
    with pytest.raises(JournalError, match="another program"):
        await Journal.open(journal_path, clock=SystemClock())
    assert journal_path.read_bytes() == before


async def test_file_that_is_no_database_is_refused(journal_path):
    """The message names the file."""
    journal_path.write_text("these are notes, not a database" * 100)
    with pytest.raises(JournalCorruptError, match=r"app\.db"):
        await Journal.open(journal_path, clock=SystemClock())


async def test_missing_directory_is_named_with_a_cure(tmp_path):
    """Path, user, cause and cure."""
    with pytest.raises(
        JournalError, match=r"missing/app\.db.*user \d+.*No such file.*another path"
    ):
        await Journal.open(tmp_path / "missing" / "app.db", clock=SystemClock())
    with pytest.raises(JournalError, match="directory"):
        await Journal.open(tmp_path, clock=SystemClock())


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?.db", "hash#.db", "\u00e9.db"])
async def test_odd_file_names_work(tmp_path, name):
    """A path is a path, not a URI to be misread."""
    async with open_journal(tmp_path / name) as journal:
        await journal.perform(new_run(journal, "a")[1])
        assert await journal.reader.max_pk() == 1
    assert (tmp_path / name).exists()


async def test_uri_keeps_its_query(journal_path):
    """`file:` URIs are accepted, for VFS shims."""
    async with open_journal(f"file:{journal_path}?vfs=unix") as journal:
        assert journal.path == str(journal_path)
    with pytest.raises(JournalError, match="no such vfs"):
        await Journal.open(f"file:{journal_path}?vfs=none", clock=SystemClock())


def written() -> int:
    """Return how many bytes this process has written so far."""
    with open("/proc/self/io", encoding="ascii") as counters:
        return int(next(line for line in counters if line.startswith("wchar")).split()[1])


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="needs Linux")
def test_the_wal_is_written_again_byte_by_byte(tmp_path):
    """Every byte once, none changed: also of a file longer than one piece."""
    files = JournalFiles(str(tmp_path / "app.db"))
    content = os.urandom((1 << 20) + 4097)
    (tmp_path / "app.db-wal").write_bytes(content)
    before = written()
    files.rewrite_wal()
    assert len(content) <= written() - before <= len(content) + 1000
    assert (tmp_path / "app.db-wal").read_bytes() == content


# --- migrations ---------------------------------------------------------------------


NEXT = Migration(LATEST + 1, "ALTER TABLE runs ADD COLUMN mood TEXT;\nUPDATE runs SET mood = 'ok';")


def prepare(path, steps):
    """Open a journal at the level of its connection, with these migrations."""
    files = JournalFiles(path)
    files.create()
    connection = connect(files.uri("rw"))
    try:
        return database.prepare(connection, files, "full", 1, steps)
    finally:
        connection.close()


async def test_migration_keeps_a_copy_of_the_old_journal(journal_path):
    """The copy is private, complete, and of the old version."""
    async with open_journal(journal_path) as journal:
        await journal.perform(new_run(journal, "a")[1])
    prepare(journal_path, (*MIGRATIONS, NEXT))
    assert outside(journal_path, "SELECT run_id, mood FROM runs") == [("a", "ok")]
    copy = f"{journal_path}.bak-v{LATEST}"
    assert mode(copy) == 0o600
    assert outside(copy, "SELECT run_id FROM runs") == [("a",)]
    assert outside(copy, "PRAGMA user_version") == [(LATEST,)]
    with pytest.raises(JournalVersionError):
        await Journal.open(journal_path, clock=SystemClock())
    async with open_journal(copy) as journal:
        assert await journal.reader.max_pk() == 1


async def test_failing_migration_changes_nothing(journal_path):
    """Its first statement is undone with the second; the journal opens as before."""
    async with open_journal(journal_path) as journal:
        await journal.perform(new_run(journal, "a")[1])
    broken = Migration(LATEST + 1, NEXT.script + "\nINSERT INTO nowhere VALUES (1);")
    with pytest.raises(JournalError, match="Nothing was changed"):
        prepare(journal_path, (*MIGRATIONS, broken))
    async with open_journal(journal_path) as journal:
        assert await journal.reader.max_pk() == 1
    assert outside(journal_path, "PRAGMA user_version") == [(LATEST,)]


KILLED = """
import os, sqlite3, sys
from durable._journal import database
from durable._journal.driver import connect
from durable._journal.files import JournalFiles
from durable._journal.migrations import MIGRATIONS, Migration
files = JournalFiles(sys.argv[1])
conn = connect(files.uri("rw"))
left = int(sys.argv[2])
def count(statement):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
conn.set_trace_callback(count)
step = Migration(MIGRATIONS[-1].version + 1, sys.argv[3])
database.prepare(conn, files, "full", 1, (*MIGRATIONS, step))
print("done")
"""


async def test_migration_killed_at_any_statement_can_be_repeated(journal_path, tmp_path):
    """SIGKILL at statement n, n = 1.. until it gets through: old or new, never between."""
    async with open_journal(journal_path) as journal:
        await journal.perform(new_run(journal, "a")[1])
    number, through = 0, False
    while not through:
        number += 11
        copy = tmp_path / f"copy{number}.db"
        shutil.copy(journal_path, copy)
        ended = subprocess.run(  # noqa: ASYNC221  # nothing else runs on this loop
            [sys.executable, "-c", KILLED, str(copy), str(number), NEXT.script],
            capture_output=True,
            check=False,
        )
        through = ended.stdout == b"done\n"
        prepare(copy, (*MIGRATIONS, NEXT))
        assert outside(copy, "SELECT run_id, mood FROM runs") == [("a", "ok")]
    assert number > 40


# --- SQL files ----------------------------------------------------------------------


def test_every_query_is_valid_for_the_schema():
    """A typing error in queries.sql is found here, not in production."""
    connection = sqlite3.connect(":memory:")
    for step in MIGRATIONS:
        for statement in statements(step.script):
            connection.execute(statement)
    for name, query in QUERIES.items():
        named = {"before": 1, "workflow": None, "status": None, "limit": 1, "run": 1, "count": 1}
        # Never ?1: with a sequence of values, Python 3.14 refuses it.
        parameters = named if ":" in query else (None,) * query.count("?")
        assert not re.search(r"\?\d", query), name
        assert connection.execute(f"EXPLAIN {query}", parameters).fetchall(), name
    columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
    sums = ("crc", "state_sum", "attributes_crc")
    assert tuple(columns) == (*RunRow._fields, *sums), "selection.sql reads all as they lie"
    connection.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("due_runs", "runs_by_wake"),
        ("interrupted_runs", "runs_by_wake"),
        ("next_wake", "runs_by_wake"),
        ("next_expiry", "runs_by_expiry"),
        ("expired_runs", "runs_by_expiry"),
        ("blocked_runs", "runs_blocked"),
    ],
)
def test_queries_of_the_engine_use_their_index(query, index):
    """Opening a journal reads what is due, not what exists."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(MIGRATIONS[0].script)
    parameters = (1,) * QUERIES[query].count("?")
    plan = connection.execute(f"EXPLAIN QUERY PLAN {QUERIES[query]}", parameters).fetchall()
    connection.close()
    assert any(index in row[3] for row in plan), plan
    assert not any("TEMP B-TREE" in row[3] for row in plan), plan


def test_script_that_ends_inside_a_statement_is_refused():
    """A missing semicolon would otherwise drop the last statement."""
    assert parse("-- x\n-- name: a\n-- why\nSELECT\n  1;\n-- name: b\nSELECT 2;") == {
        "a": "SELECT 1;",
        "b": "SELECT 2;",
    }
    with pytest.raises(ValueError, match="ends inside"):
        statements("CREATE TABLE a (x);\nCREATE TABLE b (")
