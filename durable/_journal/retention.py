"""Deleting finished runs, expired or on request, and giving their space back.

Owns the order that makes deletion safe at any instant: a run's row goes first, in one
transaction with a note in `trash`, then its rows in the other tables a few at a time, then
the note. A crash in between leaves nothing visible half deleted, and the next call or the
next opening goes on. Each piece is small, so that writes of running workflows get in
between.

A table with rows of runs joins here: see `RUN_TABLES`.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from durable._journal.database import transact
from durable._journal.row_checksums import StoredRun, run_row
from durable._journal.sql import QUERIES
from durable.errors import JournalCorruptError

T = TypeVar("T")
_log = logging.getLogger("durable")


class RunTable(NamedTuple):
    """A table whose rows belong to runs and go with them.

    Attributes:
        delete_some: name of the statement that deletes up to `:count` rows of `:run`.
        has_some: name of the query that tells whether any of `:run` are left.
    """

    delete_some: str
    has_some: str


# Emptied in this order. An index over `runs` itself is better kept by triggers (schema.sql).
RUN_TABLES = (
    RunTable("delete_some_events", "has_events"),
    RunTable("delete_some_chunks", "has_chunks"),
    RunTable("delete_hooks", "has_hooks"),
    RunTable("delete_requests", "has_requests"),
)

_EXPIRED, _DOOM, _RUN_BY_PK = QUERIES["expired_runs"], QUERIES["doom"], QUERIES["run_by_pk"]
_KEEP, _IS_RUN = QUERIES["keep_run"], QUERIES["is_run"]
_DELETE_DOOMED_RUNS = QUERIES["delete_doomed_runs"]
_DOOMED, _UNDOOM = QUERIES["doomed"], QUERIES["undoom"]
_TABLES = [(QUERIES[table.delete_some], QUERIES[table.has_some]) for table in RUN_TABLES]

_ROWS_AT_ONCE = 500
_RUNS_AT_ONCE = 100
_PAGES_AT_ONCE = 256


class _Chores(Protocol):
    async def run(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on the writing connection, between batches."""


async def delete_expired(
    chores: _Chores, now_us: int, limit: int, before: Callable[[], None]
) -> int:
    """Delete up to `limit` runs expired at `now_us`, with their space; return how many.

    `before` is called on the journal's thread before any run is deleted.
    """
    deleted = 0
    more = True
    while more and deleted < limit:
        step = min(limit - deleted, _RUNS_AT_ONCE)
        found, doomed = await chores.run(partial(_doom_expired, now_us, step, before))
        deleted += doomed
        more = found == step
        while await chores.run(_delete_rows):
            pass
    await empty_trash(chores)
    return deleted


async def delete_run(chores: _Chores, pk: int, before: Callable[[], None]) -> bool:
    """Delete the row of a finished run; tell whether it was there. `empty_trash` does the rest."""
    return await chores.run(partial(_doom_one, pk, before))


async def empty_trash(chores: _Chores) -> None:
    """Delete what is left of deleted runs, and give its space back."""
    while await chores.run(_delete_rows):
        pass
    while await chores.run(_return_pages):
        pass


def _doom_expired(
    now_us: int, limit: int, before: Callable[[], None], conn: sqlite3.Connection
) -> tuple[int, int]:
    """Return how many runs seemed to be expired, and how many are doomed now."""

    def body() -> tuple[int, int]:
        rows = conn.execute(_EXPIRED, (now_us, limit)).fetchall()
        doomed = [row[:1] for row in rows if _is_expired(conn, row, now_us)]
        _doom(conn, doomed, before)
        return len(rows), len(doomed)

    return transact(conn, body)


def _is_expired(conn: sqlite3.Connection, stored: StoredRun, now_us: int) -> bool:
    """Tell whether a run may go; a damaged row is no reason to delete anything."""
    try:
        expires_at = run_row(stored).expires_at
    except JournalCorruptError as error:
        _log.warning("durable: %s. It does not expire", error)
        conn.execute(_KEEP, stored[:1])
        return False
    return expires_at is not None and expires_at <= now_us


def _doom_one(pk: int, before: Callable[[], None], conn: sqlite3.Connection) -> bool:
    def body() -> bool:
        stored = conn.execute(_RUN_BY_PK, (pk,)).fetchone()
        found = stored is not None and run_row(stored).completed_at is not None
        _doom(conn, [(pk,)] if found else [], before)
        return found

    return transact(conn, body)


def _doom(conn: sqlite3.Connection, keys: Sequence[tuple[int]], before: Callable[[], None]) -> None:
    if keys:
        before()
        conn.executemany(_DOOM, keys)
        conn.execute(_DELETE_DOOMED_RUNS)


def _delete_rows(conn: sqlite3.Connection) -> bool:
    """Delete some rows of runs in the trash; return False when the trash is empty."""
    if conn.execute(_DOOMED).fetchone() is None:
        return False
    transact(conn, lambda: _delete_some(conn))
    return True


def _delete_some(conn: sqlite3.Connection) -> None:
    room = _ROWS_AT_ONCE
    while room > 0 and (row := conn.execute(_DOOMED).fetchone()) is not None:
        if conn.execute(_IS_RUN, row).fetchone() != (0,):  # damage must not delete a living run
            conn.execute(_UNDOOM, row)
            continue
        left = False
        for delete_some, has_some in _TABLES:
            if room > 0:
                room -= conn.execute(delete_some, {"run": row[0], "count": room}).rowcount
            (some,) = conn.execute(has_some, {"run": row[0]}).fetchone()
            left = left or bool(some)
        if not left:
            conn.execute(_UNDOOM, row)
            room -= 1


def _return_pages(conn: sqlite3.Connection) -> bool:
    """Give some free pages back; return False when none is left."""
    (free,) = conn.execute("PRAGMA freelist_count").fetchone()
    if not free:
        return False
    # Not execute(): the pragma gives a row without columns for each page, and execute()
    # stops at the first one.
    conn.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE:d})")
    return True
