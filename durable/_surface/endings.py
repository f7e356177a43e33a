"""What becomes of open runtimes when the process ends without closing them.

Nothing is waited for and no body is unwound. The owner lock is left with the note that
the process went down on request, so that the attempts it was making are not held against
their steps, as those of a crash are.

SIGTERM keeps its default effect and exit status; the handler is installed only where the
program has none of its own, and taken away with the last runtime.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import weakref
from types import FrameType
from typing import Protocol


class Ending(Protocol):
    """A runtime, as far as the end of its process is concerned."""

    def abandon(self) -> None:
        """Let go of everything without waiting."""

    def going_down(self, cause: str) -> None:
        """Leave the note that the process ends on request."""


_alive: weakref.WeakSet[Ending] = weakref.WeakSet()


def watch(runtime: Ending) -> None:
    """Look after an open runtime."""
    _alive.add(runtime)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def forget(runtime: Ending) -> None:
    """Look no more after a runtime that is being closed."""
    _alive.discard(runtime)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and not _alive and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
