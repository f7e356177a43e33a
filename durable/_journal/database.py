"""Opening and re-opening the journal's one writing connection.

Owns the order of opening (version gate before anything is changed, settings, check
after an unclean end, migrations, boot record) and what a connection must be set to.
Every setting is read back: a journal that silently lacks one is not opened. All
functions here run on the driver's thread, on the connection that they are given.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from durable._journal.faults import UnknownOutcomeError
from durable._journal.files import JournalFiles
from durable._journal.high_water import NEWEST, Loss, check_mark, forget_mark, set_aside
from durable._journal.migrations import (
    LATEST,
    MIGRATIONS,
    Migration,
    check_integrity,
    check_schema,
    migrate,
    version_of,
)
from durable._journal.row_checksums import meta_sum, sound_meta
from durable._journal.sql import QUERIES
from durable.errors import JournalCorruptError, JournalError, JournalVersionError

T = TypeVar("T")
_log = logging.getLogger("durable")

BUSY_MS = 5000
WAL_PAGES = 1000
_WAL_BYTES_KEPT = 16 << 20
_FULL_CHECK_BYTES = 8 << 20  # of a file that is looked at whole at each opening
AUTO_VACUUM_INCREMENTAL = 2
SYNCHRONOUS = {"full": 2, "process": 1}  # FULL, NORMAL

_SET_META, _ALL_META = QUERIES["set_meta"], QUERIES["all_meta"]
_DELETE_META = QUERIES["delete_meta"]
_SET_META_ONCE, _MAX_PK = QUERIES["set_meta_once"], QUERIES["max_pk"]
_MAX_EVENT_PK = QUERIES["max_event_pk"]

_SAFE: tuple[tuple[str, int | str], ...] = (
    ("busy_timeout", BUSY_MS),
    ("trusted_schema", 0),
    ("cell_size_check", 1),
    ("mmap_size", 0),
    ("temp_store", 2),
)


@dataclass(frozen=True, slots=True)
class Boot:
    """What was found in the journal when it was opened."""

    journal_id: str
    clean: bool
    number: int
    suspect: tuple[int, int] | None
    max_pk: int


def transact(conn: sqlite3.Connection, body: Callable[[], T]) -> T:
    """Run `body` between BEGIN IMMEDIATE and COMMIT, rolling back when it raises.

    Raises:
        UnknownOutcomeError: COMMIT itself raised.
    """
    conn.execute("BEGIN IMMEDIATE")
    try:
        result = body()
    except BaseException:
        _roll_back(conn)
        raise
    try:
        conn.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(conn)
        raise UnknownOutcomeError(str(error)) from error
    return result


def _roll_back(conn: sqlite3.Connection) -> None:
    # SQLite rolls back by itself on some errors; a second ROLLBACK would only raise.
    with suppress(sqlite3.Error):
        conn.execute("ROLLBACK")


@contextmanager
def snapshot(conn: sqlite3.Connection) -> Iterator[None]:
    """Let several queries see the same state of the journal; one inside another is the outer."""
    if conn.in_transaction:
        yield
        return
    conn.execute("BEGIN")
    try:
        yield
    finally:
        _roll_back(conn)  # it has only read


def apply_settings(conn: sqlite3.Connection, durability: str) -> None:
    """Set the writing connection up and read every setting back."""
    settings: tuple[tuple[str, int | str], ...] = (
        *_SAFE,
        ("journal_mode", "wal"),
        ("synchronous", SYNCHRONOUS[durability]),
        ("foreign_keys", 1),
        ("secure_delete", 1),
        ("fullfsync", 1),
        ("checkpoint_fullfsync", 1),
        ("wal_autocheckpoint", WAL_PAGES),
        ("journal_size_limit", _WAL_BYTES_KEPT),
    )
    _set(conn, settings)


def apply_reader_settings(conn: sqlite3.Connection) -> None:
    """Set a reading connection up and read every setting back."""
    _set(conn, (*_SAFE, ("query_only", 1)))


def _set(conn: sqlite3.Connection, settings: Sequence[tuple[str, int | str]]) -> None:
    for name, value in settings:
        conn.execute(f"PRAGMA {name} = {value}").fetchall()
        found = conn.execute(f"PRAGMA {name}").fetchone()
        # A VFS that cannot map files at all has no answer about mmap_size.
        if found != (value,) and (found, name) != (None, "mmap_size"):
            raise JournalError(
                f"SQLite {sqlite3.sqlite_version} did not accept the setting {name} = {value} "
                f"(it says {found}): the filesystem or this SQLite cannot hold a journal safely"
            )


def prepare(
    conn: sqlite3.Connection,
    files: JournalFiles,
    durability: str,
    now_us: int,
    migrations: Sequence[Migration] = MIGRATIONS,
) -> Boot:
    """Bring a freshly opened writing connection to work; return what was found.

    Raises:
        JournalVersionError, JournalCorruptError, JournalError: the file is not usable.
        JournalRolledBackError: it lacks what it is known to have held.
    """
    files.rewrite_wal()  # its last owner may have died of a failing disk
    conn.execute(f"PRAGMA busy_timeout = {BUSY_MS:d}")
    found = version_of(conn, files.path, migrations[-1].version)
    if found == 0:
        # Only possible before the first page is written.
        conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
    apply_settings(conn, durability)
    before = read_meta(conn, files.path) if found else {"clean": 1}
    clean = before.get("clean") == 1
    is_small = os.stat(files.path).st_size <= _FULL_CHECK_BYTES
    if found and (is_small or not clean):
        check_integrity(conn, files.path, fully=is_small)
    loss = check_mark(conn, files.path, before)
    migrate(conn, files.path, found, migrations)
    check_schema(conn, files.path, migrations)
    _check_vacuum(conn)
    boot = transact(conn, lambda: _record_boot(conn, files.path, now_us, clean, loss))
    if loss is not None:
        _log.warning("durable: %s was there and is not, in %s", loss.what, files.path)
        forget_mark(files.path)  # of what it can tell something has come
    files.remember()
    files.take_reserve()
    return boot


def read_meta(conn: sqlite3.Connection, path: str) -> dict[str, object]:
    """Return what the journal notes about itself, without what is damaged.

    Raises:
        JournalCorruptError: it cannot be told which journal it is.
    """
    meta, damaged = sound_meta(conn.execute(_ALL_META))
    if damaged:
        _log.warning("durable: rows of meta are damaged in %s: %s", path, ", ".join(damaged))
    if damaged and "journal_id" not in meta:
        raise JournalCorruptError(
            f"the journal {path} is damaged: its row journal_id in meta does not match its "
            "checksum; `durable repair` mends it"
        )
    return meta


def _check_vacuum(conn: sqlite3.Connection) -> None:
    (mode,) = conn.execute("PRAGMA auto_vacuum").fetchone()
    if mode != AUTO_VACUUM_INCREMENTAL:
        raise JournalError(f"the journal has auto_vacuum mode {mode}, which cannot return space")


def _record_boot(
    conn: sqlite3.Connection, path: str, now_us: int, clean: bool, loss: Loss | None
) -> Boot:
    if loss is not None:
        set_aside(conn, loss)
    for key, value in (("journal_id", secrets.token_hex(16)), ("created_at", now_us)):
        conn.execute(_SET_META_ONCE, (key, value, meta_sum(key, value)))
    meta = read_meta(conn, path)
    number = int(str(meta.get("boots", 0))) + 1
    news = {"boots": number, "clean": 0, "booted_at": now_us, "pid": os.getpid()}
    conn.executemany(_SET_META, [(k, v, meta_sum(k, v)) for k, v in news.items()])
    (max_pk,) = conn.execute(_MAX_PK).fetchone()
    if not clean:  # no key may ever be given to a second run
        max_pk = max(max_pk, *conn.execute(_MAX_EVENT_PK).fetchone())
    return Boot(str(meta["journal_id"]), clean, number, _suspect(meta), max_pk)


def _suspect(meta: dict[str, object]) -> tuple[int, int] | None:
    if "suspect" not in meta:
        return None
    pk, seq = str(meta["suspect"]).split(":")
    return int(pk), int(seq)


def prepare_reader(conn: sqlite3.Connection, path: str) -> None:
    """Bring a freshly opened reading connection to work.

    Raises:
        JournalVersionError: the schema is not the one that this `durable` reads.
        JournalCorruptError: the schema was changed.
    """
    apply_reader_settings(conn)
    version = version_of(conn, path, LATEST)
    if version != LATEST:
        raise JournalVersionError(
            f"the journal {path} has schema version {version}, and this durable reads {LATEST}: "
            "open it once with a Runtime that may own it"
        )
    check_schema(conn, path, MIGRATIONS)


def truncate_wal(conn: sqlite3.Connection) -> None:
    """Move everything from the -wal into the database file and empty the -wal."""
    busy, _, _ = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        error = sqlite3.OperationalError("another connection holds the -wal")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error


def restore(conn: sqlite3.Connection, files: JournalFiles, durability: str) -> None:
    """Bring a new connection to work after a fault: all that it sees is then really on disk."""
    files.check_owner()
    files.check_database()
    files.rewrite_wal()  # before SQLite reads it: closing a connection that did moves it
    apply_settings(conn, durability)
    truncate_wal(conn)
    # Without this, a power cut could bring back frames of a COMMIT that was refused.
    files.sync_wal()
    files.remember()


def finish(conn: sqlite3.Connection, clean: bool, newest: str | None = None) -> None:
    """Record how this ownership ended, and behind which event if it is known; empty the -wal."""
    news: list[tuple[str, object]] = [("clean", int(clean))]
    news += [] if newest is None else [(NEWEST, newest)]

    def record() -> None:
        conn.execute(_DELETE_META, (NEWEST,))
        conn.executemany(_SET_META, [(k, v, meta_sum(k, v)) for k, v in news])

    transact(conn, record)
    truncate_wal(conn)
