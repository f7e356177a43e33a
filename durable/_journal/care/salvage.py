"""Reading a damaged journal: whatever can still be read of it, row by row.

Owns the ways around damaged pages. A table is read in its order; where that breaks off,
each row that may be there is asked for by its key, because a search takes another way
through the pages than a walk does. What comes back is raw: nothing is judged here.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from durable._journal.care.judging import Stored
from durable._journal.care.verifying import QUERIES

_FIRST = -(1 << 63)
_FURTHER = 1000  # rows behind a damaged place that are asked for one by one
_KEYS_MAX = 1 << 22


@dataclass(slots=True)
class Wreck:
    """All that could be read.

    Attributes:
        rows: of `runs`, by key.
        ids: run ids by key, from the index of ids: they may be there without their rows.
        events, chunks: by the key of their run, in the order in which they were read.
        torn: keys of runs of which something could not be read.
        short: what is known to be missing at the end of a run's history, by its key.
        others: rows of the small tables, by the table's name.
        unreadable: tables that could not be read whole, with what SQLite said.
        foreign: names of tables that are no part of a journal, as far as that is known.
    """

    rows: dict[int, Stored] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)
    events: dict[int, list[Stored]] = field(default_factory=lambda: defaultdict(list))
    chunks: dict[int, list[Stored]] = field(default_factory=lambda: defaultdict(list))
    torn: set[int] = field(default_factory=set)
    short: dict[int, str] = field(default_factory=dict)
    others: dict[str, list[Stored]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)

    def runs(self) -> list[int]:
        """Return the keys of all runs of which there is a trace."""
        return sorted({*self.rows, *self.ids, *self.events, *self.chunks})


def salvage(conn: sqlite3.Connection) -> Wreck:
    """Read all that can be read."""
    wreck = Wreck()
    for table in ("trash", "hooks", "requests", "meta"):
        wreck.others[table] = list(_some(conn, wreck, table))
    for key, run_id in _some(conn, wreck, "run_ids"):
        if isinstance(key, int):
            wreck.ids[key] = str(run_id)
    for row in _some(conn, wreck, "runs", _FIRST):
        wreck.rows[row[0]] = row
    for row in _some(conn, wreck, "events", _FIRST, 0):
        wreck.events[row[0]].append(row[1:])
    for row in _some(conn, wreck, "chunks", _FIRST, "", -1):
        wreck.chunks[row[0]].append(row[1:])
    if "runs" in wreck.unreadable:
        _look_for_runs(conn, wreck)
    if "events" in wreck.unreadable:
        _look_for_events(conn, wreck)
    if "chunks" in wreck.unreadable:
        _look_for_chunks(conn, wreck)
    return wreck


def _some(conn: sqlite3.Connection, wreck: Wreck, table: str, *values: object) -> Iterator[Stored]:
    """Yield the rows of a table until it breaks off."""
    try:
        yield from conn.execute(QUERIES[table], values)
    except sqlite3.DatabaseError as error:
        wreck.unreadable[table] = str(error)


def _candidates(wreck: Wreck) -> range:
    """Return the keys that runs may have: they are given in a row."""
    known = [key for key in wreck.runs() if isinstance(key, int) and 0 < key < _KEYS_MAX]
    return range(1, max(known, default=0) + 1)


def _look_for_runs(conn: sqlite3.Connection, wreck: Wreck) -> None:
    for key in {*_candidates(wreck), *wreck.ids} - wreck.rows.keys():
        row = _one(conn, "run", key)
        if row is not None:
            wreck.rows[key] = row


def _look_for_events(conn: sqlite3.Connection, wreck: Wreck) -> None:
    for key in {*_candidates(wreck), *wreck.runs()}:
        events = {event[0]: event for event in wreck.events.get(key, ())}
        last = max((seq for seq in events if isinstance(seq, int)), default=0)
        more, is_torn = _walk(conn, "events", key, last)
        events |= {row[1]: row[1:] for row in more}
        if is_torn:
            wreck.torn.add(key)
            last = max((seq for seq in events if isinstance(seq, int)), default=0)
            further = range(last + 1, last + 1 + _FURTHER)
            rows = [row for seq in further if (row := _one(conn, "event", key, seq)) is not None]
            events |= {row[1]: row[1:] for row in rows}
        if events:
            wreck.events[key] = [events[seq] for seq in sorted(events)]


def _look_for_chunks(conn: sqlite3.Connection, wreck: Wreck) -> None:
    for key in {*_candidates(wreck), *wreck.runs()}:
        chunks = {chunk[:2]: chunk for chunk in wreck.chunks.get(key, ())}
        more, is_torn = _walk(conn, "chunks", key, *max(chunks, default=("", -1)))
        chunks |= {row[1:3]: row[1:] for row in more}
        if is_torn:
            wreck.torn.add(key)
        if chunks:
            wreck.chunks[key] = [chunks[place] for place in sorted(chunks)]


def _walk(
    conn: sqlite3.Connection, table: str, key: int, *after: object
) -> tuple[list[Stored], bool]:
    """Return the rows of a run behind a place, and whether the walk broke off."""
    found: list[Stored] = []
    try:
        for row in conn.execute(QUERIES[table], (key, *after)):
            if row[0] != key:
                break
            found.append(row)
    except sqlite3.DatabaseError:
        return found, True
    return found, False


def _one(conn: sqlite3.Connection, query: str, *values: object) -> Stored | None:
    try:
        found: Stored | None = conn.execute(QUERIES[query], values).fetchone()
    except sqlite3.DatabaseError:
        return None
    return found
