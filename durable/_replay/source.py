"""Names the line of user code behind a call or a task, for messages.

Frames of this package and of the standard library's asyncio are passed over, so that
what is named is a line its author can edit; the host's frames, which lie below the
body's, are never reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from types import FrameType, TracebackType

_ROOM = str(Path(__file__).parent) + os.sep
_PASSED_OVER = (
    str(Path(__file__).parent.parent) + os.sep,
    str(Path(asyncio.__file__).parent) + os.sep,
    contextlib.__file__,
)
# Where the engine enters a body: what calls these is the host, and not the body's code.
_ENTRANCES = frozenset({"Body.replay", "Body.activate"})

UNKNOWN = "an unknown line"


def _is_users(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(_PASSED_OVER)


def _is_entrance(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_qualname in _ENTRANCES and code.co_filename.startswith(_ROOM)


def _line(frame: FrameType, number: int | None = None) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{number or frame.f_lineno} in {code.co_name}"


def calling_line() -> str | None:
    """Return ``file:line in function`` of the innermost frame of the body's code, if it runs."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_entrance(frame):
        if _is_users(frame):
            return _line(frame)
        frame = frame.f_back
    return None


def task_line(task: asyncio.Task[object]) -> str:
    """Return ``file:line in function`` where `task` waits; of a finished one, where it ended."""
    return _ended_line(task) if task.done() else _suspended_line(task)


def _suspended_line(task: asyncio.Task[object]) -> str:
    awaited: object = task.get_coro()
    found = UNKNOWN
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if isinstance(frame, FrameType) and _is_users(frame):
            found = _line(frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return found


def _ended_line(task: asyncio.Task[object]) -> str:
    error = None if task.cancelled() else task.exception()
    trace: TracebackType | None = None if error is None else error.__traceback__
    found = None
    while trace is not None:
        if _is_users(trace.tb_frame):
            found = _line(trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next
    if found is None:
        code = getattr(task.get_coro(), "cr_code", None)  # a frame that has returned is gone
        found = f"{code.co_filename}:{code.co_firstlineno} in {code.co_name}" if code else UNKNOWN
    return found
