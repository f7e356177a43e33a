"""Deleting finished runs, expired or on request, and giving their space back.

Owns the order that makes deletion safe at any instant: a run's row goes first, in one
transaction with a note in `trash`, then its rows in the other tables a few at a time, then
the note. A crash in between leaves nothing visible half deleted, and the next call or the
next opening goes on. Each piece is small, so that writes of running workflows get in
between.

A table with rows of runs joins here: see `RUN_TABLES`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from durable._journal.database import transact
from durable._journal.sql import QUERIES

T = TypeVar("T")


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

_DOOM_EXPIRED, _DOOM_RUN = QUERIES["doom_expired"], QUERIES["doom_run"]
_DELETE_DOOMED_RUNS = QUERIES["delete_doomed_runs"]
_DOOMED, _UNDOOM = QUERIES["doomed"], QUERIES["undoom"]
_TABLES = [(QUERIES[table.delete_some], QUERIES[table.has_some]) for table in RUN_TABLES]

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
        doomed = await chores.run(partial(_doom, _DOOM_EXPIRED, (now_us, step)))
        deleted += doomed
        more = doomed == step
        while await chores.run(_delete_rows):
            pass
    await empty_trash(chores)
    return deleted


async def delete_run(chores: _Chores, pk: int) -> bool:
    """Delete the row of a finished run; tell whether it was there. `empty_trash` does the rest."""
    return bool(await chores.run(partial(_doom, _DOOM_RUN, (pk,))))


async def empty_trash(chores: _Chores) -> None:
    """Delete what is left of deleted runs, and give its space back."""
    while await chores.run(_delete_rows):
        pass
    while await chores.run(_return_pages):
        pass


def _doom(query: str, values: tuple[int, ...], conn: sqlite3.Connection) -> int:
    def body() -> int:
        doomed = conn.execute(query, values).rowcount
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
    while room > 0 and (row := conn.execute(_DOOMED).fetchone()) is not None:
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
