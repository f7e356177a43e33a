"""The threads that sync steps run in.

Owns a bounded set of daemon threads, the queue in front of them, and the way of results
back to an event loop. Invariants:

- a result reaches `done` on its loop exactly once, or never after `abandon`;
- an abandoned call keeps its thread until its function returns, but not its slot: the
  pool starts another thread, so stuck steps never use the pool up;
- results that come in while the loop is busy share one wake-up, which is the dear part;
- neither `close` nor the end of the interpreter waits for a thread.

`concurrent.futures.ThreadPoolExecutor` is not used: it joins its threads when the
interpreter ends, so that one stuck step would keep the program from ending, and it can
neither replace a stuck thread nor share wake-ups. What a call means, its retries and its
time limit are the executor's business.
"""

from __future__ import annotations

import queue
import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Done = Callable[[T | None, BaseException | None], None]

IDLE_SECONDS_MAX = 30.0

_QUEUED, _RUNNING, _FINISHED, _ABANDONED = range(4)


def tell(loop: AbstractEventLoop, news: Callable[[], object]) -> None:
    """Call `news` on `loop`, from any thread, unless the loop is closed: then nobody is left."""
    try:
        loop.call_soon_threadsafe(news)
    except RuntimeError:
        pass


class Ticket(Protocol):
    """A call that was submitted to a pool."""

    def abandon(self) -> None:
        """Drop the call: `done` is not called any more. Allowed at any time, repeatedly."""


class ThreadPool:
    """Runs functions in daemon threads and calls back on an event loop.

    Args:
        max_threads: how many calls run at once, abandoned ones not counted. Default 32.

    Example:
        pool = ThreadPool(4)
        ticket = pool.submit(read_file, lambda value, error: ..., loop)
    """

    def __init__(self, max_threads: int = 32) -> None:
        if max_threads < 1:
            raise ValueError(f"max_threads is {max_threads}: give at least 1")
        self.max_threads = max_threads
        self._lock = threading.Lock()  # guards the counts and the states of calls
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._boxes: dict[AbstractEventLoop, _Mailbox] = {}
        self._threads = 0
        self._starting = False
        self._idle = 0
        self._queued = 0
        self._stuck = 0
        self._closed = False

    @property
    def queued(self) -> int:
        """Calls that wait for a thread."""
        return self._queued

    @property
    def running(self) -> int:
        """Calls that hold a slot."""
        return self._threads - self._idle - self._starting

    @property
    def stuck(self) -> int:
        """Abandoned calls whose function has not returned yet."""
        return self._stuck

    def submit(
        self,
        fn: Callable[[], T],
        done: Done[T],
        loop: AbstractEventLoop,
        *,
        context: Context | None = None,
    ) -> Ticket:
        """Run `fn` in a thread, then `done(value, error)` on `loop`.

        Args:
            fn: what to run. Whatever it raises goes to `done`, SystemExit included.
            done: called once with the value or the exception; not after `abandon`, and
                not when the loop has been closed by then.
            loop: the loop on which `done` is called.
            context: in which `fn` runs; default: a copy of the current one.

        Raises:
            RuntimeError: the pool is closed, or the system gives it not a single thread.
        """
        call = _Call(self, fn, done, self._mailbox(loop), context or copy_context())
        with self._lock:
            if self._closed:
                raise RuntimeError("the thread pool is closed: nothing can be submitted")
            self._queued += 1
            grow = not self._idle and self._reserve()
        self._calls.put(call)
        if grow:
            self._start(call)
        return call

    def close(self) -> None:
        """Forget what is queued and let the threads end; waits for none of them."""
        with self._lock:
            self._closed = True
            count = self._threads
        self._forget_queued()
        for _ in range(count):
            self._calls.put(None)

    def _forget_queued(self) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            if call is not None:
                call.abandon()

    def _mailbox(self, loop: AbstractEventLoop) -> _Mailbox:
        box = self._boxes.get(loop)
        if box is None:
            for other in [other for other in self._boxes if other.is_closed()]:
                del self._boxes[other]
            box = self._boxes[loop] = _Mailbox(loop)
        return box

    # --- threads come and go -----------------------------------------------------------

    def _reserve(self) -> bool:
        """Count one thread more if one is needed and allowed; call with the lock held.

        Threads start one after the other, and a thread that takes a call starts the next:
        starting takes so long that a burst of calls must not make the loop do it.
        """
        wanted = self._queued > self._idle and self._threads < self.max_threads
        if self._starting or self._closed or not wanted:
            return False
        self._starting = True
        self._threads += 1
        return True

    def _start(self, call: _Call | None = None) -> None:
        try:
            threading.Thread(target=self._work, name="durable-step", daemon=True).start()
        except RuntimeError:  # the system's limit, or the interpreter is ending
            with self._lock:
                self._starting = False
                self._threads -= 1
                others = self._threads
            if call is None or others:
                return  # one of the others will come to it
            call.abandon()
            raise

    def _work(self) -> None:
        with self._lock:
            self._starting = False
            self._idle += 1
        while (call := self._next()) is not None:
            call.run()
            if not self._settle(call):
                return
            call = None  # an idle thread must not keep a step's values alive

    def _next(self) -> _Call | None:
        """Wait for a call; None when the thread is to end. It counts as idle meanwhile."""
        while True:
            try:
                call = self._calls.get(timeout=IDLE_SECONDS_MAX)
            except queue.Empty:
                call = None
            if call is None:
                if self._leave():
                    return None
            elif self._take(call):
                return call

    def _leave(self) -> bool:
        with self._lock:
            if self._queued and not self._closed:
                return False  # a call came just now, and counts on this thread
            self._idle -= 1
            self._threads -= 1
            return True

    def _take(self, call: _Call) -> bool:
        with self._lock:
            if call.state != _QUEUED:
                return False
            self._idle -= 1
            self._queued -= 1
            call.state = _RUNNING
            grow = self._reserve()
        if grow:
            self._start()
        return True

    def _settle(self, call: _Call) -> bool:
        """Note that the function has returned; False if the thread has lost its slot."""
        with self._lock:
            if call.state == _ABANDONED:
                self._stuck -= 1
                return False
            call.state = _FINISHED
            self._idle += 1
        call.box.post(call)
        return True

    def _abandon(self, call: _Call) -> None:
        with self._lock:
            state, call.state = call.state, _ABANDONED
            if state == _QUEUED:
                self._queued -= 1
            elif state == _RUNNING:
                self._threads -= 1
                self._stuck += 1
            grow = self._reserve()
        if grow:
            self._start()


class _Call:
    """One submitted function: its state belongs to the pool, its outcome to the mailbox."""

    __slots__ = ("_context", "_done", "_error", "_fn", "_pool", "_value", "box", "state")

    def __init__(
        self,
        pool: ThreadPool,
        fn: Callable[[], Any],
        done: Done[Any],
        box: _Mailbox,
        context: Context,
    ) -> None:
        self._pool = pool
        self._fn: Callable[[], Any] | None = fn
        self._done: Done[Any] | None = done
        self._context: Context | None = context
        self._value: Any = None
        self._error: BaseException | None = None
        self.box = box
        self.state = _QUEUED

    def run(self) -> None:
        """Run the function and keep the outcome; in a thread of the pool."""
        fn, context = self._fn, self._context
        self._fn = self._context = None
        if fn is None or context is None:
            return  # abandoned a moment ago
        # The outcome is kept in the call and not in a local: an exception that refers to
        # a frame that refers to the exception would live until the next collection.
        try:
            self._value = context.run(fn)
        except BaseException as error:
            self._error = error

    def deliver(self) -> None:
        """Hand the outcome over; on the loop."""
        value, error, done = self._value, self._error, self._done
        self._value = self._error = self._done = None
        if self.state == _FINISHED and done is not None:
            done(value, error)

    def abandon(self) -> None:
        """See `Ticket`."""
        self._pool._abandon(self)
        self._fn = self._context = self._done = None


class _Mailbox:
    """Outcomes on their way to one loop.

    Needs no lock: a poster appends before it looks at the flag, the reader clears the
    flag before it takes, so an outcome is seen by this turn or causes another.
    """

    __slots__ = ("_calls", "_loop", "_woken")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[_Call] = deque()
        self._woken = False

    def post(self, call: _Call) -> None:
        """Add an outcome; from any thread."""
        self._calls.append(call)
        if not self._woken:
            self._woken = True
            self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._calls.clear()

    def _deliver(self) -> None:
        self._woken = False
        try:
            while self._calls:
                self._calls.popleft().deliver()
        finally:
            if self._calls:  # `done` raised: the loop reports it, the others go on
                self._wake()
