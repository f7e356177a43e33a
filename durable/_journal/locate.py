"""Finds the part of a value that cannot be stored, and says what to do about it.

Owns the search that turns "cannot pickle 'sqlite3.Connection' object" into
``args[0]["conn"]``. It runs only after a value was refused, so it may be slow; it is
bounded all the same, and it never raises because of the value it looks at.

A root is the name of the whole value, or None for the arguments of a call, whose parts
are called ``args[0]`` and ``kwargs["x"]``.

Does not know how values are stored: it is given a function that tries.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from types import BuiltinMethodType, FunctionType, MethodType

__all__ = [
    "Root",
    "cure_for",
    "is_depth_error",
    "key_text",
    "largest",
    "locate",
    "roots",
    "type_name",
]

Root = str | None
Part = tuple[str, object]

_DEPTH_MAX = 100
_TRIALS_MAX = 10_000

_GENERIC_CURE = "pass plain data, and make the object inside the step that uses it"
_CURES = {
    "coroutine": "await it first, and store its result",
    "generator": "turn it into a list first",
    "async_generator": "collect it into a list first",
    "memoryview": "turn it into bytes first",
    "Task": "await it first, and store its result",
    "Future": "await it first, and store its result",
    "module": "import it where it is used",
}


def locate(
    value: object,
    root: Root,
    reason: Callable[[object], BaseException | None],
    *,
    descend: bool = True,
) -> Part:
    """The path and the value of the innermost part that `reason` refuses.

    Args:
        value: the whole value, which was refused.
        root: its name, or None for `(args, kwargs)`.
        reason: why a part cannot be stored, or None if it can.
        descend: look inside; False stops at the root (or at the argument).
    """
    path, culprit = root or "args", value
    seen: set[int] = set()
    parts = roots(value, root)
    for _ in range(_DEPTH_MAX):
        found = _first_refused(parts, reason, seen)
        if found is None:
            break
        path, culprit = found
        if not descend:
            break
        seen.add(id(culprit))
        parts = _parts(path, culprit)
    return path, culprit


def largest(value: object, root: Root, weigh: Callable[[object], int]) -> str:
    """The name of the root, or of the argument of a call that weighs most."""
    if root is not None:
        return root
    try:
        return max(roots(value, root), key=lambda part: weigh(part[1]))[0]
    except Exception:
        return "args"


def is_depth_error(error: BaseException | None) -> bool:
    """Whether the value was refused for its depth, not for what is in it."""
    # cloudpickle wraps the RecursionError.
    return isinstance(error, RecursionError) or (
        error is not None and isinstance(error.__cause__, RecursionError)
    )


def type_name(value: object) -> str:
    """Module and name of a value's type, without the module for builtins."""
    kind = type(value)
    prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{prefix}{kind.__qualname__}"


def cure_for(value: object) -> str:
    """What the author of the call can do about such a value."""
    return _CURES.get(type(value).__name__, _GENERIC_CURE)


def _first_refused(
    parts: Iterator[Part], reason: Callable[[object], BaseException | None], seen: set[int]
) -> Part | None:
    try:
        for path, part in islice(parts, _TRIALS_MAX):
            if id(part) not in seen and reason(part) is not None:
                return path, part
    except Exception:
        return None  # the value's own code failed while we looked inside: stop here
    return None


def roots(value: object, root: Root) -> Iterator[Part]:
    """The named parts that the caller handed in: the root, or each argument of a call."""
    if root is not None:
        yield root, value
    elif isinstance(value, (tuple, list)):
        args, kwargs = value
        yield from ((f"args[{index}]", item) for index, item in enumerate(args))
        yield from ((f"kwargs[{key_text(name)}]", item) for name, item in kwargs.items())


def _parts(path: str, value: object) -> Iterator[Part]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}[{key_text(key)}]", item
        yield from ((f"{path} (key {key_text(key)})", key) for key in value)
    elif isinstance(value, (list, tuple, deque)):
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"{path} (element {key_text(item)})", item) for item in value)
    yield from _inner_parts(path, value)


def _inner_parts(path: str, value: object) -> Iterator[Part]:
    if isinstance(value, BaseException):
        yield from ((f"{path}.args[{index}]", item) for index, item in enumerate(value.args))
    elif isinstance(value, functools.partial):
        yield from (
            (f"{path}.{name}", getattr(value, name)) for name in ("func", "args", "keywords")
        )
    elif isinstance(value, (MethodType, BuiltinMethodType)):
        yield f"{path}.__self__", value.__self__
    elif isinstance(value, FunctionType):
        names = zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
        yield from (
            (f"{path} (closure variable {name})", cell.cell_contents) for name, cell in names
        )
        return
    if not isinstance(value, type):
        yield from ((f"{path}.{name}", item) for name, item in _state(value).items())


def _state(value: object) -> dict[str, object]:
    # What the object itself says is its state: attributes it leaves out are innocent.
    state = value.__getstate__()
    halves = state if isinstance(state, tuple) else (state,)
    merged: dict[str, object] = {}
    for half in halves:
        if isinstance(half, dict):
            merged.update(half)
    return merged


def key_text(key: object) -> str:
    """A key as it is written in a path, bounded; never raises."""
    try:
        text = json.dumps(key, ensure_ascii=False) if type(key) is str else repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    return text if len(text) <= 60 else f"{text[:57]}..."
