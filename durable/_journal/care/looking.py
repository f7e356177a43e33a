"""Opening a journal to look at it, whatever state it and its directory are in.

Owns the connection of those who examine: it reads, beside an owner or without one, and can
change nothing. Where SQLite cannot read the file where it lies (a read-only directory has
no room for the -shm), the journal is read as a file that nobody changes, or from a private
copy if a -wal belongs to it.

Texts that are no UTF-8 are returned as such that match no checksum, so that one damaged
text hides nothing else. It does not judge what it reads, not even the schema.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TypeVar
from urllib.parse import quote

from durable._journal.database import apply_reader_settings
from durable._journal.driver import connect
from durable._journal.faults import primary_code
from durable._journal.files import JournalFiles
from durable._journal.swapping import refuse_unfinished
from durable.errors import JournalError

T = TypeVar("T")

# What SQLite says where it may not, or cannot, make or write the -shm.
_NO_ROOM = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR})


@contextmanager
def looking_at(files: JournalFiles) -> Iterator[sqlite3.Connection]:
    """Yield a connection that reads a journal; all its queries see the same moment.

    Raises:
        JournalError: there is no such file, or it is just being exchanged.
        sqlite3.Error: it cannot be read at all.
    """
    refuse_unfinished(files)
    if not os.path.exists(files.path):
        raise JournalError(f"there is no journal at {files.path}: check the path")
    try:
        conn = _opened(files.uri("ro"))
    except sqlite3.Error as error:
        if primary_code(error) not in _NO_ROOM:
            raise
        with _looking_from_afar(files) as conn:
            yield conn
        return
    with closing(conn):
        yield conn


@contextmanager
def _looking_from_afar(files: JournalFiles) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory(prefix="durable-") as folder:  # of mode 0700
        place = files.path
        if os.path.exists(files.wal) and os.path.getsize(files.wal):
            place = os.path.join(folder, "journal")
            shutil.copyfile(files.path, place)
            shutil.copyfile(files.wal, f"{place}-wal")
            uri = f"file:{quote(os.fsencode(place))}?mode=rw"
        else:
            uri = f"file:{quote(os.fsencode(place))}?mode=ro&immutable=1"
        with closing(_opened(uri)) as conn:
            yield conn


def _opened(uri: str) -> sqlite3.Connection:
    conn = connect(uri)
    try:
        conn.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        apply_reader_settings(conn)
        conn.execute("BEGIN")
        conn.execute("PRAGMA user_version").fetchone()  # so that the moment is this one
    except BaseException:
        conn.close()
        raise
    return conn


def forget_looking(path: str) -> None:
    """Delete what SQLite makes beside a database that is only read."""
    with suppress(FileNotFoundError):
        os.unlink(f"{path}-shm")
    with suppress(FileNotFoundError):
        if not os.path.getsize(f"{path}-wal"):
            os.unlink(f"{path}-wal")


def attempt(fn: Callable[[], T], told: Callable[[str], None]) -> T | None:
    """Return `fn()`; if the file's damage prevents it, tell how, and return None."""
    try:
        return fn()
    except sqlite3.DatabaseError as error:
        told(str(error))
        return None
