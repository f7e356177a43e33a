"""Names the line of user code behind a call or a suspended task, for messages.

Frames of this package and of the standard library's asyncio are passed over, so that
what is named is a line its author can edit.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from types import FrameType

_PASSED_OVER = tuple(
    str(Path(file).parent) for file in (str(Path(__file__).parent), asyncio.__file__)
) + (contextlib.__file__,)

UNKNOWN = "an unknown line"


def _is_users(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(_PASSED_OVER)


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def calling_line() -> str:
    """Return ``file:line in function`` of the innermost user frame of the current call."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_users(frame):
            return _line(frame)
        frame = frame.f_back
    return UNKNOWN


def suspended_line(task: asyncio.Task[object]) -> str:
    """Return ``file:line in function`` where the innermost user code of `task` waits."""
    awaited: object = task.get_coro()
    found = UNKNOWN
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if isinstance(frame, FrameType) and _is_users(frame):
            found = _line(frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return found
