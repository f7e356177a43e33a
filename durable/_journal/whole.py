"""A run with all that belongs to it: its row, its history, its streams.

Owns what "all of a run" is, for who takes it somewhere else; read at one moment, so that
the parts fit together.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import NamedTuple

from durable._journal.chunks import Chunk, StreamKey, opened_chunk, read_streams
from durable._journal.database import snapshot
from durable._journal.histories import read_history
from durable._journal.reader import Reader
from durable._journal.records import RunRow
from durable._journal.row_checksums import run_row
from durable._journal.seals import Seals, is_sealed, no_key
from durable._journal.sql import QUERIES
from durable._replay.events import Event

_RUN_BY_ID = QUERIES["run_by_id"]
_ALL = -1


class WholeRun(NamedTuple):
    """Everything that a journal holds of a run, verified.

    `streams` has the rows of each stream by its namespace ("" = the default stream).
    """

    row: RunRow
    events: list[Event]
    streams: dict[str, list[Chunk]]


async def read_whole(reader: Reader, run_id: str) -> WholeRun | None:
    """Return all of a run as it is at this moment, or None; if it is sealed, it stays so."""
    return await reader.ask(partial(_read, run_id))


def opened(whole: WholeRun, seals: Seals) -> WholeRun:
    """Return a run with its payloads opened.

    Args:
        seals: of the journal that has sealed it.

    Raises:
        JournalCorruptError: a row is not authentic.
        PayloadDecodeError: a key is not at hand.
    """
    row = whole.row
    events = [seals.open_event(row.run_id, event) for event in whole.events]
    streams = {
        name: [opened_chunk(StreamKey(0, row.run_id, name), chunk, seals) for chunk in chunks]
        for name, chunks in whole.streams.items()
    }
    payloads = [event.payload for event in events]
    payloads += [chunk.payload for chunks in streams.values() for chunk in chunks]
    for payload in payloads:
        if payload is not None and is_sealed(payload):
            raise no_key(payload)
    return WholeRun(row, events, streams)


def _read(run_id: str, conn: sqlite3.Connection) -> WholeRun | None:
    with snapshot(conn):
        found = conn.execute(_RUN_BY_ID, (run_id,)).fetchone()
        if found is None:
            return None
        row = run_row(found)
        events = read_history(run_id, 0, (row.pk, 0, _ALL), conn)
        return WholeRun(row, events, read_streams(row.pk, run_id, conn))
