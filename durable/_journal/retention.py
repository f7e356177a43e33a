"""Deleting finished runs that have expired, and giving their space back.

Owns the order that makes deletion safe at any instant: a run's row goes first, in one
transaction with a note in `trash`, then its events and chunks a few at a time, then the note. A
crash in between leaves nothing visible half deleted, and the next call goes on. Each
piece is small, so that writes of running workflows get in between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from durable._journal.database import transact
from durable._journal.sql import QUERIES

T = TypeVar("T")

_DOOM_EXPIRED, _DELETE_DOOMED_RUNS = QUERIES["doom_expired"], QUERIES["delete_doomed_runs"]
_DOOMED, _UNDOOM = QUERIES["doomed"], QUERIES["undoom"]
_PORTIONS = (
    (QUERIES["delete_some_events"], QUERIES["has_events"]),
    (QUERIES["delete_some_chunks"], QUERIES["has_chunks"]),
)

_ROWS_AT_ONCE = 500
_RUNS_AT_ONCE = 100
_PAGES_AT_ONCE = 256


class _Chores(Protocol):
    async def run(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on the writing connection, between batches."""


async def delete_expired(chores: _Chores, now_us: int, limit: int) -> int:
    """Delete up to `limit` runs expired at `now_us`, with their space; return how many."""
    deleted = 0
    more = True
    while more and deleted < limit:
        step = min(limit - deleted, _RUNS_AT_ONCE)
        doomed = await chores.run(partial(_doom, now_us, step))
        deleted += doomed
        more = doomed == step
        while await chores.run(_delete_rows):
            pass
    while await chores.run(_return_pages):
        pass
    return deleted


def _doom(now_us: int, limit: int, conn: sqlite3.Connection) -> int:
    def body() -> int:
        doomed = conn.execute(_DOOM_EXPIRED, (now_us, limit)).rowcount
        conn.execute(_DELETE_DOOMED_RUNS)
        return doomed

    return transact(conn, body)


def _delete_rows(conn: sqlite3.Connection) -> bool:
    """Delete some rows of runs in the trash; return False when the trash is empty."""
    if conn.execute(_DOOMED).fetchone() is None:
        return False
    transact(conn, lambda: _delete_some(conn))
    return True


def _delete_some(conn: sqlite3.Connection) -> None:
    room = _ROWS_AT_ONCE
    while room > 0:
        row = conn.execute(_DOOMED).fetchone()
        if row is None:
            return
        left = False
        for delete, look in _PORTIONS:
            if room > 0:
                room -= conn.execute(delete, {"run": row[0], "count": room}).rowcount
            left = left or conn.execute(look, row).fetchone()[0] == 1
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
