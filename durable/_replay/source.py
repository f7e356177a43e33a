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
from types import CodeType, FrameType, TracebackType

_ROOM = str(Path(__file__).parent) + os.sep
_PASSED_OVER = (
    str(Path(__file__).parent.parent) + os.sep,
    str(Path(asyncio.__file__).parent) + os.sep,
    contextlib.__file__,
)
# Where asyncio makes tasks for its callers.
_MAKERS = frozenset(
    maker.__code__.co_filename for maker in (asyncio.create_task, asyncio.TaskGroup.create_task)
)
# Where the engine enters a body: what calls these is the host, and not the body's code.
_ENTRANCES = frozenset({"Body.replay", "Body.activate"})

UNKNOWN = "an unknown line"

Place = tuple[CodeType, int]  # a code object and an offset in it: cheaper than a line


def _is_users(code: CodeType) -> bool:
    return not code.co_filename.startswith(_PASSED_OVER)


def _is_entrance(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_qualname in _ENTRANCES and code.co_filename.startswith(_ROOM)


def _line(code: CodeType, number: int | None) -> str:
    return f"{code.co_filename}:{number} in {code.co_name}"


def calling_line() -> str | None:
    """Return ``file:line in function`` of the innermost frame of the body's code, if it runs."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_entrance(frame):
        if _is_users(frame.f_code):
            return _line(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return None


def creator(frame: FrameType) -> Place:
    """Return who called asyncio, if `frame` is asyncio's: who wants a task. Called for each."""
    code = frame.f_code
    while code.co_filename in _MAKERS and frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
    return code, frame.f_lasti


def task_line(task: asyncio.Task[object]) -> str:
    """Return ``file:line in function`` where `task` waits; of a finished one, where it ended.

    One that runs no line of the user's, such as a step alone, is told by where it was made.
    """
    return _ended_line(task) if task.done() else _suspended_line(task)


def _suspended_line(task: asyncio.Task[object]) -> str:
    awaited: object = task.get_coro()
    found = None
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if isinstance(frame, FrameType) and _is_users(frame.f_code):
            found = _line(frame.f_code, frame.f_lineno)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return found or _creating_line(task)


def _creating_line(task: asyncio.Task[object]) -> str:
    """Return where a task was made that runs nothing but our code or asyncio's."""
    code, offset = getattr(task, "made_at", (None, 0))
    if code is None or not _is_users(code):
        return f"{UNKNOWN} of {getattr(task.get_coro(), '__qualname__', 'a coroutine')}"
    lines = (line for start, end, line in code.co_lines() if start <= offset < end)
    return _line(code, next(lines, None) or code.co_firstlineno)


def _ended_line(task: asyncio.Task[object]) -> str:
    error = None if task.cancelled() else task.exception()
    trace: TracebackType | None = None if error is None else error.__traceback__
    found = None
    while trace is not None:
        if _is_users(trace.tb_frame.f_code):
            found = _line(trace.tb_frame.f_code, trace.tb_lineno)
        trace = trace.tb_next
    if found is None:
        code = getattr(task.get_coro(), "cr_code", None)  # a frame that has returned is gone
        found = _line(code, code.co_firstlineno) if code else UNKNOWN
    return found
