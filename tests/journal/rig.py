"""What the journal's tests share: small writes, and a driver whose disk misbehaves.

`Plan` decides which statements fail and how; `shaky(plan)` is a driver factory whose
writing connection asks the plan before every statement. Reading is left alone.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from durable._base.clock import SystemClock
from durable._journal.driver import DriverFactory, ThreadDriver
from durable._journal.journal import Journal
from durable._journal.records import RunEvent, RunRow, RunState, Write
from durable._replay.events import Event, EventKind


def run_row(pk, run_id, **changes):
    """A pending run."""
    values = dict.fromkeys(RunRow._fields)
    values |= {"pk": pk, "run_id": run_id, "workflow": "w", "status": "pending"}
    values |= {"created_at": 1, "behaviour": 0}
    return RunRow(**{**values, **changes})


def event(pk, run_id, seq, payload=b"x", kind=EventKind.STEP_CREATED):
    """An event of a run."""
    return RunEvent(pk, run_id, Event(seq, kind, 0, "charge", 1_000 + seq, None, payload))


def state(pk, status="running", wake_at=None, expires_at=None):
    """A state of a run."""
    return RunState(status, 1, None, wake_at, expires_at, None, pk)


def ignore(error):
    """A `done` callback."""
    del error


def write(*, runs=(), events=(), states=(), vital=False, done=ignore, **more):
    """A write of these rows."""
    return Write(
        done, runs=list(runs), events=list(events), states=list(states), vital=vital, **more
    )


def new_run(journal, run_id, events=1, **changes):
    """Return (pk, write) that records a run with some events."""
    pk = journal.next_pk()
    vital = changes.pop("vital", False)
    rows = [event(pk, run_id, seq) for seq in range(1, events + 1)]
    return pk, write(runs=[run_row(pk, run_id, **changes)], events=rows, vital=vital)


@asynccontextmanager
async def open_journal(path: Path | str, *, clock=None, **options):
    """An open journal, closed afterwards."""
    journal = await Journal.open(path, clock=clock or SystemClock(), **options)
    try:
        yield journal
    finally:
        await journal.close()


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until something holds."""
    for _ in range(1_000_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


def outside(path, query, *parameters):
    """What another program sees in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query, parameters).fetchall()
    finally:
        connection.close()


def disk_error(code: int, text: str = "made by a test") -> sqlite3.OperationalError:
    """An error as SQLite raises it."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


def full() -> sqlite3.OperationalError:
    """The disk is full."""
    return disk_error(sqlite3.SQLITE_FULL)


def broken_sync() -> sqlite3.OperationalError:
    """An fsync failed."""
    return disk_error(sqlite3.SQLITE_IOERR | 4 << 8)


@dataclass
class Plan:
    """Which statements of the writing connection fail, how often, and when."""

    start: str = "COMMIT"
    error: Callable[[], BaseException] = full
    times: int = 0
    landed: bool = False  # the statement takes effect, and raises all the same
    connects: int = 0  # this many attempts to connect again fail
    seen: list[str] = field(default_factory=list)
    met: int = 0

    def watch(self, statement: str, run: Callable[[], object]) -> object:
        """Run a statement as planned."""
        self.seen.append(statement)
        if not self.times or not statement.startswith(self.start):
            return run()
        self.times -= 1
        self.met += 1
        if self.landed:
            run()
        raise self.error()


class ShakyConnection:
    """A connection that asks a plan first."""

    def __init__(self, real: sqlite3.Connection, plan: Plan) -> None:
        self._real, self._plan = real, plan

    def execute(self, sql, parameters=()):
        """Run one statement."""
        return self._plan.watch(sql, lambda: self._real.execute(sql, parameters))

    @property
    def in_transaction(self):
        """Whether a transaction is open."""
        return self._real.in_transaction

    def executemany(self, sql, rows):
        """Run one statement for many rows."""
        return self._plan.watch(sql, lambda: self._real.executemany(sql, rows))

    def executescript(self, script):
        """Run a script."""
        return self._plan.watch(script, lambda: self._real.executescript(script))

    def close(self):
        """Close the connection."""
        self._real.close()


class ShakyDriver(ThreadDriver):
    """A thread driver for writing, on a disk that follows a plan."""

    def __init__(self, uri, read_only, plan):
        super().__init__(uri, read_only)
        self._plan = None if read_only else plan

    def submit(self, fn, done):
        """Run `fn` on the shaky connection."""
        super().submit(self._shaken(fn), done)

    async def call(self, fn):
        """Run `fn` on the shaky connection."""
        return await super().call(self._shaken(fn))

    def reopen(self, done):
        """Connect again, unless the plan says no."""
        if self._plan is not None and self._plan.connects:
            self._plan.connects -= 1
            error = disk_error(sqlite3.SQLITE_CANTOPEN)
            asyncio.get_running_loop().call_soon(done, error)
            return
        super().reopen(done)

    def _shaken(self, fn):
        if self._plan is None:
            return fn
        return lambda connection: fn(ShakyConnection(connection, self._plan))


def shaky(plan: Plan) -> DriverFactory:
    """A driver factory for `Journal.open`."""
    return lambda uri, read_only: ShakyDriver(uri, read_only, plan)
