"""The chunks of streams: their rows, and reading them page by page.

Owns what a row means. A stream is a list without gaps that only grows: `CHUNK` is a value;
`RESET` says that a step begins anew, so that its chunks before this row are withdrawn;
`CLOSED`, as the last row, is the stream's end. Nothing is ever changed or taken away, so an
index stays what it is and a reader goes on exactly where it was.

Rows are checked like events, against a checksum and their place, and their seal if the
journal has seals. Writing them is the
group commit's business: `chunk_op` makes the row operation, which may be performed twice.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from typing import NamedTuple
from zlib import crc32

from durable._journal.histories import CURE
from durable._journal.reader import Reader
from durable._journal.records import RowOp
from durable._journal.seals import Seals, not_authentic, place_of_chunk
from durable._journal.sql import QUERIES
from durable.errors import JournalCorruptError

CHUNK, RESET, CLOSED = 1, 2, 3

PAGE_ROWS, PAGE_BYTES = 256, 1024 * 1024

_FROM, _LAST = QUERIES["chunks_from"], QUERIES["last_chunk"]
_RESETS, _FIRST_OF_STEP = QUERIES["resets_after"], QUERIES["first_of_step"]
_COUNT_OF_STEP, _COUNT_FROM_OUTSIDE = QUERIES["count_of_step"], QUERIES["count_from_outside"]
_NEXT_STREAM, _HAS_STREAM = QUERIES["next_stream"], QUERIES["has_stream"]

_Stored = tuple[int, int, int, int, "bytes | None", int]


class StreamKey(NamedTuple):
    """One stream: its run, by both names, and its namespace ("" = the default stream)."""

    pk: int
    run_id: str
    namespace: str


class Chunk(NamedTuple):
    """One row of a stream, its index first; `step` and `attempt` as in schema.sql."""

    place: int
    kind: int
    step: int
    attempt: int
    payload: bytes | None


class Found(NamedTuple):
    """A row as a reader gets it.

    `first` of a RESET is the index of the first chunk that it withdraws, else -1.
    """

    chunk: Chunk
    first: int = -1


class Page(NamedTuple):
    """Some rows in order, withdrawn and closing ones left out.

    `next_index` is where the next page begins. `is_last`: nothing more is there for now;
    `is_closed`: the stream is closed.
    """

    found: list[Found]
    next_index: int
    is_last: bool
    is_closed: bool = False


def chunk_op(key: StreamKey, chunk: Chunk, seals: Seals | None = None) -> RowOp:
    """Return the operation that records a row, once, and only while its run exists.

    Raises:
        JournalError: the journal is sealed, and no key is at hand.
    """
    pk, run_id, namespace = key
    if seals is not None:
        place = place_of_chunk(run_id, namespace, *chunk[:4])
        chunk = chunk._replace(payload=seals.seal(place, chunk.payload))
    return RowOp("insert_chunk", (pk, namespace, *chunk, _checksum(key, *chunk)))


async def read_page(
    reader: Reader,
    key: StreamKey,
    start: int,
    *,
    rows_max: int = PAGE_ROWS,
    bytes_max: int = PAGE_BYTES,
) -> Page:
    """Return what a stream holds from the index `start` on, one page.

    Raises:
        JournalCorruptError: a row is damaged or missing; it is named.
    """
    part = _Part(start, rows_max, bytes_max)
    return await reader.ask(partial(_read_page, key, part, reader.seals))


async def last_row(reader: Reader, key: StreamKey) -> Chunk | None:
    """Return the newest row of a stream, whatever its kind."""
    return await reader.ask(partial(_read_last, key, reader.seals))


async def count_of_step(reader: Reader, key: StreamKey, step: int) -> int:
    """Return how many chunks a step has written to the stream, withdrawn ones included."""
    return await _count(reader, _COUNT_OF_STEP, (key.pk, key.namespace, step))


async def count_from_outside(reader: Reader, key: StreamKey, writer: int) -> int:
    """Return how many chunks of a writer outside of the run are recorded."""
    return await _count(reader, _COUNT_FROM_OUTSIDE, (key.pk, key.namespace, writer))


async def stream_names(reader: Reader, pk: int) -> list[str]:
    """Return the namespaces of a run's streams, sorted; "" is the default stream."""
    return await reader.ask(partial(_names, pk))


def read_streams(pk: int, run_id: str, conn: sqlite3.Connection) -> dict[str, list[Chunk]]:
    """Return all verified rows of a run's streams, by namespace; sealed ones stay so."""
    streams: dict[str, list[Chunk]] = {}
    for name in _names(pk, conn):
        key = StreamKey(pk, run_id, name)
        rows = conn.execute(_FROM, (pk, name, 0, -1)).fetchall()
        streams[name] = [verified(key, place, row) for place, row in enumerate(rows)]
    return streams


def is_sound(run_id: str, stream: str, row: _Stored) -> bool:
    """Tell whether a stored row matches its checksum."""
    return _matches(StreamKey(0, run_id, stream), row, row[-1])


async def _count(reader: Reader, query: str, values: tuple[object, ...]) -> int:
    row: tuple[int] = await reader.ask(lambda conn: conn.execute(query, values).fetchone())
    return row[0]


class _Part(NamedTuple):
    """Which rows of a stream to read: those from a place on, up to whichever limit comes first."""

    start: int
    rows_max: int
    bytes_max: int


def _read_page(key: StreamKey, part: _Part, seals: Seals | None, conn: sqlite3.Connection) -> Page:
    rows, is_last = _fetch(key, part, seals, conn)
    if not rows:
        return Page([], part.start, is_last=True)
    values = (key.pk, key.namespace, part.start)
    resets: dict[int, int] = dict(conn.execute(_RESETS, values).fetchall())
    kept = [row for row in rows if _stands(row, resets)]
    found = [
        Found(row, _first(key, row.step, conn)) if row.kind == RESET else Found(row) for row in kept
    ]
    return Page(found, rows[-1].place + 1, is_last, is_last and rows[-1].kind == CLOSED)


def _stands(row: Chunk, resets: dict[int, int]) -> bool:
    if row.kind == CLOSED:
        return False
    return resets.get(row.step, -1) <= row.place


def _fetch(
    key: StreamKey, part: _Part, seals: Seals | None, conn: sqlite3.Connection
) -> tuple[list[Chunk], bool]:
    """Return verified rows up to the page's limits, and whether these were all."""
    rows: list[Chunk] = []
    size = 0
    # Closed on errors as well: an open one would hold back the -wal as long as the error lives.
    with closing(conn.execute(_FROM, (key.pk, key.namespace, part.start, part.rows_max))) as cursor:
        while size < part.bytes_max:
            stored: _Stored | None = cursor.fetchone()
            if stored is None:
                return rows, len(rows) < part.rows_max
            rows.append(opened_chunk(key, verified(key, part.start + len(rows), stored), seals))
            size += len(stored[4] or b"")
    return rows, False


def _first(key: StreamKey, step: int, conn: sqlite3.Connection) -> int:
    row = conn.execute(_FIRST_OF_STEP, (key.pk, key.namespace, step)).fetchone()
    return -1 if row is None else int(row[0])


def _read_last(key: StreamKey, seals: Seals | None, conn: sqlite3.Connection) -> Chunk | None:
    row: _Stored | None = conn.execute(_LAST, (key.pk, key.namespace)).fetchone()
    return None if row is None else opened_chunk(key, verified(key, row[0], row), seals)


def opened_chunk(key: StreamKey, chunk: Chunk, seals: Seals | None) -> Chunk:
    """Return a row with its payload opened, where the key of its seal is at hand.

    Raises:
        JournalCorruptError: it is not authentic; it is named.
    """
    if seals is None:
        return chunk
    place = place_of_chunk(key.run_id, key.namespace, *chunk[:4])
    try:
        return chunk._replace(payload=seals.open(place, chunk.payload))
    except JournalCorruptError as error:
        what = f"chunk {chunk.place} of stream {key.namespace!r} of run {key.run_id}"
        raise not_authentic(what, error) from None


def _names(pk: int, conn: sqlite3.Connection) -> list[str]:
    names: list[str] = []
    (has_default,) = conn.execute(_HAS_STREAM, (pk, "")).fetchone()
    if has_default:
        names.append("")
    (name,) = conn.execute(_NEXT_STREAM, (pk, "")).fetchone()
    while name is not None:
        if not isinstance(name, str) or not name.isprintable():
            raise JournalCorruptError(f"{name!r} is no name of a stream: {CURE}")
        names.append(name)
        (name,) = conn.execute(_NEXT_STREAM, (pk, name)).fetchone()
    return names


def verified(key: StreamKey, place: int, row: _Stored) -> Chunk:
    """Return a stored row, whose index has to be `place`; it is not opened.

    Raises:
        JournalCorruptError: it has another one, or does not match its checksum.
    """
    index, kind, step, attempt, payload, crc = row
    if index != place:
        raise JournalCorruptError(
            f"stream {key.namespace!r} of run {key.run_id} lacks chunk {place} (the next one is "
            f"{index}): restore the journal from a backup"
        )
    if not _matches(key, row, crc):
        raise JournalCorruptError(
            f"chunk {index} of stream {key.namespace!r} of run {key.run_id} does not match its "
            "checksum: the disk or another program changed it; restore the journal from a backup"
        )
    return Chunk(index, kind, step, attempt, payload)


def _matches(key: StreamKey, row: _Stored, crc: int) -> bool:
    try:
        return _checksum(key, *row[:5]) == crc
    except (TypeError, ValueError):
        return False  # a flipped bit may change a column's type, too


def _checksum(
    key: StreamKey, index: int, kind: int, step: int, attempt: int, payload: bytes | None
) -> int:
    head = f"{key.run_id}|{key.namespace}|{index}|{kind:d}|{step}|{attempt}"
    return crc32(payload or b"", crc32(head.encode()))
