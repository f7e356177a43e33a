"""The disk under a simulated runtime: real SQLite, whose statements are slow or fail on demand.

A `Disk` makes the drivers of a runtime: the product's `InlineDriver` on connections that ask
here before each statement. What fails is drawn beforehand as `Trouble`, by the number of the
statement. A COMMIT has two ways to fail: with nothing on disk, or with everything there.
After each COMMIT that took place, `committed` is called, before anybody can act on it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal

from durable._base.clock import Clock
from durable._journal.driver import InlineDriver

Kind = Literal["io error", "disk full", "busy", "unknown commit", "lost commit", "short read"]

_CODES: dict[str, tuple[int, str]] = {
    "io error": (sqlite3.SQLITE_IOERR, "disk I/O error"),
    "disk full": (sqlite3.SQLITE_FULL, "database or disk is full"),
    "busy": (sqlite3.SQLITE_BUSY, "database is locked"),
    "unknown commit": (sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error"),
    "lost commit": (sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error"),
    "short read": (sqlite3.SQLITE_IOERR_SHORT_READ, "disk I/O error"),
}
KINDS = frozenset(_CODES)
_execute, _executemany = sqlite3.Connection.execute, sqlite3.Connection.executemany


@dataclass
class Trouble:
    """What goes wrong: `kind`, from the `at`th statement on, for `length` statements."""

    kind: Kind
    at: int
    length: int = 1
    reads: bool = False  # of the reading connection, instead of the writing one


class Disk:
    """See the module's docstring.

    Args:
        clock: what slow statements wait on.
        random: draws latencies.
        slowness: typical seconds between a function on a connection and its outcome.
        committed: called with the connection after each COMMIT.
        note: told what went wrong, by kind.
    """

    def __init__(
        self,
        clock: Clock,
        random: Random,
        slowness: float,
        committed: Callable[[sqlite3.Connection], None],
        note: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._random = random
        self._committed = committed
        self._note = note
        self.slowness = slowness
        self.stalls = 0.0  # share of outcomes that take seconds
        self.trouble: dict[bool, Trouble | None] = {True: None, False: None}
        self.before_commit: Callable[[], None] = _nothing
        self.connections: list[sqlite3.Connection] = []
        self.works = True  # False in the middle of nowhere: nothing is done any more

    def __call__(self, uri: str, read_only: bool) -> InlineDriver:
        return _SimDriver(uri, read_only, self)

    def latency(self) -> float:
        """Draw the time until an outcome is known."""
        if self.stalls and self._random.random() < self.stalls:
            self._note("slow disk")
            return self._random.uniform(1, 20)
        return self._random.random() * self.slowness

    def fail(self, trouble: Trouble | None, *, reads: bool = False) -> None:
        """Let things go wrong as told, from now on; None: let them go right."""
        self.trouble[reads] = trouble

    def ask(self, reads: bool, sql: str) -> sqlite3.OperationalError | None:
        """Return what the statement fails with, or None."""
        trouble = self.trouble[reads]
        if trouble is None or sql == "ROLLBACK":
            return None
        trouble.at -= 1
        if trouble.at > 0:
            return None
        is_commit = sql == "COMMIT"
        if trouble.kind in {"unknown commit", "lost commit"} and not is_commit:
            return None
        trouble.length -= 1
        if trouble.length <= 0:
            self.trouble[reads] = None
        self._note(trouble.kind)
        return _error(trouble.kind)

    def commit(self, connection: sqlite3.Connection, reads: bool) -> sqlite3.Cursor:
        """Perform a COMMIT, or fail with or without having performed it."""
        self.before_commit()
        trouble = self.trouble[reads]
        error = self.ask(reads, "COMMIT")
        if error is not None and trouble is not None and trouble.kind != "unknown commit":
            _execute(connection, "ROLLBACK")
            raise error
        cursor = _execute(connection, "COMMIT")
        self._committed(connection)
        if error is not None:
            raise error
        return cursor


def _nothing() -> None:
    """Do nothing."""


def _error(kind: str) -> sqlite3.OperationalError:
    code, text = _CODES[kind]
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class _SimConnection(sqlite3.Connection):
    disk: Disk
    reads: bool

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and not self.reads:
            return self.disk.commit(self, self.reads)
        if self.disk.trouble[self.reads] is not None and (error := self.disk.ask(self.reads, sql)):
            raise error
        return _execute(self, sql, *parameters)

    def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if self.disk.trouble[self.reads] is not None and (error := self.disk.ask(self.reads, sql)):
            raise error
        return _executemany(self, sql, *parameters)


class _SimDriver(InlineDriver):
    def __init__(self, uri: str, read_only: bool, disk: Disk) -> None:
        super().__init__(uri, read_only, clock=disk._clock, latency=disk.latency)
        self._reads = read_only
        self._disk = disk

    def _connect_again(self) -> None:
        self._disconnect()
        trouble = self._disk.trouble[self._reads]
        if (
            trouble is not None
            and trouble.length > 2
            and (error := self._disk.ask(self._reads, "connect"))
        ):
            raise error
        factory = partial(_SimConnection)
        connection = sqlite3.connect(
            self._uri, uri=True, isolation_level=None, check_same_thread=False,
            cached_statements=256, factory=factory,
        )  # fmt: skip
        connection.disk, connection.reads = self._disk, self._reads  # type: ignore[attr-defined]
        self._disk.connections.append(connection)
        self._connection = connection
