"""The order of coroutines that asyncio puts into a set before it makes tasks of them.

`asyncio.as_completed` does so, and a set of coroutines comes in the order of their
addresses: steps would be issued in another order on each replay. The loop therefore asks
here, when a task is wanted by `ensure_future`, which other coroutines were given with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import CodeType, FrameType
from typing import Any

from durable.errors import NotInBodyError

_tasks: Any = asyncio.tasks

ENSURE_FUTURE: CodeType = getattr(_tasks, "_ensure_future", _tasks.ensure_future).__code__

# The code that makes the set, and the name of the argument in its frame.
_MAKER: CodeType = _tasks.as_completed.__code__
_GIVEN = "fs"
if hasattr(_tasks, "_AsCompletedIterator"):  # from CPython 3.13 on
    _MAKER = _tasks._AsCompletedIterator.__init__.__code__
    _GIVEN = "aws"
_FRAMES_BETWEEN_MAX = 3


def siblings(
    ensure_future: FrameType, coro: Coroutine[Any, Any, Any]
) -> list[Coroutine[Any, Any, Any]]:
    """Return the coroutines given to `as_completed` with `coro`, in the order given.

    Empty when the frame `ensure_future` was called by something else.

    Raises:
        NotInBodyError: they were given in a way that has no order (any more).
    """
    frame = ensure_future.f_back
    for _ in range(_FRAMES_BETWEEN_MAX):
        if frame is None:
            break
        if frame.f_code is _MAKER:
            return _in_order(frame.f_locals[_GIVEN], coro)
        frame = frame.f_back
    return []


def _in_order(given: Any, coro: Coroutine[Any, Any, Any]) -> list[Coroutine[Any, Any, Any]]:
    has_order = not isinstance(given, (set, frozenset)) and iter(given) is not given
    found = [each for each in given if asyncio.iscoroutine(each)] if has_order else []
    if coro not in found:
        raise NotInBodyError(
            "as_completed() in a workflow body needs coroutines in a list, or tasks: it takes "
            "them in the order of their addresses, which cannot be replayed. Write "
            "asyncio.as_completed([step(x) for x in items])"
        )
    return list(dict.fromkeys(found))
