"""What becomes of open runtimes when the process ends without closing them.

Nothing is waited for and no body is unwound. The owner lock is left with the note that
the process went down on request, so that the attempts it was making are not held against
their steps, as those of a crash are.

SIGTERM keeps its default effect and exit status; the handler is installed only where the
program has none of its own, and taken away with the last runtime. It is Python code, so it
needs the main thread to wake: a signal that arrives just before the loop waits for events,
or in another thread, interrupts no wait. So the signal also writes to a pipe that the loop
watches. The loop's own signal handlers are not used: they would wait for a busy loop, and
closing a loop puts the default in place of whatever the program has installed meanwhile.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import threading
import weakref
from contextlib import suppress
from functools import lru_cache
from types import FrameType
from typing import Protocol


class Ending(Protocol):
    """A runtime, as far as the end of its process is concerned."""

    def abandon(self) -> None:
        """Let go of everything without waiting."""

    def going_down(self, cause: str) -> None:
        """Leave the note that the process ends on request."""


_alive: weakref.WeakSet[Ending] = weakref.WeakSet()
_waker: _Waker | None = None


def watch(runtime: Ending) -> None:
    """Look after an open runtime of the running loop."""
    _alive.add(runtime)
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) in {signal.SIG_DFL, _on_sigterm}:
        signal.signal(signal.SIGTERM, _on_sigterm)
        _wake(asyncio.get_running_loop())


def forget(runtime: Ending) -> None:
    """Look no more after a runtime that is being closed."""
    _alive.discard(runtime)
    if _alive or threading.current_thread() is not threading.main_thread():
        return
    _wake(None)
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Waker:
    """Has signals wake one event loop, through the pipe of this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._pid = os.getpid()
        self._heard, self._told = _pipe(self._pid)
        before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        if before not in {-1, self._told}:  # something wakes it already, such as uvloop
            signal.set_wakeup_fd(before)
            with suppress(OSError):  # nothing came in between
                os.write(before, os.read(self._heard, 4096))
        with suppress(NotImplementedError):  # a loop of another kind, which is left as it is
            loop.add_reader(self._heard, self._read)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._heard, 4096)

    def close(self) -> None:
        before = signal.set_wakeup_fd(-1)
        if before not in {-1, self._told}:
            signal.set_wakeup_fd(before)
        # A forked child would take it out of the parent's loop: the kernel's list is shared.
        if self._pid == os.getpid() and not self.loop.is_closed():
            with suppress(NotImplementedError):
                self.loop.remove_reader(self._heard)


@lru_cache(maxsize=1)
def _pipe(pid: int) -> tuple[int, int]:
    """Return the two ends of this process's pipe, which it keeps for good.

    Another loop may have noted the descriptor as the one to put back when it ends, uvloop
    does. Closed, it would make that fail, or let signals write into whatever came after.
    """
    heard, told = os.pipe()
    os.set_blocking(heard, False)
    os.set_blocking(told, False)
    return heard, told


def _wake(loop: asyncio.AbstractEventLoop | None) -> None:
    """Have signals wake this loop, or none."""
    global _waker
    if _waker is not None and _waker.loop is not loop:
        _waker.close()
        _waker = None
    if _waker is None and loop is not None:
        _waker = _Waker(loop)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    for runtime in list(_alive):
        runtime.going_down("SIGTERM")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _at_exit() -> None:
    for runtime in list(_alive):
        runtime.going_down("exit")
        runtime.abandon()


atexit.register(_at_exit)
