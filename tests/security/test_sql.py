"""What reaches SQLite: statements made of constants, and files made by somebody else."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from durable import Runtime, workflow
from durable._base.clock import SystemClock
from durable._journal import selection
from durable._journal.journal import Journal
from durable._journal.selection import PIECES, STATUSES, Selection
from durable._journal.sql import QUERIES
from durable.errors import JournalCorruptError
from tests.security.rig import rows, shopped

HOSTILE = [
    "'", '"', "';--", "x' OR '1'='1", "x'); DROP TABLE runs; --", "%", "_", "\\", "*",
    "x' UNION SELECT key, value FROM meta --", "{}", "?", ":run", "é", "1/*",
]  # fmt: skip


@workflow
async def _quick() -> None:
    """Ends at once."""


@pytest.fixture
async def journal(journal_path: Path) -> AsyncIterator[Journal]:
    """A journal with a run, opened for reading."""
    async with Runtime(journal_path) as runtime:
        await shopped(runtime, "one")
    journal = await Journal.open(journal_path, clock=SystemClock(), owner=False)
    yield journal
    await journal.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_listing_is_made_of_the_same_pieces_whatever_is_asked(text: str) -> None:
    """The text of each statement consists of named pieces; values are parameters."""
    asked: list[tuple[str, tuple[object, ...]]] = []

    class Listening(sqlite3.Connection):
        def execute(self, sql: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:  # type: ignore[override]
            asked.append((sql, tuple(parameters)))
            return super().execute(sql, parameters)

    conn = sqlite3.connect(":memory:", factory=Listening, isolation_level=None)
    conn.executescript(_schema())
    chosen = Selection(
        workflow=text, statuses=STATUSES, attributes=((text, text),), created_from=1,
        created_until=5, parent_id=text, root_id=text,
    )  # fmt: skip
    for each in (chosen, Selection(workflow=text), Selection(root_id=text), Selection()):
        for order in ("newest", "oldest"):
            selection.read_rows(each, order, None, 5, 5, conn)
        selection.read_count(each, None, 5, conn)
    conn.close()
    pieces = sorted(PIECES.values(), key=len, reverse=True)
    assert any(text in values for _, values in asked)
    for sql, _ in asked:
        rest = sql
        for piece in pieces:
            rest = rest.replace(piece, "")
        assert rest.strip() in {"", "BEGIN", "ROLLBACK"}


def _schema() -> str:
    from durable._journal.sql import read

    return read("schema.sql")


async def test_hostile_texts_are_texts_in_every_filter(journal_path: Path) -> None:
    """They match the run that has them, and no other."""
    async with Runtime(journal_path) as runtime:
        for text in HOSTILE:
            pairs = {text: text}
            await runtime.start(_quick.options(run_id=f"run {text}", attributes=pairs))
        for text in HOSTILE:
            found = await runtime.list_runs(attributes={text: text})
            assert [info.run_id for info in found] == [f"run {text}"]
            assert await runtime.count_runs(workflow=text) == 0
            assert await runtime.count_runs(parent=text) == 0
            assert await runtime.get_run(f"run {text}").result(20) is None


async def test_readers_can_neither_write_nor_attach_nor_load_code(journal: Journal) -> None:
    """Not even with statements of their own, and whatever they set first."""

    def ask(sql: str) -> Callable[[sqlite3.Connection], str]:
        def tried(conn: sqlite3.Connection) -> str:
            try:
                conn.execute("PRAGMA query_only = 0")
                conn.execute(sql)
            except sqlite3.Error as error:
                return str(error)
            finally:
                conn.execute("PRAGMA query_only = 1")
            return "done"

        return tried

    for sql, error in {
        "DELETE FROM runs": "readonly",
        "CREATE TABLE x (y)": "readonly",
        "PRAGMA user_version = 7": "readonly",
        "PRAGMA application_id = 7": "readonly",
        "ATTACH ':memory:' AS other": "too many attached",
        "SELECT load_extension('x')": "not authorized",
    }.items():
        assert error in await journal.reader.ask(ask(sql))
    settings = ("trusted_schema", 0), ("cell_size_check", 1), ("mmap_size", 0), ("query_only", 1)
    for name, wanted in settings:

        def look(conn: sqlite3.Connection, name: str = name) -> object:
            return conn.execute(f"PRAGMA {name}").fetchone()[0]

        assert await journal.reader.ask(look) == wanted


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER spy AFTER INSERT ON events BEGIN DELETE FROM runs; END",
        "CREATE TRIGGER spy AFTER INSERT ON hooks BEGIN DELETE FROM hooks; END",
        (
            "DROP TRIGGER attributes_changed|CREATE TRIGGER attributes_changed "
            "AFTER UPDATE ON runs BEGIN DELETE FROM events; END"
        ),
        "ALTER TABLE runs RENAME TO kept|CREATE VIEW runs AS SELECT * FROM kept",
        "ALTER TABLE events ADD COLUMN more TEXT DEFAULT 'x'",
        "DROP INDEX runs_by_wake",
    ],
)
async def test_a_file_with_another_schema_is_refused_at_opening(
    journal_path: Path, change: str
) -> None:
    """Triggers and views on our tables, and tables that are not what they were."""
    async with Runtime(journal_path) as runtime:
        await shopped(runtime, "one")
    for statement in change.split("|"):
        rows(journal_path, statement)
    for owner in (True, False):
        with pytest.raises(JournalCorruptError, match="is not as it was made"):
            await Journal.open(journal_path, clock=SystemClock(), owner=owner)


async def test_tables_of_the_users_own_are_welcome(journal_path: Path) -> None:
    """With views and triggers on them."""
    async with Runtime(journal_path) as runtime:
        await shopped(runtime, "one")
    rows(journal_path, "CREATE TABLE mine (x)")
    rows(journal_path, "CREATE VIEW of_mine AS SELECT * FROM mine")
    rows(journal_path, "CREATE TRIGGER in_mine AFTER INSERT ON mine BEGIN DELETE FROM mine; END")
    rows(journal_path, "ANALYZE")
    async with Runtime(journal_path) as runtime:
        assert await runtime.count_runs() == 1


def test_the_queries_hold_parameters_only() -> None:
    """No statement has a place where something could be pasted in."""
    for name, sql in [*QUERIES.items(), *PIECES.items()]:
        assert "{" not in sql, name
        assert "%" not in sql, name
