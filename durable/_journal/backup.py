"""Copying a journal while it is being worked on, and looking at the copy before it counts.

Owns the way of a backup: a snapshot is copied page by page on a connection and a thread of
its own, so that neither the writer nor the host's loop waits; the copy is checked whole (the
file's structure, every event's checksum and place); only then is it given its name. Until
that it is a draft, which any failure removes.

The snapshot keeps the -wal from being emptied, so that the journal's files grow while it is
copied. The copy counts as one whose owner died: what was in flight runs again there.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from durable._journal.checksum import checksum_of_run, intact
from durable._journal.chunks import is_sound
from durable._journal.database import prepare_reader
from durable._journal.driver import DriverFactory
from durable._journal.files import (
    JournalFiles,
    new_draft,
    put_in_place,
    refuse_existing,
    sync_and_close,
)
from durable._journal.high_water import forget_mark
from durable._journal.migrations import check_integrity
from durable._journal.sql import QUERIES
from durable.errors import BackupError, JournalCorruptError

T = TypeVar("T")

_PAGES_AT_ONCE = 512
_ROWS_AT_ONCE = 500
_ALL_EVENTS, _ALL_CHUNKS = QUERIES["all_events"], QUERIES["all_chunks"]
_BARE_RUN, _COUNT_RUNS = QUERIES["run_without_events"], QUERIES["count_runs"]


@dataclass(frozen=True, slots=True)
class Backup:
    """A good copy of a journal.

    Attributes:
        path: where it lies.
        runs, events: how many it holds; every event and chunk has been checked.
        bytes: its size.

    Example:
        ``print((await backup("app-monday.db")).runs)``
    """

    path: str
    runs: int
    events: int
    bytes: int


class Stop:
    """Ends the copying of a backup from another thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """Let the copying end at the next page."""
        self._asked.set()

    def check(self, *progress: int) -> None:
        """Raise if it is to end."""
        if self._asked.is_set():
            raise BackupError("the backup was called off: the journal is being closed")


class _Place(NamedTuple):
    """The event looked at last, and how many there were so far."""

    run: int = 0
    seq: int = 0
    seen: int = 0


_ChunkPlace = tuple[int, str, int]  # run, stream and index of the chunk looked at last


async def back_up(
    files: JournalFiles,
    drivers: DriverFactory,
    target: str | os.PathLike[str],
    *,
    overwrite: bool,
    stop: Stop,
) -> Backup:
    """Copy the journal to `target`; return when the copy is checked and durable.

    Raises:
        FileExistsError: `target` exists, and `overwrite` is False.
        BackupError: it could not be made, or is not good; nothing is left of it.
    """
    path = os.path.realpath(os.fspath(target))
    _refuse_place(files, path)
    refuse_existing(path, overwrite=overwrite)
    draft: str | None = None
    try:
        draft, descriptor = new_draft(path)
        os.close(descriptor)
        await _with(drivers, files.uri("ro"), partial(_copy, draft, files.path, stop))
        runs, events = await _check(drivers, draft, stop)
        await asyncio.to_thread(_give_name, draft, path, overwrite=overwrite)
        forget_mark(path)  # of what lay there before: this is no older copy of it
    except FileExistsError:
        raise
    except (sqlite3.Error, OSError, JournalCorruptError) as error:
        raise BackupError(f"the backup {path} could not be made: {error}") from error
    finally:
        stop.ask()
        if draft is not None:
            with suppress(OSError):
                os.unlink(draft)
    return Backup(path, runs, events, os.stat(path).st_size)


def _refuse_place(files: JournalFiles, path: str) -> None:
    if path.startswith(files.path) and path[len(files.path) :] in {
        "", "-wal", "-shm", "-journal", ".reserve", ".lock", ".mark",
    }:  # fmt: skip
        raise BackupError(f"{path} belongs to the journal itself: choose another path")
    for left in (f"{path}-wal", f"{path}-journal"):
        if os.path.exists(left):
            raise BackupError(
                f"{path} cannot be overwritten: beside it lies {left}, so it is a journal that is "
                "open, or was not closed in order; choose another path"
            )


def _give_name(draft: str, path: str, *, overwrite: bool) -> None:
    """Make a good copy durable, which may take a while, and the backup."""
    sync_and_close(os.open(draft, os.O_RDWR | os.O_CLOEXEC))
    put_in_place(draft, path, overwrite=overwrite)


async def _with(drivers: DriverFactory, uri: str, fn: Callable[[sqlite3.Connection], T]) -> T:
    """Run `fn` on a connection of its own."""
    driver = drivers(uri, True)
    await driver.open()
    try:
        return await driver.call(fn)
    finally:
        await driver.close()  # after `fn`, also where nobody waits for it any more


def _copy(draft: str, path: str, stop: Stop, conn: sqlite3.Connection) -> None:
    prepare_reader(conn, path)
    # One snapshot for all pages: without it, each write meanwhile begins the copying anew.
    conn.execute("BEGIN")
    conn.execute(_COUNT_RUNS).fetchone()
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        # Not worth a thing before it is whole; then it is synced at once.
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        conn.backup(copy, pages=_PAGES_AT_ONCE, progress=stop.check, sleep=0)
    conn.execute("ROLLBACK")


# --- looking at the copy --------------------------------------------------------------------


async def _check(drivers: DriverFactory, draft: str, stop: Stop) -> tuple[int, int]:
    """Look at all of a copy, a piece at a time; return how many runs and events it has."""
    uri = f"file:{quote(os.fsencode(draft))}?mode=ro&immutable=1"
    driver = drivers(uri, True)
    await driver.open()
    try:
        runs = await driver.call(partial(_check_file, draft))
        place = _Place()
        while (after := await driver.call(partial(_check_events, place))) is not None:
            place = after
            stop.check()
        chunk: _ChunkPlace | None = (0, "", -1)
        while chunk is not None:
            chunk = await driver.call(partial(_check_chunks, chunk))
            stop.check()
        return runs, place.seen
    finally:
        await driver.close()


def check_copy(name: str, conn: sqlite3.Connection) -> tuple[int, int]:
    """Look at all of a copy; return how many runs and events it has.

    Args:
        name: of the file, for what is raised.
        conn: reads the copy, which nobody else has open.

    Raises:
        JournalError, sqlite3.Error: it is not whole, or no journal of this version.
    """
    runs, place = _check_file(name, conn), _Place()
    while (after := _check_events(place, conn)) is not None:
        place = after
    chunk: _ChunkPlace | None = (0, "", -1)
    while chunk is not None:
        chunk = _check_chunks(chunk, conn)
    return runs, place.seen


def _check_file(draft: str, conn: sqlite3.Connection) -> int:
    prepare_reader(conn, draft)
    check_integrity(conn, draft)
    bare = conn.execute(_BARE_RUN).fetchone()
    if bare is not None:
        raise JournalCorruptError(f"run {bare[0]} has no history")
    (runs,) = conn.execute(_COUNT_RUNS).fetchone()
    return int(runs)


def _check_events(place: _Place, conn: sqlite3.Connection) -> _Place | None:
    """Look at the next events behind a place; None when there are none."""
    rows = conn.execute(_ALL_EVENTS, (*place[:2], _ROWS_AT_ONCE)).fetchall()
    for run, run_id, is_trash, *event in rows:
        seq = event[0]
        if not is_trash:
            if run_id is None:
                raise JournalCorruptError(f"there are events of run key {run}, which is no run")
            if seq != (place.seq + 1 if run == place.run else 1):
                raise JournalCorruptError(f"event {seq} of run {run_id} is not in its place")
            if not intact(checksum_of_run(run_id), seq, [tuple(event)]):
                raise JournalCorruptError(f"event {seq} of run {run_id} is damaged")
        place = _Place(run, seq, place.seen + (not is_trash))
    return place if rows else None


def _check_chunks(place: _ChunkPlace, conn: sqlite3.Connection) -> _ChunkPlace | None:
    """Look at the next rows of streams behind a place; None when there are none."""
    rows = conn.execute(_ALL_CHUNKS, (*place, _ROWS_AT_ONCE)).fetchall()
    for run, stream, run_id, is_trash, *row in rows:
        index = row[0]
        if not is_trash:
            name = f"chunk {index} of stream {stream!r} of run {run_id or run}"
            if run_id is None or index != (place[2] + 1 if (run, stream) == place[:2] else 0):
                raise JournalCorruptError(f"{name} is not in its place")
            if not is_sound(run_id, stream, tuple(row)):
                raise JournalCorruptError(f"{name} is damaged")
        place = (run, stream, index)
    return place if rows else None
