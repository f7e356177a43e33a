"""A disk that fails on demand, for tests: drivers that perform, refuse, or do both.

Owns `FaultyDisk`, which makes the drivers of a journal that works on the loop. While it fails,
what writes to the journal gets the error that SQLite gives for it, and so do connections that
are opened anew; reading goes on. The journal looks after itself as it does on a real disk.

A fault is of a whole batch, before its first statement or behind its COMMIT. What half-written
files come to is a matter of SQLite and of other tests.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

from durable._journal.driver import InlineDriver
from durable._journal.faults import UnknownOutcomeError

T = TypeVar("T")
Fault = Literal["full", "io error", "unknown"]

_ERRORS: dict[Fault, tuple[int, str]] = {
    "full": (sqlite3.SQLITE_FULL, "database or disk is full"),
    "io error": (sqlite3.SQLITE_IOERR, "disk I/O error"),
    "unknown": (sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error"),
}


class FaultyDisk:
    """The disk under a `VirtualRuntime`, which fails when it is told to.

    Attributes:
        failures: how often it has failed so far.

    Example:
        ``runtime.disk.fail("full"); ...; runtime.disk.heal()``
    """

    def __init__(self) -> None:
        self.failures = 0
        self._fault: Fault | None = None
        self._left: int | None = None

    def fail(self, fault: Fault = "io error", times: int | None = None) -> None:
        """Fail from now on, at each attempt to write.

        Args:
            fault: ``"full"`` and ``"io error"`` leave nothing behind. After ``"unknown"`` what
                was to be written is there, though it was reported as failed: as when a disk
                loses its voice behind the last byte. The journal finds out.
            times: how often. Default: until `heal` is called.

        Raises:
            ValueError: there is no such fault, or `times` is less than 1.
        """
        if fault not in _ERRORS:
            raise ValueError(f"fault={fault!r} is unknown: use one of {get_args(Fault)}")
        if times is not None and times < 1:
            raise ValueError(f"times={times!r}: a disk fails at least once, or leave it out")
        self._fault, self._left = fault, times

    def heal(self) -> None:
        """Work again. Runs go on by themselves, after up to a minute of the clock."""
        self._fault = None

    def driver(self, uri: str, read_only: bool) -> InlineDriver:
        """Return a driver on this disk; given to a runtime as its `driver`."""
        return _Driver(uri, read_only, self)

    def _strike(self) -> tuple[Fault, sqlite3.Error] | None:
        """Return what the next attempt to write comes to, None if it works."""
        fault = self._fault
        if fault is None:
            return None
        self.failures += 1
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self._fault = None
        code, text = _ERRORS[fault]
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        return fault, error


class _Driver(InlineDriver):
    def __init__(self, uri: str, read_only: bool, disk: FaultyDisk) -> None:
        super().__init__(uri, read_only)
        self._disk = disk
        self._writes = not read_only

    def _on_connection(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        struck = self._disk._strike() if self._writes else None
        if struck is None:
            return super()._on_connection(fn)
        fault, error = struck
        if fault == "unknown":
            super()._on_connection(fn)
            raise UnknownOutcomeError(str(error)) from error
        raise error
