"""Refuses files, sockets, subprocesses and threads while a workflow body runs.

CPython announces these operations as audit events. One audit hook per process looks,
in the thread that raises the event, whether a `BodyLoop` is the running loop there; if
so the operation is refused with the cure. Imports and the reading of source lines for
tracebacks stay allowed, since a body may trigger them innocently.

It is a guard against mistakes, not a sandbox: `time.sleep` has no audit event before
CPython 3.13 (a body that blocks is reported by the engine's watchdog instead).
"""

from __future__ import annotations

import sys
import threading
from asyncio import _get_running_loop
from collections.abc import Callable
from typing import Any

from durable._replay.loop import BodyLoop
from durable.errors import NotInBodyError

_REFUSED = frozenset(
    """
    open os.listdir os.scandir os.remove os.rename os.mkdir os.rmdir os.truncate os.link
    os.symlink os.chmod os.chown os.utime shutil.copyfile shutil.move shutil.rmtree
    socket.__new__ socket.connect socket.bind socket.getaddrinfo socket.gethostbyname
    subprocess.Popen os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile
    sqlite3.connect time.sleep _thread.start_new_thread _thread.start_joinable_thread
    """.split()
)

# Code of the interpreter that opens files on behalf of innocent statements.
_INNOCENT = ("<frozen importlib", "/linecache.py", "/tokenize.py", "/zipimport.py", "/logging/")

_installed = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in _REFUSED and type(_get_running_loop()) is BodyLoop and not _is_innocent():
        detail = f" ({args[0]!r})" if args and isinstance(args[0], str) else ""
        raise NotInBodyError(
            f"{event}{detail} is not possible in a workflow body, because it cannot be "
            "replayed: put this work in a @step and await the step"
        )


def _is_innocent() -> bool:
    frame = sys._getframe(2)
    for _ in range(6):
        file = frame.f_code.co_filename.replace("\\", "/")
        if any(part in file for part in _INNOCENT):
            return True
        if frame.f_back is None:
            return False
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
