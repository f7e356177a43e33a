"""`SyncRuntime`: the runtime for programs without an event loop of their own.

Owns one daemon thread with one event loop, on which an ordinary `Runtime` lives, and
blocking versions of the methods of `Runtime` and `Run`. It adds no behaviour: each
method hands its call to the loop and waits. Any thread may call, several at once, but
not code that runs on that loop itself. Giving up a wait (a time limit, Ctrl-C) ends the
wait and nothing else: the run goes on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from asyncio import AbstractEventLoop
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import datetime
from os import PathLike
from types import TracebackType
from typing import (
    Any,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from durable._authoring.workflow import Workflow
from durable._authoring.writable import SyncWritable
from durable._base.clock import Clock
from durable._journal.codec import Codec
from durable._journal.driver import DriverFactory
from durable._surface.api import new_event_loop
from durable._surface.history import HistoryEvent, RunStatus
from durable._surface.hook_info import HookInfo
from durable._surface.options import Duration
from durable._surface.run import Run
from durable._surface.runtime import Runtime
from durable._surface.scoped import may_drain
from durable._surface.streams import Stream, StreamChunk
from durable.errors import (
    ForkedJournalError,
    RuntimeClosedError,
    RuntimeNotRunningError,
    WrongContextError,
)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("durable")

# What closing may take beyond the runtime's own deadline for running attempts.
_CLOSE_SECONDS = 10.0


class RuntimeOptions(TypedDict, total=False):
    """The options of `Runtime`, which explains them."""

    durability: Literal["full", "process"]
    client: bool
    retention: Duration | Literal["forever"] | None
    drain_seconds: float
    grace: Duration
    threads: int
    processes: int | None
    codec: Codec | None
    idle_runs: int
    allow_unsafe_filesystem: bool
    clock: Clock | None
    driver: DriverFactory


class SyncRuntime:
    """A `Runtime` in a thread of its own, for scripts and programs with another main loop.

    Args:
        path, options: as for `Runtime`.

    Raises on opening whatever `Runtime` raises. Leaving the `with` block drains and
    parks like `async with Runtime(...)`; a program that ends without it loses nothing.

    Example:
        ``with SyncRuntime("app.db") as rt: print(rt.start(fulfil, "A-17").result())``
    """

    def __init__(self, path: str | PathLike[str], **options: Unpack[RuntimeOptions]) -> None:
        self._make = lambda: Runtime(path, **options)
        self._drain_seconds = options.get("drain_seconds", 5.0)
        self._host: _Host | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(drain=may_drain(kind))

    def open(self) -> None:
        """Open the journal and recover; `with` does it.

        Raises:
            RuntimeError: it is open already.
        """
        if self._host is not None and not self._host.over:
            raise RuntimeError("this SyncRuntime is open already: open each one once")
        host = _Host(self._make)
        host.open()
        self._host = host

    def close(self, *, drain: bool = True) -> None:
        """Drain running attempts up to the deadline, park the rest, end the thread.

        Takes at most `drain_seconds` and 10 seconds; the journal is safe either way.
        With `drain` False running attempts get no more time. Closing what is closed does
        nothing.
        """
        if self._host is not None:
            seconds = self._drain_seconds if drain else 0.0
            self._host.close(seconds + _CLOSE_SECONDS, drain=drain)

    @overload
    def start(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncRun[R]: ...
    @overload
    def start(self, workflow: str, /, *args: Any, **kwargs: Any) -> SyncRun[Any]: ...
    def start(self, workflow: Any, /, *args: Any, **kwargs: Any) -> SyncRun[Any]:
        """Start a run; returns as soon as it is recorded. See `durable.start`."""
        host = self._opened()
        run = host.call(lambda: host.runtime.start(workflow, *args, **kwargs))
        return SyncRun(run, host)

    @overload
    def start_many(
        self,
        workflow: Workflow[..., R],
        arguments: Iterable[Sequence[Any] | Mapping[str, Any]],
        /,
    ) -> list[SyncRun[R]]: ...
    @overload
    def start_many(
        self, workflow: str, arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
    ) -> list[SyncRun[Any]]: ...
    def start_many(
        self, workflow: Any, arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
    ) -> list[SyncRun[Any]]:
        """Start one run for each set of arguments. See `durable.start_many`."""
        host = self._opened()
        given = list(arguments)  # here, because the iterable may block
        runs = host.call(lambda: host.runtime.start_many(workflow, given))
        return [SyncRun(run, host) for run in runs]

    def get_run(self, run_id: str) -> SyncRun[Any]:
        """Return the handle of a run, without looking it up."""
        host = self._opened()
        return SyncRun(host.runtime.get_run(run_id), host)

    def resume_hook(
        self, token: str | HookInfo, payload: object = None, *, dedupe_key: str | None = None
    ) -> SyncRun[Any]:
        """Give a hook its next payload; returns once it is recorded. See `durable.resume_hook`."""
        host = self._opened()
        run = host.call(lambda: host.runtime.resume_hook(token, payload, dedupe_key=dedupe_key))
        return SyncRun(run, host)

    def get_hook_by_token(self, token: str) -> HookInfo:
        """Return an open hook. See `durable.get_hook_by_token`."""
        host = self._opened()
        return host.call(lambda: host.runtime.get_hook_by_token(token))

    def send(
        self,
        run: str | SyncRun[Any],
        name: str,
        payload: object = None,
        *,
        dedupe_key: str | None = None,
    ) -> None:
        """Send a payload to a mailbox of a run; returns once it is recorded. See `durable.send`."""
        host = self._opened()
        run_id = run.run_id if isinstance(run, SyncRun) else run
        host.call(lambda: host.runtime.send(run_id, name, payload, dedupe_key=dedupe_key))

    def _opened(self) -> _Host:
        if self._host is None:
            raise RuntimeNotRunningError(
                "this SyncRuntime is not open: use it in a `with` block, or call open() first"
            )
        return self._host


class SyncRun(Generic[R]):
    """The handle of a run, with the methods of `Run` in blocking form.

    Example:
        ``run = rt.start(fulfil, "A-17"); print(run.status(), run.result(timeout="1m"))``
    """

    def __init__(self, run: Run[R], host: _Host) -> None:
        self._run = run
        self._host = host

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.run_id

    def result(self, timeout: Duration | None = None) -> R:
        """Wait for the run's end and return its result. See `Run.result`.

        Ctrl-C and `timeout` (a duration, then TimeoutError) end the waiting, not the run.
        """
        return self._host.call(lambda: self._run.result(timeout))

    def exists(self) -> bool:
        """Tell whether the journal holds this run."""
        return self._host.call(self._run.exists)

    def status(self) -> RunStatus:
        """Return its status, as text with details."""
        return self._host.call(self._run.status)

    def workflow_name(self) -> str:
        """Return the name of its workflow."""
        return self._host.call(self._run.workflow_name)

    def created_at(self) -> datetime:
        """Return when it was created (UTC)."""
        return self._host.call(self._run.created_at)

    def started_at(self) -> datetime | None:
        """Return when its body began (UTC), None while it is pending."""
        return self._host.call(self._run.started_at)

    def completed_at(self) -> datetime | None:
        """Return when it ended (UTC), None before."""
        return self._host.call(self._run.completed_at)

    def attributes(self) -> dict[str, str]:
        """Return the attributes it was started with."""
        return self._host.call(self._run.attributes)

    def parent_id(self) -> str | None:
        """Return the id of the run that started it, if one did."""
        return self._host.call(self._run.parent_id)

    def events(self) -> list[HistoryEvent]:
        """Return its history for people."""
        return self._host.call(self._run.events)

    def hooks(self) -> list[HookInfo]:
        """Return its open hooks, oldest first."""
        return self._host.call(self._run.hooks)

    def stream(
        self, namespace: str | None = None, start_index: int = 0, *, follow: bool = True
    ) -> SyncStream:
        """Return an iterator of what the run writes to a stream. See `Run.stream`."""
        return SyncStream(self._run.stream(namespace, start_index, follow=follow), self._host)

    def stream_bytes(
        self, namespace: str | None = None, start_index: int = 0, *, follow: bool = True
    ) -> Iterator[bytes]:
        """Return an iterator of the stream's chunks as bytes. See `Run.stream_bytes`."""
        pieces = self._run.stream_bytes(namespace, start_index, follow=follow)
        return _Blocking(pieces, self._host)

    def get_writable(self, namespace: str | None = None) -> SyncWritable:
        """Return a handle that writes to a stream of the run. See `Run.get_writable`."""
        return SyncWritable(self._run.get_writable(namespace), self._host.call)

    def tail_index(self, namespace: str | None = None) -> int:
        """Return the index of the newest item of a stream, -1 when it is empty."""
        return self._host.call(lambda: self._run.tail_index(namespace))

    def list_streams(self) -> list[str]:
        """Return the names of the streams that the run has written to; "" is the default."""
        return self._host.call(self._run.list_streams)

    def cancel(self, reason: str | None = None) -> None:
        """Ask the run to end. See `Run.cancel`."""
        self._host.call(lambda: self._run.cancel(reason))

    def wake_up(self, correlation_ids: Iterable[int] | None = None) -> int:
        """End pending sleeps before their time; return how many. See `Run.wake_up`."""
        return self._host.call(lambda: self._run.wake_up(correlation_ids))

    def resume(self) -> None:
        """Let a blocked run try again, after its code has been mended."""
        self._host.call(self._run.resume)

    def __repr__(self) -> str:
        return f"<SyncRun {self.run_id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SyncRun) and other.run_id == self.run_id

    def __hash__(self) -> int:
        return hash(self.run_id)


class SyncStream(Iterator[Any]):
    """Reads one stream of a run, as a blocking iterator of values. See `Stream`.

    Example:
        ``for token in run.stream(): print(token, end="")``
    """

    def __init__(self, stream: Stream, host: _Host) -> None:
        self._stream = stream
        self._host = host
        self._values = _Blocking(stream, host)

    @property
    def position(self) -> int | None:
        """Index of the next item; see `Stream`."""
        return self._stream.position

    def __next__(self) -> Any:
        """Return the next value; Ctrl-C ends the waiting, and asking again goes on."""
        return next(self._values)

    def chunks(self) -> Iterator[StreamChunk]:
        """Iterate `StreamChunk` objects instead of values, from the same position."""
        return _Blocking(self._stream.chunks(), self._host)


class _Blocking(Iterator[T]):
    """An asynchronous iterator of the host's loop, as a blocking one."""

    def __init__(self, items: AsyncIterator[T], host: _Host) -> None:
        self._items = items
        self._host = host

    def __next__(self) -> T:
        try:
            return self._host.call(self._next)
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> T:
        return await anext(self._items)


class _Host:
    """The thread, its loop and the runtime on it, for one opening."""

    runtime: Runtime

    def __init__(self, make: Callable[[], Runtime]) -> None:
        self._make = make
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._work, name="durable-sync", daemon=True)
        self._loop: AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ending = False
        self._drain = True
        self._pid = os.getpid()
        self.over = False

    def open(self) -> None:
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:  # Ctrl-C included: then nobody will close it
            self.close(0.0, drain=False)
            raise

    def _work(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._live())
        except BaseException as error:
            if self._ready.done():
                logger.exception("the runtime could not be closed properly; the journal is safe")
            else:
                self._ready.set_exception(error)
        finally:
            self.over = True

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._ending:
            self._stop.set()
        self.runtime = self._make()
        async with self.runtime:
            self._ready.set_result(None)
            await self._stop.wait()
            self.over = True
            await self.runtime.close(drain=self._drain)

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `make()` on the loop and return its result; blocks the calling thread."""
        if self._pid != os.getpid():
            raise ForkedJournalError(
                f"this SyncRuntime was opened by process {self._pid} before a fork, and its thread "
                "is not here: open a new one in the child"
            )
        if threading.current_thread() is self._thread:
            raise WrongContextError(
                "a SyncRuntime was called from its own event loop, which would wait for itself "
                "for ever: use the functions of `durable` with `await` there"
            )
        loop = self._loop
        if loop is None or self.over:
            raise RuntimeClosedError("this SyncRuntime is closed: runs go on when it is opened")
        work = _awaited(make)
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError:  # the loop was closed just now
            work.close()
            raise RuntimeClosedError("this SyncRuntime was closed meanwhile") from None
        try:
            return waiting.result()
        except concurrent.futures.CancelledError:
            raise RuntimeClosedError(
                "this SyncRuntime was closed while a call was waiting: runs go on when it is opened"
            ) from None
        finally:
            waiting.cancel()  # Ctrl-C ends the waiting on the loop as well; else it is done

    def close(self, seconds: float, *, drain: bool) -> None:
        """End the runtime, the loop and the thread; give up waiting after so many seconds."""
        if self._pid != os.getpid():
            return  # the thread is the parent's
        self._drain = drain
        self._ending = True  # seen by the thread, or else it has put the event there
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:
                pass  # the loop is closed already
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)
        if self._thread.is_alive() and seconds > 0:
            logger.warning("the runtime is not closed after %g s: leaving it behind", seconds)


async def _awaited(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return await make()
