"""When a batch is performed on the loop's own thread, and what the connection needs then.

Waking the journal's thread and being woken by it costs several times what a small COMMIT
costs that need not reach the disk (`durability="process"`). So a small batch that finds the
thread at rest is performed where it is. Nothing may then wait for a lock, for a flush or
for a checkpoint: a connection in haste does not wait for other programs and does not
checkpoint by itself, and after so many batches one goes to the thread again, which may. The
next one goes there, too: after a checkpoint the -wal begins anew, with a flush.

It does not know what a batch does. Only one thread uses the connection at any time; that is
the writer's to see to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from durable._journal.database import BUSY_MS, WAL_PAGES
from durable._journal.records import Write

ROWS_MAX = 8
BYTES_MAX = 16 * 1024
IN_A_ROW_MAX = 256
_ON_THREAD_MIN = 2


class Shortcut:
    """See the module's docstring. `usable` is False where every batch must go to the thread."""

    def __init__(self, *, usable: bool) -> None:
        self._usable = usable
        self._hasty = False
        self._here = 0
        self._on_thread = 0

    def suits(self, rows: int, writes: Iterable[Write]) -> bool:
        """Tell whether a batch may be performed on the loop's thread."""
        if not self._usable or rows > ROWS_MAX:
            return False
        if self._on_thread < _ON_THREAD_MIN or self._here >= IN_A_ROW_MAX:
            return False
        return sum(map(_size, writes)) <= BYTES_MAX

    def prepare(self, conn: sqlite3.Connection, *, here: bool) -> None:
        """Set the connection up for a batch on the loop's thread, or on its own."""
        if here != self._hasty:
            self._hasty = here
            conn.execute(f"PRAGMA busy_timeout = {0 if here else BUSY_MS}")
            conn.execute(f"PRAGMA wal_autocheckpoint = {0 if here else WAL_PAGES}")
        if here:
            self._here += 1
            return
        self._on_thread = 1 if self._here else self._on_thread + 1
        self._here = 0

    def forget(self) -> None:
        """Note that the connection is a new one."""
        self._hasty = False
        self._here = self._on_thread = 0


def _size(write: Write) -> int:
    if write.ops:
        return BYTES_MAX + 1  # their values may be of any size
    size = sum(len(event.payload or b"") for _, _, event in write.events)
    if write.turn is not None:
        size += sum(len(event.payload or b"") for event in write.turn[2])
    return size
