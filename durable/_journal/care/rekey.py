"""Giving all rows of a journal another seal: with another key, or their first one.

Owns the way through the events and chunks, a few rows per transaction. Each row tells by
itself which key it has, so the work can be cut off anywhere and begun again. A journal that
gets its first seals is marked meanwhile, and no runtime opens it.

Every row is opened before it is sealed anew, so that nothing forged becomes authentic. Rows
without a seal are taken only if that is asked for. At the end the file is written anew,
because the old rows remain in its free pages.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import NamedTuple

from durable._journal.checksum import checksum, checksum_of_run
from durable._journal.chunks import StreamKey, chunk_op, opened_chunk
from durable._journal.chunks import verified as verified_chunk
from durable._journal.database import finish, prepare, read_meta, transact, truncate_wal
from durable._journal.driver import Driver, DriverFactory
from durable._journal.faults import translate
from durable._journal.files import JournalFiles
from durable._journal.high_water import forget_mark
from durable._journal.histories import verified
from durable._journal.keys import KeyRing
from durable._journal.row_checksums import meta_sum, request_sum
from durable._journal.sealing import mode_of, note_key, seal_id
from durable._journal.seals import Seals, is_legible, is_sealed
from durable._journal.sql import QUERIES
from durable.errors import JournalError

_ROWS_AT_ONCE = 500
_SET_META, _DELETE_META = QUERIES["set_meta"], QUERIES["delete_meta"]
_ALL_EVENTS, _ALL_CHUNKS = QUERIES["all_events"], QUERIES["all_chunks"]
_EVENT, _CHUNK = QUERIES["reseal_event"], QUERIES["reseal_chunk"]
_REQUESTS, _FORGET_REASON = QUERIES["requests"], QUERIES["forget_reason"]


class Resealed(NamedTuple):
    """How many rows were given another seal, and how many had the right one."""

    sealed: int = 0
    kept: int = 0

    def plus(self, other: Resealed) -> Resealed:
        """Return the sums."""
        return Resealed(self.sealed + other.sealed, self.kept + other.kept)


class _Work(NamedTuple):
    """The seals as they are to be, and whether rows without one are taken."""

    seals: Seals
    takes_plain: bool

    def opens(self, payload: bytes | None) -> Seals | None:
        """Return what opens a row; None for one that is taken as it is."""
        return None if self.takes_plain and not is_sealed(payload) else self.seals


_EventPlace = tuple[int, int]
_ChunkPlace = tuple[int, str, int]


async def reseal(
    files: JournalFiles, drivers: DriverFactory, ring: KeyRing, now_us: int, *, takes_plain: bool
) -> Resealed:
    """Seal all rows of a journal with the newest key of `ring`; the older ones open them.

    Args:
        files: of the journal; the caller holds its owner lock.
        drivers: makes the driver.
        ring: the keys.
        now_us: the time (UTC microseconds).
        takes_plain: rows without a seal are sealed, too.

    Raises:
        JournalCorruptError: a row is damaged or not authentic. PayloadDecodeError: its key is
            not among these. JournalError: the journal is not sealed, or cannot be written.
            What was done stays done, and is not done again.
    """
    driver = drivers(files.uri("rw"), False)
    try:
        await driver.open()
        boot = await driver.call(lambda conn: prepare(conn, files, "full", now_us))
        forget_mark(files.path)  # the event that it names is about to look otherwise
        seals = await driver.call(partial(_begin, files.path, ring, takes_plain))
        done = await _all_rows(driver, _Work(seals, takes_plain))
        await driver.call(partial(_end, files.path, ring))
        await driver.call(partial(_leave, boot.clean))
    except sqlite3.Error as error:
        raise translate(error, files.path, "writing to") from error
    finally:
        await driver.close()
    return done


async def _all_rows(driver: Driver, work: _Work) -> Resealed:
    done = Resealed()
    event: _EventPlace | None = (0, 0)
    while event is not None:
        event, more = await driver.call(partial(_some_events, work, event))
        done = done.plus(more)
    chunk: _ChunkPlace | None = (0, "", -1)
    while chunk is not None:
        chunk, more = await driver.call(partial(_some_chunks, work, chunk))
        done = done.plus(more)
    return done


def _begin(path: str, ring: KeyRing, takes_plain: bool, conn: sqlite3.Connection) -> Seals:
    meta = read_meta(conn, path)
    if mode_of(meta) is None and "resealing" not in meta and not takes_plain:
        raise JournalError(
            f"the journal {path} is not sealed: `durable rekey --from-plain` seals it, trusting "
            "whatever it holds now"
        )
    if mode_of(meta) is None:
        transact(conn, lambda: conn.execute(_SET_META, ("resealing", 1, meta_sum("resealing", 1))))
    return Seals(ring, seal_id(meta))


def _end(path: str, ring: KeyRing, conn: sqlite3.Connection) -> None:
    transact(conn, lambda: _forget_reasons(conn))
    conn.execute("VACUUM")
    truncate_wal(conn)
    transact(conn, lambda: _unmark(path, ring, conn))


def _leave(clean: bool, conn: sqlite3.Connection) -> None:
    finish(conn, clean)


def _unmark(path: str, ring: KeyRing, conn: sqlite3.Connection) -> None:
    conn.execute(_DELETE_META, ("resealing",))
    note_key(conn, path, ring)


def _forget_reasons(conn: sqlite3.Connection) -> None:
    """Take the reasons from requests: short texts, of an older key or of none."""
    found = conn.execute(_REQUESTS).fetchall()
    for run, kind, seq, payload, _ in found:
        if payload is not None:
            conn.execute(_FORGET_REASON, (request_sum(run, kind, seq, None), run, kind))


def _some_events(
    work: _Work, after: _EventPlace, conn: sqlite3.Connection
) -> tuple[_EventPlace | None, Resealed]:
    rows = conn.execute(_ALL_EVENTS, (*after, _ROWS_AT_ONCE)).fetchall()
    news: list[tuple[object, ...]] = []
    for run, run_id, is_trash, *stored in rows:
        if is_trash or run_id is None:
            continue
        seed = checksum_of_run(run_id)
        event = verified(run_id, seed, stored[0], tuple(stored))
        if work.seals.is_newest(event.payload, legible=is_legible(event.kind)):
            continue
        if (opens := work.opens(event.payload)) is not None:
            event = opens.open_event(run_id, event)
        event = work.seals.seal_event(run_id, event)
        news.append((event.payload, checksum(seed, event), run, event.seq))
    transact(conn, lambda: conn.executemany(_EVENT, news))
    last = (rows[-1][0], rows[-1][3]) if rows else None
    return last, Resealed(len(news), len(rows) - len(news))


def _some_chunks(
    work: _Work, after: _ChunkPlace, conn: sqlite3.Connection
) -> tuple[_ChunkPlace | None, Resealed]:
    rows = conn.execute(_ALL_CHUNKS, (*after, _ROWS_AT_ONCE)).fetchall()
    news: list[tuple[object, ...]] = []
    for run, stream, run_id, is_trash, *stored in rows:
        if is_trash or run_id is None:
            continue
        key = StreamKey(run, run_id, stream)
        chunk = verified_chunk(key, stored[0], tuple(stored))
        if work.seals.is_newest(chunk.payload):
            continue
        chunk = opened_chunk(key, chunk, work.opens(chunk.payload))
        *_, payload, crc = chunk_op(key, chunk, work.seals).values
        news.append((payload, crc, run, stream, chunk.place))
    transact(conn, lambda: conn.executemany(_CHUNK, news))
    last = (rows[-1][0], rows[-1][1], rows[-1][4]) if rows else None
    return last, Resealed(len(news), len(rows) - len(news))
