"""Refuses files, sockets, subprocesses and threads while a workflow body runs.

CPython announces these operations as audit events. One audit hook per process looks,
in the thread that raises the event, whether a `BodyLoop` is the running loop there; if
so the operation is refused with the cure. Imports and the reading of source lines for
tracebacks stay allowed, since a body may trigger them innocently.

It is a guard against mistakes, not a sandbox: `time.sleep` has no audit event before
CPython 3.13 (a body that blocks is reported by the engine's watchdog instead).
"""

from __future__ import annotations

import linecache
import logging
import sys
import threading
import tokenize
from asyncio import _get_running_loop
from collections.abc import Callable
from types import FrameType
from typing import Any

from durable._replay.loop import BodyLoop
from durable.errors import NotInBodyError

_REFUSED = frozenset(
    """
    open os.listdir os.scandir os.remove os.rename os.mkdir os.rmdir os.truncate os.link
    os.symlink os.chmod os.chown os.utime shutil.copyfile shutil.move shutil.rmtree
    socket.__new__ socket.connect socket.bind socket.getaddrinfo socket.gethostbyname
    subprocess.Popen os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile
    sqlite3.connect builtins.input time.sleep
    _thread.start_new_thread _thread.start_joinable_thread
    """.split()
)

# Code of the interpreter that opens files on behalf of innocent statements: imports, the
# source lines of tracebacks, log records; and the data of time zones.
_INNOCENT_CODE = (
    "<frozen importlib",
    "<frozen zipimport",
    linecache.__file__,
    tokenize.__file__,
    logging.__file__.removesuffix("__init__.py"),
)
_INNOCENT_DATA = "/zoneinfo/"
_FRAMES_MAX = 6

_installed = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in _REFUSED and type(_get_running_loop()) is BodyLoop and not _is_innocent(args):
        detail = f" ({args[0]!r})" if args and isinstance(args[0], str) else ""
        raise NotInBodyError(
            f"{event}{detail} is not possible in a workflow body, because it cannot be "
            "replayed: put this work in a @step and await the step"
        )


def _is_innocent(args: tuple[Any, ...]) -> bool:
    if args and isinstance(args[0], str) and _INNOCENT_DATA in args[0].replace("\\", "/"):
        return True
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_FRAMES_MAX):
        if frame is None:
            break
        if frame.f_code.co_filename.startswith(_INNOCENT_CODE):
            return True
        frame = frame.f_back
    return False


def install() -> None:
    """Install the guard in this process; later calls do nothing."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)
        if sys.version_info < (3, 12):
            _announce_thread_starts()


def _announce_thread_starts() -> None:
    # CPython 3.11 starts threads without an audit event, so the missing one is raised here.
    start: Callable[..., int] = threading._start_new_thread  # type: ignore[attr-defined]

    def announced(*args: Any, **kwargs: Any) -> int:
        sys.audit("_thread.start_new_thread")
        return start(*args, **kwargs)

    threading._start_new_thread = announced  # type: ignore[attr-defined]
