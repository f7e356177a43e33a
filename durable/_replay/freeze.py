"""Dropping suspended coroutines without running their clean-up code.

When a run leaves memory (evicted, parked, process going down) its suspended body is
garbage, and CPython closes a garbage coroutine by raising GeneratorExit at its await:
`finally` blocks and `with` exits would run as if the run had been cancelled. `freeze`
prevents this. CPython calls a finalizer once per object and keeps the flag "already
called" as bit 0 of the word before the object (`_gc_prev` of its GC header); with the
bit set, deallocation frees the frame and its locals but never enters the code.

- The bit is written only where reading it has proved right on scratch objects, in one
  C call (a bit field) that no other thread can split, and is read back with
  `gc.is_finalized`.
- Elsewhere (PyPy, free-threaded builds) the coroutines are kept alive for ever: a
  leak, but never a `finally` that lies.
- Only what hangs below the given bodies is frozen, never another loop's tasks.
- Explicit `close()`, `aclose()` or `throw()` on a frozen object still work as ever.

Known limit: a coroutine whose own local variable is that very coroutine is not freed.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cache
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    ModuleType,
    TracebackType,
)

# How far to look for generators that a body holds: containers and iterators of the
# standard library are always entered, instances of other classes this deep below a
# frame, and no more objects than this outside of frames.
_INSTANCES_DEEP = 2
_OBJECTS_MAX = 4096

_SKIP, _FRAME, _FUTURE, _FUNCTION, _HOLDER, _INSTANCE = range(6)

_SUSPENDABLE = (CoroutineType, GeneratorType, AsyncGeneratorType)
_NEVER = (
    type,
    ModuleType,
    CodeType,
    FrameType,
    TracebackType,
    BaseException,
    AbstractEventLoop,
    asyncio.Handle,
)
_HOLDERS = frozenset(
    {"builtins", "types", "collections", "contextlib", "functools", "itertools", "asyncio"}
    | {"_collections", "_functools", "_asyncio"}
)

_pinned: list[object] = []


def freeze(tasks: Iterable[asyncio.Task[object]]) -> bool:
    """Make the suspended coroutines of `tasks`, and all below them, safe to drop.

    Call it between two steps of the tasks' loop, then drop the references. Afterwards
    no `finally`, `except` or `with` exit runs when they are collected, and nothing is
    logged about pending tasks, lost exceptions or coroutines that were never awaited.

    Args:
        tasks: the tasks of one body's loop, finished ones included if convenient.

    Returns:
        True: the memory is free as soon as the references are gone. False: this
        interpreter offers no way, so the objects are kept alive until the process ends.

    Example:
        freeze(loop.live_tasks())
    """
    roots = list(tasks)
    for task in roots:
        _quieten(task)
    if supported() and all(_mark(suspended) for suspended in _Walk(roots).collect()):
        return True
    _pin(roots)
    return False


@cache
def supported() -> bool:
    """Return whether this interpreter can drop coroutines unfinished; tried out once."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or sys.byteorder != "little" or not gil:
        return False
    return _flag_is_where_expected() and _frozen_scratch_stays_silent()


class _Header(ctypes.Structure):
    """The word before an object; one bit of it, so that a write is one C call."""

    _fields_ = (("finalized", ctypes.c_size_t, 1),)


def _header(obj: object) -> _Header:
    return _Header.from_address(id(obj) - ctypes.sizeof(ctypes.c_size_t))


def _mark(suspended: object) -> bool:
    # An untracked object need not have a GC header, and then the word is not ours.
    if not gc.is_tracked(suspended):
        return False
    if not gc.is_finalized(suspended):
        _header(suspended).finalized = 1
    return gc.is_finalized(suspended)


class _Walk:
    """Collects everything suspended below some tasks, without running any code of theirs."""

    def __init__(self, tasks: Sequence[asyncio.Task[object]]) -> None:
        self._near: deque[tuple[object, int]] = deque((task, 0) for task in tasks)
        self._far: deque[tuple[object, int]] = deque()
        self._loops = {task.get_loop() for task in tasks}
        self._seen: dict[int, object] = {}  # holds the objects, so that ids stay theirs
        self._kinds: dict[type, int] = {}
        self._found: list[object] = []

    def collect(self) -> list[object]:
        """Return the coroutines and generators; frames go first, so limits never hit them."""
        budget = _OBJECTS_MAX
        while self._near or (self._far and budget > 0):
            if self._near:
                obj, depth = self._near.popleft()
            else:
                obj, depth = self._far.popleft()
                budget -= 1
            if id(obj) not in self._seen:
                self._seen[id(obj)] = obj
                self._enter(obj, depth)
        return self._found

    def _enter(self, obj: object, depth: int) -> None:
        kind = self._kind(type(obj))
        if kind == _FRAME:
            self._found.append(obj)
            self._push(gc.get_referents(obj), 0)
        elif kind == _FUTURE:
            self._enter_future(obj, depth)
        elif kind == _FUNCTION:
            self._push(getattr(obj, "__closure__", None) or (), depth)
        elif kind == _HOLDER:
            self._push(gc.get_referents(obj), depth)
        elif kind == _INSTANCE and depth < _INSTANCES_DEEP:
            self._push(gc.get_referents(obj), depth + 1)

    def _enter_future(self, future: object, depth: int) -> None:
        # Callbacks and contexts lead into the engine, so only what is the body's own is taken.
        if future.get_loop() not in self._loops:  # type: ignore[attr-defined]
            return
        _quieten(future)
        below = [getattr(future, "_fut_waiter", None), *getattr(future, "_children", ())]
        below += [call[0] for call in getattr(future, "_callbacks", None) or ()]
        if hasattr(future, "get_coro"):
            below.append(future.get_coro())
        self._push([obj for obj in below if self._kind(type(obj)) != _HOLDER], depth)

    def _push(self, objects: Sequence[object], depth: int) -> None:
        for obj in objects:
            if not gc.is_tracked(obj):
                continue  # it cannot hold anything that is suspended
            kind = self._kind(type(obj))
            if kind in (_FRAME, _FUTURE):
                self._near.append((obj, depth))
            elif kind != _SKIP:
                self._far.append((obj, depth))

    def _kind(self, cls: type) -> int:
        kind = self._kinds.get(cls)
        if kind is None:
            kind = self._kinds[cls] = _classify(cls)
        return kind


def _classify(cls: type) -> int:
    if issubclass(cls, _NEVER):
        return _SKIP
    # From 3.13 the awaitables of async generators have a finalizer too: it warns when unused.
    if cls in _SUSPENDABLE or (cls.__name__.startswith("async_gen") and hasattr(cls, "__del__")):
        return _FRAME
    if hasattr(cls, "_asyncio_future_blocking"):
        return _FUTURE
    if cls is FunctionType:
        return _FUNCTION
    room = str(cls.__module__).partition(".")[0]
    if room in _HOLDERS:
        return _HOLDER
    return _SKIP if room == "durable" else _INSTANCE


def _quieten(future: object) -> None:
    """A dropped task is not a lost one: asyncio must not complain about it."""
    if getattr(future, "_log_destroy_pending", False):
        future._log_destroy_pending = False  # type: ignore[attr-defined]
    if getattr(future, "_log_traceback", False):
        future._log_traceback = False  # type: ignore[attr-defined]


def _pin(tasks: Sequence[object]) -> None:
    # The list alone would be emptied with the module when the interpreter ends, and the
    # `finally` blocks would run then. One reference that nobody owns keeps it for ever.
    if not _pinned and hasattr(ctypes, "pythonapi"):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_pinned))
    _pinned.extend(tasks)


# --- the trial ----------------------------------------------------------------------


class _Phoenix:
    """Comes back from its finalizer once, which leaves it alive with the flag set."""

    def __init__(self, risen: list[object]) -> None:
        self.risen = risen

    def __del__(self) -> None:
        self.risen.append(self)


def _flag_is_where_expected() -> bool:
    """Compare the bit with what `gc` says, on objects without and with it. Reads only."""
    risen: list[object] = []
    _Phoenix(risen)  # dies at once, and is in `risen` then
    samples = [[], *risen]
    said = [gc.is_finalized(obj) for obj in samples]
    read = [bool(_header(obj).finalized) for obj in samples]
    risen.clear()  # it refers to the list that refers to it
    return said == read == [False, True]


def _frozen_scratch_stays_silent() -> bool:
    ran: list[bool] = []

    def scratch() -> Iterable[None]:
        try:
            yield
        finally:
            ran.append(True)

    suspended = scratch()
    next(iter(suspended))
    marked = _mark(suspended)
    del suspended
    return marked and not ran
