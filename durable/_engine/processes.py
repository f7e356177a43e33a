"""The processes that steps with ``executor="process"`` run in.

Owns worker processes: starts them on demand up to a limit, uses them again, kills the
one whose call is abandoned, and tells how one died. Invariants:

- one call at a time per worker; a worker killed or dead is reaped and its pipes closed;
- killing means SIGKILL for the worker's process group, its own children included;
- the loop never blocks: starting, pickling and waiting happen in a thread of the pool
  given with the call.

`multiprocessing` is not used: its fork copies a process that has threads and an open
journal, and its spawn imports the program's `__main__` once more, which starts the
application again in every script without a ``__main__`` guard and in every notebook.
Here the functions of `__main__` travel by value, all others by name. Context variables
do not travel.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from durable._engine.process_worker import TAKEN, read, receive, send
from durable._engine.threads import Done, ThreadPool, Ticket, tell
from durable._journal.exceptions import reduce_error
from durable.errors import (
    PayloadDecodeError,
    RemoteError,
    SerializationError,
    StepWorkerDiedError,
)

_PROGRAM = str(Path(__file__).with_name("process_worker.py"))
_CLOSE_SECONDS_MAX = 1.0  # how long killed processes may take to be gone

_workers: weakref.WeakSet[_Worker] = weakref.WeakSet()


class ProcessPool:
    """Runs functions in worker processes and calls back on an event loop.

    Args:
        max_workers: how many processes at most. Default: the number of processors.

    All methods are called on the loop.

    Example:
        pool = ProcessPool()
        ticket = pool.submit(crunch, (data,), {}, lambda value, error: ..., loop, threads)
    """

    def __init__(self, max_workers: int | None = None) -> None:
        self.max_workers = max_workers if max_workers is not None else os.cpu_count() or 1
        if self.max_workers < 1:
            raise ValueError(f"max_workers is {max_workers}: give at least 1")
        self._lock = threading.Condition()  # guards which call holds which worker
        self._held = 0  # calls in a thread that have a worker, or are about to
        self._idle: deque[_Worker] = deque()
        self._queue: deque[_Call] = deque()
        self._running: set[_Call] = set()
        self._closed = False

    @property
    def queued(self) -> int:
        """Calls that wait for a process."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Calls that hold a process, or are about to."""
        return len(self._running)

    def submit(
        self,
        fn: Callable[..., Any],
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
        done: Done[Any],
        loop: AbstractEventLoop,
        threads: ThreadPool,
        *,
        begun: Callable[[], None] | None = None,
    ) -> Ticket:
        """Run ``fn(*args, **kwargs)`` in a process, then `done(value, error)` on `loop`.

        `begun` is called on `loop` when a process has taken the call, before `done`.

        A coroutine that `fn` returns is run to its end there. What `fn` raises arrives
        with the traceback of the worker as a note, as `RemoteError` if it cannot be
        rebuilt here, as `StepWorkerDiedError` if the process died. Abandoning the ticket
        kills the process.

        Raises:
            RuntimeError: the pool is closed, or this program cannot start workers.
        """
        if self._closed:
            raise RuntimeError("the process pool is closed: nothing can be submitted")
        _check_interpreter()
        call = _Call(self, (fn, tuple(args), dict(kwargs)), done, loop, threads, begun)
        self._queue.append(call)
        self._dispatch()
        return call

    def close(self) -> None:
        """Forget what is queued and kill all workers; they are gone on return.

        Idle workers are killed as well, because they have nothing to lose: what their
        steps printed is flushed after each call. It takes milliseconds, and no more
        than a second if the system does not let go of a process.
        """
        self._closed = True
        self._queue.clear()
        for call in list(self._running):
            call.abandon()
        with self._lock:
            self._lock.wait_for(lambda: not self._held, _CLOSE_SECONDS_MAX)
        self._end_idle()

    def _dispatch(self) -> None:
        while self._queue and len(self._running) < self.max_workers and not self._closed:
            call = self._queue.popleft()
            self._running.add(call)
            call.start()

    def _drop(self, call: _Call) -> None:
        """Forget a call that has ended or was abandoned, and start the next one."""
        if call in self._running:
            self._running.remove(call)
        elif call in self._queue:
            self._queue.remove(call)
        self._dispatch()

    # --- in a thread -----------------------------------------------------------------

    def _run(self, call: _Call, payload: tuple[Any, ...]) -> Any:
        message = _dumps(payload)
        with self._lock:
            if call.abandoned:
                return None
            self._held += 1
        try:
            answer = self._exchange(call, message)
        finally:
            with self._lock:
                self._held -= 1
                self._lock.notify_all()
        return _open(answer) if answer is not None else None

    def _exchange(self, call: _Call, message: bytes) -> bytes | None:
        while True:
            worker = self._borrow()
            if not self._hold(call, worker):
                self._give_back(worker)
                return None
            try:
                answer = worker.exchange(message, call.taken)
            except (EOFError, OSError):
                kept, how = self._release(call), worker.end()
                if kept and worker.died_idle():
                    continue
                raise StepWorkerDiedError(f"the worker process of the step {how}") from None
            if self._release(call):
                self._give_back(worker)
            else:
                worker.end()
            return answer

    def _borrow(self) -> _Worker:
        while True:
            try:
                worker = self._idle.pop()
            except IndexError:
                return _Worker()
            if worker.alive():
                return worker
            worker.end()

    def _hold(self, call: _Call, worker: _Worker) -> bool:
        with self._lock:
            call.worker = worker
            return not call.abandoned

    def _release(self, call: _Call) -> bool:
        with self._lock:
            call.worker = None
            return not call.abandoned

    def _give_back(self, worker: _Worker) -> None:
        self._idle.append(worker)
        if self._closed:  # `close` may have looked before
            self._end_idle()

    def _end_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().end()
            except IndexError:
                return  # another thread was faster

    def _kill(self, call: _Call) -> None:
        with self._lock:
            call.abandoned = True
            if call.worker is not None:
                call.worker.kill()


class _Call:
    """One submitted call; all but `taken` happens on the loop."""

    def __init__(
        self,
        pool: ProcessPool,
        payload: tuple[Any, ...],
        done: Done[Any],
        loop: AbstractEventLoop,
        threads: ThreadPool,
        begun: Callable[[], None] | None,
    ) -> None:
        self._pool = pool
        self._begun = begun
        self._payload: tuple[Any, ...] | None = payload
        self._done = done
        self._loop = loop
        self._threads = threads
        self._ticket: Ticket | None = None
        self.worker: _Worker | None = None
        self.abandoned = False

    def start(self) -> None:
        """Go to a thread."""
        payload, self._payload = self._payload, None
        assert payload is not None
        try:
            self._ticket = self._threads.submit(
                lambda: self._pool._run(self, payload), self._finish, self._loop
            )
        except RuntimeError as error:  # no thread can be had
            self._loop.call_soon(self._finish, None, error)

    def taken(self) -> None:
        """Tell that a process has it; in a thread."""
        if self._begun is not None:
            tell(self._loop, self._begun)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        self._pool._drop(self)
        if not self.abandoned:
            self._done(value, error)

    def abandon(self) -> None:
        """Drop the call and kill its process. See `Ticket`."""
        if self.abandoned:
            return
        self._pool._kill(self)
        if self._ticket is not None:
            self._ticket.abandon()
        self._pool._drop(self)


class _Worker:
    """One process and its two pipes; used by one thread at a time, except for `kill`."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C in the terminal is for the program, and one signal
        # reaches the worker together with whatever it has started. -P: the folder of the
        # script is not a place to import from.
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-P", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._inbox, self._outbox = self._process.stdin, self._process.stdout
        self._answered = 0
        self._taken = False
        _workers.add(self)
        try:
            send(self._inbox.fileno(), pickle.dumps(sys.path))
        except OSError:
            pass  # it is dead already, which the first exchange will tell

    def alive(self) -> bool:
        """Return whether the process has not ended."""
        return self._process.poll() is None

    def exchange(self, message: bytes, taken: Callable[[], None]) -> bytes:
        """Send a call and wait for its answer; EOFError or OSError if the process dies."""
        self._taken = False
        send(self._inbox.fileno(), message)
        self._taken = read(self._outbox.fileno(), len(TAKEN)) == TAKEN
        taken()
        answer = receive(self._outbox.fileno())
        self._answered += 1
        return answer

    def died_idle(self) -> bool:
        """Return whether it died between two calls, so that another may have the last one.

        A process that never took a call is no such case: the next would fare no better.
        """
        return self._answered > 0 and not self._taken

    def kill(self) -> None:
        """Kill the process and all that it has started. Only before `end`."""
        if self._process.returncode is not None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # all of them have ended

    def end(self) -> str:
        """Reap the process, by force if need be, and tell how it ended."""
        self.kill()  # does not change how a process ended that has ended already
        code = self._process.wait()
        self.close()
        return _how_it_ended(self._process.pid, code)

    def close(self) -> None:
        """Close this side of the pipes."""
        self._inbox.close()
        self._outbox.close()


def _how_it_ended(pid: int, code: int) -> str:
    if code >= 0:
        return f"(pid {pid}) ended with exit code {code} before it had answered"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    hint = "; the system may have run out of memory" if -code == signal.SIGKILL else ""
    return f"(pid {pid}) was killed by signal {-code} ({name}){hint}"


def _close_in_forked_child() -> None:
    # A copy of the pipes elsewhere would keep the workers from noticing that the program
    # has ended.
    for worker in list(_workers):
        worker.close()


os.register_at_fork(after_in_child=_close_in_forked_child)


def _check_interpreter() -> None:
    if getattr(sys, "frozen", False) or not sys.executable:
        raise RuntimeError(
            f"sys.executable is {sys.executable!r}, which is no Python interpreter that could "
            'run a worker process: use executor="thread" for this step'
        )


# --- what crosses -------------------------------------------------------------------


@cache
def _pickler() -> Any:
    from pkgutil import resolve_name  # both late: most programs have no step for a process

    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Sends functions behind a decorator by name too, and exceptions of any `__init__`."""

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, BaseException):
                return reduce_error(obj)
            if isinstance(obj, FunctionType) and (name := _name_behind_decorator(obj)):
                return resolve_name, (name,)
            return super().reducer_override(obj)

    return Pickler


def _name_behind_decorator(fn: FunctionType) -> str | None:
    """Return where the function of a decorated definition is found, ``module:name.fn``."""
    if fn.__module__ in {None, "__main__"} or "<" in fn.__qualname__:
        return None
    from pkgutil import resolve_name

    name = f"{fn.__module__}:{fn.__qualname__}"
    try:
        found = resolve_name(name)
    except Exception:  # the module is not imported under this name, or was changed
        return None
    for attribute in ("fn", "__wrapped__"):
        if getattr(found, attribute, None) is fn:
            return f"{name}.{attribute}"
    return None


def _dumps(payload: tuple[Any, ...]) -> bytes:
    with io.BytesIO() as file:
        _pickler()(file).dump(payload)
        return file.getvalue()


def _open(answer: bytes) -> Any:
    try:
        kind, *rest = pickle.loads(answer)
    except Exception as error:
        raise PayloadDecodeError(
            f"what the step returned in its worker process cannot be loaded here: {error!r}"
        ) from error
    if kind == "value":
        return rest[0]
    if kind == "unsent":
        raise SerializationError(
            f"result cannot be sent from the worker process: {rest[0]}; return plain data", "result"
        )
    if kind == "lost":
        raise RemoteError(*rest)
    raised, text = rest
    raised.add_note(f"Traceback in the worker process:\n{text}")
    raise raised
