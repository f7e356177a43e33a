"""Performing a batch of writes on a connection, in one transaction.

Owns how rows reach the tables: few statements for the rows of all writes, rows that
exist already recognised, a batch with a faulty write taken apart so that only this one
is refused. Performing a write again changes nothing, which is what makes an ambiguous
COMMIT harmless. Everything here runs on the driver's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from durable._journal.checksum import NO_DUE, checksum, checksum_of_run
from durable._journal.database import transact
from durable._journal.faults import is_disk_fault, refusal
from durable._journal.records import RowOp, RunRow, RunState, Write
from durable._journal.row_checksums import meta_sum, plain_sum, state_sum, sums_of
from durable._journal.sql import QUERIES, for_rows
from durable._replay.events import Event
from durable.errors import InternalError

_INSERT_RUN, _INDEX_ATTRIBUTES = QUERIES["insert_run"], QUERIES["index_attributes"]
_INSERT_PLAIN_RUN = QUERIES["insert_plain_run"]
_PLAIN_COLUMNS = ("pk", "run_id", "workflow", "status", "created_at", "wake_at", "behaviour")
_PLAIN = itemgetter(*map(RunRow._fields.index, _PLAIN_COLUMNS))
_ATTRIBUTES = RunRow._fields.index("attributes")
_NULLS_OF_PLAIN = len(RunRow._fields) - len(_PLAIN_COLUMNS)
# By falling number of rows. A large one runs without the interpreter's lock nearly all its time.
_INSERT_EVENTS = [(rows, for_rows(QUERIES["insert_event"], rows)) for rows in (100, 20, 5, 2, 1)]
_INSERT_EVENT_AGAIN = QUERIES["insert_event_again"]
_UPDATE_STATE, _EVENT_CRC = QUERIES["update_state"], QUERIES["event_crc"]
_RUN_BY_ID, _RUN_BY_PK = QUERIES["run_by_id"], QUERIES["run_by_pk"]
_SET_META, _DELETE_META = QUERIES["set_meta"], QUERIES["delete_meta"]
_STATE_OF = QUERIES["state_of"]

# As given to `insert_event`.
Row = tuple[int, int, int, int, str, int, int, "bytearray | None", int]


class Landing(NamedTuple):
    """How one write of a batch came down."""

    existing: Mapping[str, RunRow] = MappingProxyType({})
    refused: InternalError | None = None
    changed: Sequence[int] = ()


_LANDED = Landing()
_NONE_SKIPPED: frozenset[int] = frozenset()


@dataclass(slots=True)
class Tally:
    """What a batch has done; statements are counted for tests and benchmarks."""

    statements: int = 0
    newest: Row | None = None  # the last event of the batch that was performed


def _gladly() -> None:
    """Let every batch be committed."""


def perform(
    conn: sqlite3.Connection,
    writes: Sequence[Write],
    tally: Tally,
    again: bool = False,
    may_commit: Callable[[], None] = _gladly,
) -> list[Landing]:
    """Make the writes durable in one transaction; faulty ones are refused singly.

    Args:
        conn: the writing connection, with no transaction open.
        writes: in submission order.
        tally: where statements are counted.
        again: some of the writes may be recorded already.
        may_commit: called before COMMIT, while nobody else can write; raises an `OSError` if
            this process must not.

    Raises:
        sqlite3.Error, UnknownOutcomeError: the disk's fault; nothing is known to be recorded.
        OSError: see `may_commit`; nothing is recorded.
    """

    def apply() -> list[Landing]:
        landings = _apply(conn, writes, tally, again)
        may_commit()
        return landings

    def apply_singly() -> list[Landing]:
        landings = [_apply_alone(conn, write, tally) for write in writes]
        may_commit()
        return landings

    tally.statements += 2
    tally.newest = None
    try:
        return transact(conn, apply)
    except Exception as error:
        if is_disk_fault(error):
            raise
    tally.statements += 2
    tally.newest = None
    return transact(conn, apply_singly)


def _apply_alone(conn: sqlite3.Connection, write: Write, tally: Tally) -> Landing:
    tally.statements += 2
    conn.execute("SAVEPOINT one")
    before = tally.newest
    try:
        (landing,) = _apply(conn, (write,), tally, again=True)
    except Exception as error:
        if is_disk_fault(error):
            raise
        conn.execute("ROLLBACK TO one")
        tally.newest = before
        landing = Landing(refused=refusal(error))
    conn.execute("RELEASE one")
    return landing


def _apply(
    conn: sqlite3.Connection, writes: Sequence[Write], tally: Tally, again: bool
) -> list[Landing]:
    landings = [_LANDED] * len(writes)
    skipped = _NONE_SKIPPED
    # Nearly all writes of a busy program hold events and nothing else.
    more = any(w.runs or w.states or w.ops or w.clear_suspect or w.suspect for w in writes)
    if more:
        skipped = _insert_runs(conn, writes, landings, tally)
    insert = _insert_events_again if again else _insert_events
    rows = event_rows(writes, skipped)
    insert(conn, rows, tally)
    if rows:
        tally.newest = rows[-1]
    if more:
        _update_states(conn, writes, skipped, tally)
        _perform_all_ops(conn, writes, landings, tally)
        _mark_suspect(conn, writes, tally)
    return landings


def _insert_runs(
    conn: sqlite3.Connection, writes: Sequence[Write], landings: list[Landing], tally: Tally
) -> frozenset[int]:
    """Insert runs; return the keys of those left out because their run id exists."""
    # As plain tuples, which sqlite3 takes apart faster.
    rows = [tuple(row) for write in writes for row in write.runs]
    if not rows:
        return frozenset()
    tally.statements += 1
    plain = all(row.count(None) == _NULLS_OF_PLAIN and _PLAIN(row)[5] is not None for row in rows)
    if plain:
        inserted = conn.executemany(_INSERT_PLAIN_RUN, map(_plain_values, rows)).rowcount
    else:
        values = [(*row, *sums_of(RunRow._make(row))) for row in rows]
        inserted = conn.executemany(_INSERT_RUN, values).rowcount
    if not plain and (tagged := [row[:1] for row in rows if row[_ATTRIBUTES] is not None]):
        tally.statements += 1
        conn.executemany(_INDEX_ATTRIBUTES, tagged)
    if inserted == len(rows):
        return frozenset()
    skipped: set[int] = set()
    for place, write in enumerate(writes):
        existing = _existing(conn, write.runs)
        landings[place] = Landing(existing)
        # By key: a write may name one id twice, and the first of them stands.
        skipped.update(
            row.pk
            for row in write.runs
            if row.run_id in existing and existing[row.run_id].pk != row.pk
        )
    return frozenset(skipped)


def _plain_values(row: tuple[Any, ...]) -> tuple[Any, ...]:
    pk, run_id, workflow, status, created_at, wake_at, behaviour = plain = _PLAIN(row)
    state = RunState(status, None, None, wake_at, None, None, pk)
    fixed = plain_sum(pk, run_id, workflow, created_at, behaviour)
    return (*plain, fixed, state_sum(state))


def _existing(conn: sqlite3.Connection, rows: Iterable[RunRow]) -> dict[str, RunRow]:
    """Return the rows found under the run ids of `rows` that are not these rows."""
    found: dict[str, RunRow] = {}
    for row in rows:
        other = conn.execute(_RUN_BY_ID, (row.run_id,)).fetchone()
        if other is None:
            raise InternalError(f"run {row.run_id} got the key {row.pk}, which is taken")
        if other[0] != row.pk:
            found[row.run_id] = RunRow._make(other[: len(RunRow._fields)])
    return found


def event_rows(writes: Iterable[Write], skipped: frozenset[int]) -> list[Row]:
    """Return the columns of all events, in submission order, checksum included."""
    rows: list[Row] = []
    for write in writes:
        for pk, run_id, event in write.events:
            if pk not in skipped:
                _add_rows(rows, pk, run_id, (event,))
        if write.turn is not None and write.turn[0] not in skipped:
            _add_rows(rows, *write.turn)
    return rows


def _add_rows(rows: list[Row], pk: int, run_id: str, events: Iterable[Event]) -> None:
    seed = checksum_of_run(run_id)
    for event in events:
        seq, kind, ref, name, at, due, payload = event
        crc = checksum(seed, event)
        # sqlite3 looks long for an adapter of what is not exactly an int, str or bytearray.
        blob = None if payload is None else bytearray(payload)
        due = NO_DUE if due is None else due
        rows.append((pk, seq, int(kind), ref, name, at, due, blob, crc))


def _insert_events(conn: sqlite3.Connection, rows: Sequence[Row], tally: Tally) -> None:
    """Insert many rows with few statements: each one costs a turn at the interpreter's lock."""
    done, left = 0, len(rows)
    for size, statement in _INSERT_EVENTS:
        while left >= size:
            tally.statements += 1
            conn.execute(statement, [*chain.from_iterable(rows[done : done + size])])
            done, left = done + size, left - size


def _insert_events_again(conn: sqlite3.Connection, rows: Sequence[Row], tally: Tally) -> None:
    """Insert what is missing; what is there already must be the very same."""
    tally.statements += 1
    if conn.executemany(_INSERT_EVENT_AGAIN, rows).rowcount == len(rows):
        return
    for row in rows:
        (crc,) = conn.execute(_EVENT_CRC, row[:2]).fetchone()
        if crc != row[-1]:
            raise InternalError(f"event {row[1]} of run key {row[0]} is recorded differently")


def _update_states(
    conn: sqlite3.Connection, writes: Sequence[Write], skipped: frozenset[int], tally: Tally
) -> None:
    # The last state of a run wins, and the others need not be written at all.
    latest = {state.pk: state for write in writes for state in write.states}
    states = [state for pk, state in latest.items() if pk not in skipped]
    if not states:
        return
    tally.statements += 1
    rows = [(*state[:-1], state_sum(state), state.pk) for state in states]
    if conn.executemany(_UPDATE_STATE, rows).rowcount != len(rows):
        raise InternalError(f"a state was written for a run that is not recorded: {states[:3]}")


def _perform_all_ops(
    conn: sqlite3.Connection, writes: Sequence[Write], landings: list[Landing], tally: Tally
) -> None:
    for place, write in enumerate(writes):
        if write.ops:
            changed = _perform_ops(conn, write.ops, tally)
            landings[place] = landings[place]._replace(changed=changed)


def _perform_ops(conn: sqlite3.Connection, ops: Sequence[RowOp], tally: Tally) -> list[int]:
    tally.statements += len(ops)
    return [conn.execute(QUERIES[op.query], op.values).rowcount for op in ops]


def _mark_suspect(conn: sqlite3.Connection, writes: Sequence[Write], tally: Tally) -> None:
    marks = [write for write in writes if write.clear_suspect or write.suspect is not None]
    if not marks:
        return
    tally.statements += 1
    last = marks[-1].suspect
    if last is None:
        conn.execute(_DELETE_META, ("suspect",))
    else:
        value = f"{last[0]}:{last[1]}"
        conn.execute(_SET_META, ("suspect", value, meta_sum("suspect", value)))


def is_recorded(conn: sqlite3.Connection, write: Write) -> bool:
    """Tell, by reading only, whether all of `write` is in the journal."""
    return (
        all(_has_run(conn, row) for row in write.runs)
        and all(_has_event(conn, row) for row in event_rows((write,), frozenset()))
        and all(_has_state(conn, state) for state in write.states)
    )


def _has_run(conn: sqlite3.Connection, row: RunRow) -> bool:
    found = conn.execute(_RUN_BY_PK, (row.pk,)).fetchone()
    return found is not None and found[1] == row.run_id


def _has_event(conn: sqlite3.Connection, row: Row) -> bool:
    found = conn.execute(_EVENT_CRC, row[:2]).fetchone()
    return found is not None and found[0] == row[-1]


def _has_state(conn: sqlite3.Connection, state: RunState) -> bool:
    return bool(conn.execute(_STATE_OF, (state.pk,)).fetchone() == tuple(state))
