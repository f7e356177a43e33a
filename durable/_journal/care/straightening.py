"""Reading a journal whose header, schema or length is damaged: in a copy that is put right.

SQLite refuses a whole file for one wrong bit in its header or in the text of its schema, and
for one missing page at its end, though all rows are there. What it refuses for is known: the
header of a journal, and the schema that `migrations` make. So these are written anew into a
private copy, and the rows are read from there. Where a table begins is taken from the damaged
schema as far as that can be read, else from a new journal, which is laid out in the same way.

Nothing is judged here: a table that was taken to begin in a wrong place has rows whose
checksums are wrong. The journal itself is not touched.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import NamedTuple

from durable._journal.care.looking import looking_at
from durable._journal.files import JournalFiles
from durable._journal.migrations import (
    APPLICATION_ID,
    LATEST,
    MIGRATIONS,
    migrate,
    schema_differs,
)

_MAGIC = b"SQLite format 3\0"
_PAGE_BYTES = 4096  # SQLite's default, where the header does not tell
_HEAD = struct.Struct(">16sHBBBBBB12I20sII")
_EMPTY_LEAF = struct.Struct(">BHHHB")
_LEAST_PAGES = 64  # SQLite refuses a schema whose tables begin behind the end
_ROLLBACK, _WAL = 1, 2
_WRITE_VERSION = 18  # where a header has it
_OBJECTS = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema ORDER BY rowid"


class _Object(NamedTuple):
    type: str
    name: str
    table: str
    root: int
    sql: str | None


def readable(
    files: JournalFiles, folder: str | None = None
) -> AbstractContextManager[sqlite3.Connection]:
    """Return a connection to a journal as it lies, if SQLite opens that as ours; else to a copy.

    Args:
        files: the journal's; nothing writes to it meanwhile.
        folder: where the copy lies meanwhile; default that for temporary files.

    Raises:
        sqlite3.Error: it cannot be read even so.
        OSError: there is no room for the copy.
    """
    # SQLite may quote what is no text in saying what is wrong with the schema.
    with suppress(sqlite3.DatabaseError, UnicodeDecodeError), looking_at(files) as conn:
        lacking, _ = schema_differs(conn)
        if not lacking:
            return looking_at(files)
    return _straightened(files, folder)


def is_read_only(files: JournalFiles) -> bool:
    """Tell whether the header lets SQLite read a journal and not write it, which it never says.

    Not to be called where a connection to it is open: who closes a file drops the locks that
    its process has on it.
    """
    with open(files.path, "rb") as file:
        head = file.read(_WRITE_VERSION + 1)
    return head[_WRITE_VERSION] > _WAL


@contextmanager
def _straightened(files: JournalFiles, folder: str | None) -> Iterator[sqlite3.Connection]:
    """Yield a connection that reads a copy of a journal, with our header and our schema."""
    with tempfile.TemporaryDirectory(prefix="durable-", dir=folder) as place:  # of mode 0700
        copy = JournalFiles(os.path.join(place, "journal"))
        shutil.copyfile(files.path, copy.path)
        page_bytes = _page_bytes(copy.path)
        if os.path.exists(files.wal) and os.path.getsize(files.wal):
            shutil.copyfile(files.wal, copy.wal)
            _put_right(copy.path, page_bytes, _WAL)
            with closing(_opened(copy)) as conn:
                conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                conn.execute("PRAGMA journal_mode = DELETE").fetchall()
        _put_right(copy.path, page_bytes, _ROLLBACK)
        roots = _roots(copy)
        _put_right(copy.path, page_bytes, _ROLLBACK, is_schema_empty=True)
        with closing(_opened(copy)) as conn:
            rows = [each._replace(root=roots.get(each.name, each.root)) for each in _objects()]
            conn.executemany("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", rows)
        with looking_at(copy) as conn:
            yield conn


def _opened(copy: JournalFiles) -> sqlite3.Connection:
    conn = sqlite3.connect(copy.path, isolation_level=None)
    conn.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    for setting in ("writable_schema = ON", "synchronous = OFF"):
        conn.execute(f"PRAGMA {setting}")
    return conn


def _page_bytes(path: str) -> int:
    with open(path, "rb") as file:
        head = file.read(18).ljust(18, b"\0")
    (size,) = struct.unpack(">H", head[16:])
    size = 65536 if size == 1 else size
    is_told = head[:16] == _MAGIC and size >= 512 and size & (size - 1) == 0
    return size if is_told else _PAGE_BYTES


def _put_right(path: str, page_bytes: int, mode: int, *, is_schema_empty: bool = False) -> None:
    """Write a header as SQLite would for this file, which is made long enough for our schema."""
    pages = max(_LEAST_PAGES, -(-os.path.getsize(path) // page_bytes))
    size = 1 if page_bytes == 65536 else page_bytes
    changes, cookie, layout, utf8 = 1, 1, 4, 1
    # No free pages and no pointer map: the copy is read, and a few pages are added to its end.
    head = _HEAD.pack(
        _MAGIC, size, mode, mode, 0, 64, 32, 32, changes, pages, 0, 0, cookie, layout, 0, 0, utf8,
        LATEST, 0, APPLICATION_ID, b"", changes, sqlite3.sqlite_version_info[0] * 1_000_000,
    )  # fmt: skip
    with open(path, "r+b") as file:
        file.write(head)
        if is_schema_empty:
            file.write(_EMPTY_LEAF.pack(0x0D, 0, 0, page_bytes % 65536, 0))
        file.truncate(pages * page_bytes)


def _roots(copy: JournalFiles) -> dict[str, int]:
    """Return where what can be read of the schema says that its tables and indexes begin."""
    found: dict[str, int] = {}
    with closing(_opened(copy)) as conn, suppress(sqlite3.DatabaseError, UnicodeError):
        for each in map(_Object._make, conn.execute(_OBJECTS)):
            if isinstance(each.root, int) and each.root >= 0:
                found[each.name] = each.root
    return found


def _objects() -> list[_Object]:
    """Return our schema as SQLite stores it in a new journal."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
        migrate(conn, ":memory:", 0, MIGRATIONS)
        return [_Object._make(row) for row in conn.execute(_OBJECTS)]
