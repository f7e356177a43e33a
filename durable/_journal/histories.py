"""Reading histories: every event is checked before anybody sees it.

Owns what "this is the history" means for rows of the file. Each event must match its
checksum and stand in its place, the first one must be there, and behind the last one the
next run must begin. The latter because a flipped bit in a key or in a page may take the end
of a history away without touching what is left of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from durable._journal.checksum import Stored, checksum_of_run, intact
from durable._journal.sql import QUERIES
from durable._replay.events import Event
from durable.errors import JournalCorruptError, WorkflowRunNotFoundError

_HISTORY, _LAST_EVENT = QUERIES["history"], QUERIES["last_event"]
_NEXT_IN_FILE, _BY_PK = QUERIES["next_in_file"], QUERIES["run_by_pk"]

CURE = "the disk or another program changed the file; restore a backup, or `durable repair`"

# Rows fetched at once: few enough that their memory is used again for the next ones.
_PAGE = 100


def read_history(
    run_id: str, after_seq: int, parameters: tuple[int, int, int], conn: sqlite3.Connection
) -> list[Event]:
    """Return verified events; the parameters are the run's key, `after_seq` and a limit.

    Raises:
        JournalCorruptError: an event is damaged or missing; it is named.
        WorkflowRunNotFoundError: the run is just being deleted.
    """
    pk, _, limit = parameters
    seed, events = checksum_of_run(run_id), list[Event]()
    with closing(conn.execute(_HISTORY, parameters)) as cursor:
        rows: list[Stored] = cursor.fetchmany(_PAGE)
        if rows[0][0] != after_seq + 1 if rows else after_seq == 0:
            is_there = _is_there(pk, run_id, conn)
            if rows and not is_there:  # it is being deleted, its first events first
                raise WorkflowRunNotFoundError(run_id)
            if not rows and not is_there:
                return []
        while rows:
            events += verified(run_id, seed, after_seq + 1 + len(events), rows)
            rows = cursor.fetchmany(_PAGE)
    if not 0 <= limit <= len(events):
        _check_end(pk, run_id, after_seq + len(events), conn)
    return events


def read_last(pk: int, run_id: str, conn: sqlite3.Connection) -> Event | None:
    """Return the newest event of a run, verified, or None."""
    row: Stored | None = conn.execute(_LAST_EVENT, (pk,)).fetchone()
    if row is None:
        return None
    _check_end(pk, run_id, row[0], conn)
    return verified(run_id, checksum_of_run(run_id), row[0], [row])[0]


def _is_there(pk: int, run_id: str, conn: sqlite3.Connection) -> bool:
    found = conn.execute(_BY_PK, (pk,)).fetchone()
    return found is not None and bool(found[1] == run_id)


def _check_end(pk: int, run_id: str, last: int, conn: sqlite3.Connection) -> None:
    if last == 0:
        raise JournalCorruptError(f"the history of run {run_id} is missing: {CURE}")
    row = conn.execute(_NEXT_IN_FILE, (pk, last)).fetchone()
    if row is None:
        return
    next_pk, seq, is_trash = row
    if not isinstance(next_pk, int) or next_pk <= pk or (seq != 1 and not is_trash):
        raise JournalCorruptError(
            f"behind event {last} of run {run_id} lies event {seq} of the run of key {next_pk}, "
            f"so that the history may be cut off there: {CURE}"
        )


def verified(run_id: str, seed: int, place: int, rows: Sequence[Stored]) -> list[Event]:
    """Return stored events, the first of which has to be number `place`; none is opened.

    Raises:
        JournalCorruptError: one has another number, or does not match its checksum.
    """
    events = intact(seed, place, rows)
    if len(events) == len(rows):
        return events
    seq, place = rows[len(events)][0], place + len(events)
    if seq != place:
        raise JournalCorruptError(
            f"the history of run {run_id} lacks event {place} (the next one is {seq}): {CURE}"
        )
    raise JournalCorruptError(f"event {seq} of run {run_id} does not match its checksum: {CURE}")
