"""The thread of a `SyncRuntime`: one event loop, with one ordinary `Runtime` on it.

Owns the thread's life and the way of a call into the loop and back. Any thread may call,
several at once, but not code that runs on that loop itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from durable._surface.api import new_event_loop
from durable._surface.runtime import Runtime
from durable.errors import ForkedJournalError, RuntimeClosedError, WrongContextError

T = TypeVar("T")

logger = logging.getLogger("durable")


class Host:
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
        """Start the thread, and return when the runtime is open."""
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
