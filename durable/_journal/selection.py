"""Listing and counting runs: from a selection to statements, in bounded portions.

Owns how a statement is put together from the named pieces of selection.sql (values are
parameters, always) and which index leads it. Every statement walks one index, or merges
up to six ranges of one, in the order of creation, over a bounded number of entries; what
the index does not decide is looked up run by run. A page of a rare kind of run therefore
takes several portions, and nobody waits behind a long one.

A position is (created_at, pk): neither ever changes, so that going on from one sees no run
twice and misses none, whatever is added or deleted meanwhile. It is that of the index: what a
damaged row says of its time may lead past others, or back.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, NamedTuple

from durable._journal.database import snapshot
from durable._journal.records import BLOCKED, FINISHED, PENDING, RUNNING, RunRow
from durable._journal.row_checksums import shown_row
from durable._journal.sql import parse, read

Position = tuple[int, int]
Value = int | str

UNFINISHED = (PENDING, RUNNING, BLOCKED)
STATUSES = (*UNFINISHED, *sorted(FINISHED))
PIECES = parse(read("selection.sql"))

FIRST, LAST = (-(1 << 63), -(1 << 63)), ((1 << 63) - 1, (1 << 63) - 1)
_PROBE_ENTRIES = 200
SCAN_ENTRIES, SCAN_ENTRIES_MAX = 1000, 16_000
COUNT_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs are meant: those of which all of this is true.

    Attributes:
        workflow: name of the workflow.
        statuses: one of these; empty: any.
        attributes: all of these pairs.
        created_from, created_until: UTC microseconds, the second one exclusive.
        parent_id: the run that started it.
        root_id: the run that began its family; it belongs to the family itself.
    """

    workflow: str | None = None
    statuses: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    created_from: int | None = None
    created_until: int | None = None
    parent_id: str | None = None
    root_id: str | None = None


class Portion(NamedTuple):
    """Some runs of a selection, where each lies, and where to go on; None: there are no more."""

    rows: list[RunRow]
    positions: list[Position]
    resume: Position | None


class Count(NamedTuple):
    """How many of a portion's entries belong to a selection, and where to go on."""

    found: int
    resume: Position | None


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a statement, with the values of its parameters."""

    text: str
    values: tuple[Value, ...] = ()

    def __add__(self, other: _Piece) -> _Piece:
        return _Piece(f"{self.text} {other.text}", self.values + other.values)


class _Way(NamedTuple):
    """An index that can lead to the runs of a selection.

    Attributes:
        branches: the ranges of the index, without their bounds.
        decides: the conditions that need no more looking at.
    """

    branches: tuple[_Piece, ...]
    decides: frozenset[tuple[str, ...]]


def read_rows(
    selection: Selection,
    order: str,
    after: Position | None,
    limit: int,
    entries: int,
    conn: sqlite3.Connection,
) -> Portion:
    """Return up to `limit` runs that come after a position.

    Args:
        order: ``"newest"`` or ``"oldest"`` first.
        entries: look at so many entries of the index at most.
    """
    with snapshot(conn):
        scan = _Scan(conn, selection, order, after)
        entries = entries if scan.conditions else limit
        found = scan.statement("rows_from", entries)
        stored = _run(conn, found + _piece(f"rows_{order}", limit))
        rows = [shown_row(each[2:]) for each in stored]
        positions = [(each[0], each[1]) for each in stored]
        resume = positions[-1] if len(rows) == limit else scan.position(entries)
        return Portion(rows, positions, resume)


def read_count(
    selection: Selection, after: Position | None, entries: int, conn: sqlite3.Connection
) -> Count:
    """Count the runs among the next `entries` of the index that leads to them."""
    with snapshot(conn):
        scan = _Scan(conn, selection, "oldest", after)
        found = _number(conn, scan.statement("count_from", entries))
        return Count(found, scan.position(entries))


class _Scan:
    """One walk along an index, from a position on."""

    def __init__(
        self, conn: sqlite3.Connection, selection: Selection, order: str, after: Position | None
    ) -> None:
        self._conn = conn
        self._order = order
        bounds = _bounds(selection, order, after)
        conditions = _conditions(selection)
        ways = _ways(selection)
        if len(ways) > 1:  # the shortest way, as far as that can be told cheaply
            ways.sort(key=lambda way: self._length(way, bounds))
        self._entries = _entries(ways[0], bounds)
        self.conditions = [piece for key, piece in conditions.items() if key not in ways[0].decides]

    def statement(self, head: str, entries: int) -> _Piece:
        """Return a statement about up to so many entries, as far as its conditions."""
        text = _piece(head) + self._entries + _piece(self._order, entries, 0)
        if head == "count_from" and not self.conditions:
            return text + _piece("end_from")
        return sum(self.conditions, start=text + _piece("joined_runs"))

    def position(self, entries: int) -> Position | None:
        """Return where the last of so many entries lies, None if there are not as many."""
        last = _run(self._conn, self._entries + _piece(self._order, 1, entries - 1))
        return (last[0][0], last[0][1]) if last else None

    def _length(self, way: _Way, bounds: tuple[int, ...]) -> int:
        text = _piece("count_from") + _entries(way, bounds)
        text += _piece("oldest", _PROBE_ENTRIES, 0) + _piece("end_from")
        return _number(self._conn, text)


def _ways(selection: Selection) -> list[_Way]:
    """Return the indexes that may lead to the runs, the better ones first."""
    ways: list[_Way] = []
    if selection.parent_id is not None:
        ways.append(_Way((_piece("by_parent", selection.parent_id),), frozenset({("parent",)})))
    if selection.root_id is not None:
        root = (_piece("by_root", selection.root_id), _piece("by_id", selection.root_id))
        ways.append(_Way(root, frozenset({("root",)})))
    ways += [
        _Way((_piece("by_attribute", *pair),), frozenset({("attribute", *pair)}))
        for pair in selection.attributes
    ]
    statuses = selection.statuses or STATUSES
    if selection.workflow is not None:
        branches = tuple(_piece("by_workflow", selection.workflow, each) for each in statuses)
        ways.append(_Way(branches, frozenset({("workflow",), ("status",)})))
    elif not ways:
        branches = tuple(_piece("by_status", each) for each in statuses)
        ways.append(_Way(branches, frozenset({("status",)})))
    return ways


def _conditions(selection: Selection) -> dict[tuple[str, ...], _Piece]:
    found: dict[tuple[str, ...], _Piece] = {}
    if selection.statuses:
        found["status",] = _piece("has_status", json.dumps(selection.statuses))
    if selection.workflow is not None:
        found["workflow",] = _piece("has_workflow", selection.workflow)
    if selection.parent_id is not None:
        found["parent",] = _piece("has_parent", selection.parent_id)
    if selection.root_id is not None:
        found["root",] = _piece("has_root", selection.root_id)
    for pair in selection.attributes:
        found["attribute", *pair] = _piece("has_attribute", *pair)
    return found


def _bounds(selection: Selection, order: str, after: Position | None) -> tuple[int, ...]:
    """Return the two positions between which a scan goes, neither included."""
    low = FIRST if selection.created_from is None else (selection.created_from, FIRST[1])
    high = LAST if selection.created_until is None else (selection.created_until, FIRST[1])
    if after is not None:
        low, high = (low, min(high, after)) if order == "newest" else (max(low, after), high)
    return (*low, *high)


def _entries(way: _Way, bounds: tuple[int, ...]) -> _Piece:
    first, *rest = (_Piece(each.text, each.values + bounds) for each in way.branches)
    return sum((_piece("also") + branch for branch in rest), start=first)


def _piece(name: str, *values: Value) -> _Piece:
    return _Piece(PIECES[name], values)


def _run(conn: sqlite3.Connection, statement: _Piece) -> list[tuple[Any, ...]]:
    return conn.execute(statement.text, statement.values).fetchall()


def _number(conn: sqlite3.Connection, statement: _Piece) -> int:
    return int(_run(conn, statement)[0][0])


def plan(selection: Selection, order: str, conn: sqlite3.Connection) -> list[str]:
    """Return how SQLite goes about a listing; for tests and for looking at slow ones."""
    scan = _Scan(conn, selection, order, None)
    statement = scan.statement("rows_from", 100) + _piece(f"rows_{order}", 100)
    return [str(row[-1]) for row in _run(conn, _piece("explain") + statement)]
