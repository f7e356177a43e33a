"""Drivers: how functions get to an SQLite connection, one after the other.

A driver owns one connection and runs functions on it in order. Nothing is awaited
while a function runs, so no cancelled waiter can leave a transaction half done, and
a closed loop cannot kill the thread: the outcome is then dropped, the work is not.
`ThreadDriver` is for production (a daemon thread of aiosqlite), `InlineDriver` runs
the same SQL on the loop for simulations. Drivers know no table and no statement.

aiosqlite's own futures are avoided on purpose: closing their loop with work queued
stops the thread, and an unclosed connection would keep the interpreter from exiting.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import os
import sqlite3
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import aiosqlite
from aiosqlite.core import _STOP_RUNNING_SENTINEL

from durable._base.clock import Clock
from durable._journal import forkguard
from durable._journal.faults import UnknownOutcomeError
from durable.errors import ForkedJournalError, JournalError

T = TypeVar("T")
Done = Callable[[T | None, BaseException | None], None]

# How long interpreter exit waits, in all, for threads to finish what they are writing.
_EXIT_SECONDS = 0.5
_CACHED_STATEMENTS = 256


class Driver(Protocol):
    """One connection and the place where functions run on it, in order.

    Attributes:
        has_thread: whether that place is a thread of its own.
    """

    has_thread: bool

    async def open(self) -> None:
        """Connect. Raises `sqlite3.Error` when that fails."""

    def submit(self, fn: Callable[[sqlite3.Connection], T], done: Done[T]) -> None:
        """Run `fn(connection)`, then call `done(result, error)` on the loop."""

    async def call(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn(connection)` and return its result; cancelling does not stop `fn`."""

    def run_here(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn(connection)` on the calling thread. Nothing may be queued or running."""

    def release(self, done: Callable[[BaseException | None], None]) -> None:
        """Close the connection but stay usable: `reopen` connects again."""

    def reopen(self, done: Callable[[BaseException | None], None]) -> None:
        """Close the connection if there is one, and connect again."""

    async def close(self) -> None:
        """Finish what was submitted, close the connection, stop. Twice is fine."""

    def abandon(self) -> None:
        """Like `close`, without waiting for anything: the process is going down."""

    def wait_stopped(self, seconds: float) -> bool:
        """Wait at most `seconds` after `abandon`; tell whether nothing runs any more."""


DriverFactory = Callable[[str, bool], Driver]


def connect(uri: str) -> sqlite3.Connection:
    """Connect in autocommit mode: transactions are only ever begun explicitly."""
    conn = sqlite3.connect(
        uri,
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_CACHED_STATEMENTS,
    )
    if uri.endswith("mode=ro"):  # who only reads has no business with other files
        conn.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    return conn


def _unconnected() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("the connection is closed")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    return error


class ThreadDriver(aiosqlite.Connection):
    """Runs functions on a daemon thread, which never holds up interpreter exit.

    Args:
        uri: a `file:` URI.
        read_only: for information only; the URI's mode decides.
    """

    has_thread = True

    def __init__(self, uri: str, read_only: bool) -> None:
        super().__init__(partial(connect, uri), iter_chunk_size=64)
        self._thread.daemon = True
        self._thread.name = "durable-reader" if read_only else "durable-writer"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forked = False
        self._quiet = forkguard.quiet_lock()
        _live.add(self)

    async def open(self) -> None:
        """Start the thread and connect."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        try:
            await self._ask(self._connect_again)
        except BaseException:
            self.abandon()
            raise

    def submit(self, fn: Callable[[sqlite3.Connection], T], done: Done[T]) -> None:
        """Run `fn(connection)` on the thread, then `done(result, error)` on the loop."""
        self._enqueue(partial(self._on_connection, fn), done)

    async def call(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn(connection)` on the thread and return its result."""
        return await self._ask(partial(self._on_connection, fn))

    def run_here(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn(connection)` on the calling thread, while ours has nothing to do."""
        self._require_usable()
        with self._quiet:
            return self._on_connection(fn)

    def release(self, done: Callable[[BaseException | None], None]) -> None:
        """Close the connection; the thread stays."""
        self._enqueue(self._disconnect, lambda _, error: done(error))

    def reopen(self, done: Callable[[BaseException | None], None]) -> None:
        """Close the connection and open another one on the same thread."""
        self._enqueue(self._connect_again, lambda _, error: done(error))

    async def close(self) -> None:
        """Finish the queue, close the connection and end the thread."""
        if not self._running or self._forked:
            return
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop(lambda _, error: _settle(finished, None, error))
        await finished

    def abandon(self) -> None:
        """Let the thread finish its queue and close; wait for nothing."""
        if self._running and not self._forked:
            self._stop(None)

    def __del__(self) -> None:
        # Not aiosqlite's: a journal left open is legal (promise: nothing is lost, no noise).
        if self._connection is not None:
            self.abandon()

    def disown(self) -> None:
        """In a forked child: make sure that the inherited connection is never touched."""
        self._forked = True
        if self._connection is not None:
            # SQLite forbids even closing a connection inherited over a fork, so the
            # child must never run its destructor.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))

    def wait_stopped(self, seconds: float) -> bool:
        """Wait at most `seconds` for the thread to end, and tell whether it has."""
        if self._thread.is_alive() and not self._forked:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _require_usable(self) -> None:
        if self._forked:
            raise ForkedJournalError(
                "this journal was opened before a fork: open a Runtime of its own in the child"
            )
        if not self._running:
            raise JournalError("the journal is closed: open it again")

    def _enqueue(self, work: Callable[[], T], done: Done[T]) -> None:
        self._require_usable()
        self._tx.put_nowait((None, _Errand(partial(self._perform, work, done))))

    async def _ask(self, work: Callable[[], T]) -> T:
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._enqueue(work, partial(_settle, answer))
        return await answer

    def _perform(self, work: Callable[[], T], done: Done[T]) -> None:
        result, error = None, None
        try:
            with self._quiet:
                result = work()
        except BaseException as raised:
            error = raised
        self._deliver(done, result, error)

    def _deliver(self, done: Done[T], result: T | None, error: BaseException | None) -> None:
        assert self._loop is not None
        # RuntimeError: the loop is closed, so nobody is left to hear it.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(done, result, error)

    def _on_connection(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise _unconnected()
        return fn(self._connection)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect_again(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._disconnect()
        self._connection = self._connector()

    def _stop(self, done: Done[None] | None) -> None:
        self._running = False
        self._tx.put_nowait((None, partial(self._finish, done)))

    def _finish(self, done: Done[None] | None) -> object:
        error = None
        try:
            with self._quiet:
                self._disconnect()
        except BaseException as raised:
            error = raised
        if done is not None:
            self._deliver(done, None, error)
        return _STOP_RUNNING_SENTINEL


class _Errand:
    """A function in the thread's queue that forgets what it held once it has run.

    The thread keeps its last function until the next one comes, and would so keep a
    forgotten driver alive.
    """

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work

    def __call__(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work()


class InlineDriver:
    """Runs functions at once on the loop, in order: deterministic, for simulations.

    Args:
        uri: a `file:` URI.
        read_only: for information only; the URI's mode decides.
        clock: with `latency`, what outcomes wait on. Default: the loop's next turn.
        latency: draws the seconds between a function and its outcome.
    """

    has_thread = False

    def __init__(
        self,
        uri: str,
        read_only: bool,
        *,
        clock: Clock | None = None,
        latency: Callable[[], float] | None = None,
    ) -> None:
        self._uri = uri
        self._clock = clock
        self._latency = latency
        self._connection: sqlite3.Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: deque[tuple[Callable[[], Any], Done[Any]]] = deque()
        self._busy = False
        self._running = True

    async def open(self) -> None:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        self._connect_again()

    def submit(self, fn: Callable[[sqlite3.Connection], T], done: Done[T]) -> None:
        """Run `fn(connection)` as soon as its turn comes; report after the latency."""
        self._enqueue(partial(self._on_connection, fn), done)

    async def call(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn(connection)` and return its result."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.submit(fn, partial(_settle, answer))
        return await answer

    def run_here(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn(connection)`, ahead of what is queued."""
        return self._on_connection(fn)

    def release(self, done: Callable[[BaseException | None], None]) -> None:
        """Close the connection, staying usable."""
        self._enqueue(self._disconnect, lambda _, error: done(error))

    def reopen(self, done: Callable[[BaseException | None], None]) -> None:
        """Close the connection and open another one."""
        self._enqueue(self._connect_again, lambda _, error: done(error))

    async def close(self) -> None:
        """Finish the queue and close the connection."""
        if self._running:
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._enqueue(self._disconnect, partial(_settle, answer))
            self._running = False
            await answer

    def abandon(self) -> None:
        """Close at once; what was queued is dropped, as in a crash."""
        self._running = False
        self._queue.clear()
        self._disconnect()

    def wait_stopped(self, seconds: float) -> bool:
        """Nothing runs outside the loop."""
        return True

    def _enqueue(self, work: Callable[[], T], done: Done[T]) -> None:
        if not self._running:
            raise JournalError("the journal is closed: open it again")
        self._queue.append((work, done))
        self._pump()

    def _pump(self) -> None:
        assert self._loop is not None
        if self._busy or not self._queue:
            return
        self._busy = True
        work, done = self._queue.popleft()
        result, error, interruption = None, None, None
        try:
            result = work()
        except Exception as raised:
            error = raised
        except BaseException as raised:  # Ctrl-C: nobody knows how far it had come
            error, interruption = UnknownOutcomeError("it was interrupted"), raised
        report = partial(self._report, partial(done, result, error))
        if self._clock is None or self._latency is None:
            self._loop.call_soon(report)
        else:
            self._clock.call_later(self._loop, self._latency(), report)
        if interruption is not None:
            raise interruption

    def _report(self, deliver: Callable[[], None]) -> None:
        self._busy = False
        try:
            deliver()
        finally:
            self._pump()

    def _on_connection(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise _unconnected()
        return fn(self._connection)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect_again(self) -> None:
        self._disconnect()
        self._connection = connect(self._uri)


def _settle(answer: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
    if answer.done():  # the waiter was cancelled; the work is done all the same
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)  # type: ignore[arg-type]  # T may be None itself


_live: weakref.WeakSet[ThreadDriver] = weakref.WeakSet()


def _abandon_all() -> None:
    drivers = list(_live)
    for driver in drivers:
        driver.abandon()
    for driver in drivers:
        driver.wait_stopped(_EXIT_SECONDS / len(drivers))


def _disown_all() -> None:
    for driver in list(_live):
        driver.disown()


atexit.register(_abandon_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
