"""Bodies suspended in every way that has clean-up code, and the means to drop them.

Plain functions without pytest, so that `test_freeze.py` can also run this file as a
script on the other Pythons of the machine:

    python frozen_bodies.py path/to/freeze.py [exit | exit-pinned]
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import itertools
import sys
import types
import warnings
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from typing import Self

BODIES: dict[str, Callable[[Log], Awaitable[object]]] = {}


class Log:
    """What ran that must not run, and weak references to what must be freed."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.kept: list[weakref.ref[Local]] = []

    def local(self) -> Local:
        """Return an object for a frame to hold."""
        obj = Local()
        self.kept.append(weakref.ref(obj))
        return obj

    def alive(self) -> int:
        """Return how many of those objects still exist."""
        return sum(ref() is not None for ref in self.kept)


class Local:
    """Stands for what the locals of a body hold."""


def body(fn: Callable[[Log], Awaitable[object]]) -> Callable[[Log], Awaitable[object]]:
    """Register a body."""
    BODIES[fn.__name__] = fn
    return fn


def for_ever() -> asyncio.Future[None]:
    """Return a future that nobody resolves."""
    return asyncio.get_running_loop().create_future()


async def leaf(log: Log) -> None:
    """Wait for ever, with clean-up code."""
    held = log.local()
    try:
        await for_ever()
    finally:
        log.ran.append(f"leaf {held}")


@contextlib.contextmanager
def manager(log: Log) -> Iterator[None]:
    """Be a context manager made from a generator."""
    held = log.local()
    try:
        yield
    finally:
        log.ran.append(f"manager {held}")


@contextlib.asynccontextmanager
async def async_manager(log: Log) -> AsyncIterator[None]:
    """Be an async context manager made from a generator."""
    held = log.local()
    try:
        yield
    finally:
        log.ran.append(f"async manager {held}")


def numbers(log: Log) -> Iterator[int]:
    """Be a generator with clean-up code."""
    held = log.local()
    try:
        yield from range(10)
    finally:
        log.ran.append(f"numbers {held}")


async def async_numbers(log: Log, wait: bool = False) -> AsyncIterator[int]:
    """Be an async generator with clean-up code, suspended at a yield or an await."""
    held = log.local()
    try:
        yield 1
        if wait:
            await for_ever()
        yield 2
    finally:
        log.ran.append(f"async numbers {held}")


class Resource:
    """A class-based async context manager that keeps an exit stack in an attribute."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def __aenter__(self) -> Self:
        self._stack = contextlib.AsyncExitStack()
        await self._stack.enter_async_context(async_manager(self._log))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._log.ran.append("resource")
        await self._stack.aclose()


class Custom:
    """An awaitable of the user's."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __await__(self) -> Generator[object, None, None]:
        try:
            yield from leaf(self._log).__await__()
        finally:
            self._log.ran.append("custom")


# --- the bodies ---------------------------------------------------------------------


@body
async def plain_finally(log: Log) -> None:
    """Wait in a try."""
    await leaf(log)


@body
async def nested_awaits(log: Log) -> None:
    """Wait below many frames."""
    await _nested(log, 5)


async def _nested(log: Log, depth: int) -> None:
    try:
        await (_nested(log, depth - 1) if depth else leaf(log))
    except BaseException as error:
        log.ran.append(f"except {error!r}")
        raise


@body
async def waiting_in_except(log: Log) -> None:
    """Wait while an exception is being handled."""
    held = ValueError()
    held.local = log.local()  # type: ignore[attr-defined]
    try:
        raise held
    except ValueError:
        del held
        await leaf(log)


@body
async def waiting_in_finally(log: Log) -> None:
    """Wait in the middle of clean-up code."""
    try:
        pass
    finally:
        await leaf(log)
        log.ran.append("rest of finally")


@body
async def with_generator_manager(log: Log) -> None:
    """Wait inside managers made from generators."""
    with manager(log):
        async with async_manager(log):
            await for_ever()


@body
async def with_class_manager(log: Log) -> None:
    """Wait inside a manager that keeps a stack in an attribute."""
    async with Resource(log):
        await for_ever()


@body
async def with_exit_stacks(log: Log) -> None:
    """Wait with callbacks on both kinds of stack."""
    async with contextlib.AsyncExitStack() as outer:
        await outer.enter_async_context(async_manager(log))
        outer.callback(log.ran.append, "callback")
        with contextlib.ExitStack() as inner:
            inner.enter_context(manager(log))
            await for_ever()


@body
async def stack_outside_of_with(log: Log) -> None:
    """Hold a stack that no `with` guards."""
    stack = contextlib.ExitStack()
    stack.enter_context(manager(log))
    await leaf(log)
    stack.close()


@body
async def in_task_group(log: Log) -> None:
    """Wait for children of a group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(log))
        group.create_task(with_generator_manager(log))  # type: ignore[arg-type]


@body
async def in_gather(log: Log) -> None:
    """Wait for coroutines and an inner gather."""
    await asyncio.gather(leaf(log), asyncio.gather(leaf(log), leaf(log)))


@body
async def in_shield(log: Log) -> None:
    """Wait for a shielded task that nothing else refers to."""
    await asyncio.shield(leaf(log))


@body
async def in_wait_for_and_timeout(log: Log) -> None:
    """Wait with a deadline."""
    async with asyncio.timeout(3600):
        await asyncio.wait_for(leaf(log), 3600)


@body
async def in_wait_and_as_completed(log: Log) -> None:
    """Wait for the first of some."""
    tasks = [asyncio.create_task(leaf(log)) for _ in range(2)]
    extra = asyncio.create_task(asyncio.wait(tasks))
    for first in asyncio.as_completed([extra, *tasks]):
        await first


@body
async def in_locks_and_queue(log: Log) -> None:
    """Wait for asyncio's own primitives."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    condition = asyncio.Condition()
    async with asyncio.Lock(), asyncio.Semaphore(), condition:
        other = asyncio.create_task(condition.wait())
        await asyncio.gather(queue.get(), asyncio.Event().wait(), other, leaf(log))


@body
async def iterating_async_generator(log: Log) -> None:
    """Wait in the loop over an async generator, and one suspended in its own await."""
    async for _ in async_numbers(log):
        async for _ in async_numbers(log, wait=True):
            pass


@body
async def closing_async_generator(log: Log) -> None:
    """Wait with a generator in `aclosing` and one behind `anext`."""
    async with contextlib.aclosing(async_numbers(log, wait=True)) as generator:  # type: ignore[type-var]
        await anext(generator)
        await anext(generator, None)


@body
async def iterating_generators(log: Log) -> None:
    """Wait in loops whose iterators hold generators."""
    for _ in enumerate(numbers(log)):
        for _ in zip(numbers(log), map(str, numbers(log)), strict=True):
            for _ in itertools.chain(numbers(log), [1]):
                await for_ever()


@types.coroutine
def old_style(log: Log) -> Generator[object, None, None]:
    """Be a coroutine made from a generator."""
    try:
        yield from leaf(log).__await__()
    finally:
        log.ran.append("old style")


@body
async def odd_awaitables(log: Log) -> None:
    """Wait through a generator-based coroutine and a class of the user's."""
    await asyncio.gather(old_style(log), asyncio.ensure_future(_await(Custom(log))))


async def _await(awaitable: Awaitable[object]) -> None:
    await awaitable


@body
async def started_generators_in_containers(log: Log) -> None:
    """Hold generators in all sorts of places."""
    made = [numbers(log) for _ in range(7)]
    for generator in made:
        next(generator)
    pop = made.pop
    partial = functools.partial(next, pop())
    held = {"a": [pop()], "b": (pop(), deque([pop()])), "c": {pop()}}
    closed_over = pop()

    def closure() -> int:
        return next(closed_over)

    bound = pop().__next__
    await leaf(log)
    print(partial, held, closure, bound)


@body
async def never_started(log: Log) -> None:
    """Hold a coroutine and a task that have not begun."""
    held = [leaf(log), async_numbers(log).__anext__()]
    await for_ever()
    print(held)


@body
async def fresh_task(log: Log) -> None:
    """Have a task and a gather made last of all."""
    await asyncio.gather(leaf(log), _spawn(log))


async def _spawn(log: Log) -> None:
    for _ in range(100):
        await asyncio.sleep(0)
    held = asyncio.create_task(leaf(log))
    await for_ever()
    print(held)


@body
async def knows_its_own_task(log: Log) -> None:
    """Be part of a reference cycle."""
    me = asyncio.current_task()
    await leaf(log)
    print(me)


@body
async def lost_exception(log: Log) -> None:
    """Hold a failed task whose exception nobody fetched."""

    async def fail() -> None:
        raise ValueError("nobody looks")

    held = asyncio.create_task(fail())
    await leaf(log)
    print(held)


# --- dropping them ------------------------------------------------------------------

Tasks = set["asyncio.Task[object]"]
Freeze = Callable[[Iterable["asyncio.Task[object]"]], bool]


def suspend(name: str, log: Log) -> tuple[asyncio.AbstractEventLoop, Tasks]:
    """Run a body on a loop of its own until it waits; complaints go to the log."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: log.ran.append(context["message"]))
    task = loop.create_task(_await(BODIES[name](log)))
    for _ in range(12 if name != "fresh_task" else 102):
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert not task.done(), task
    return loop, asyncio.all_tasks(loop)


def drop(name: str, freeze: Freeze) -> Log:
    """Suspend a body, freeze it, drop every reference and collect."""
    log = Log()
    loop, tasks = suspend(name, log)
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda args: log.ran.append(repr(args.exc_value))
    with warnings.catch_warnings(record=True) as noise:
        warnings.simplefilter("always")
        freeze(tasks)
        loop.close()
        del loop, tasks
        gc.collect()
    sys.unraisablehook = unraisable
    log.ran += [str(warning.message) for warning in noise]
    return log


def _load(path: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("freeze", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["freeze"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Talker(Log):
    """Prints what runs, for the end of the interpreter."""

    def __init__(self) -> None:
        super().__init__()
        self.ran = self  # type: ignore[assignment]

    def append(self, text: str) -> None:
        """Print instead of remembering."""
        print("RAN", text, flush=True)


def main(path: str, mode: str = "drop") -> None:
    """Run all bodies; print one line per body that misbehaves, and `ok` at the end."""
    if mode == "exit-pinned":
        sys.byteorder = "big"  # an interpreter that cannot freeze
    freeze = _load(path).freeze
    if mode == "drop":
        for name in BODIES:
            log = drop(name, freeze)
            if log.ran or log.alive():
                print(name, log.ran, log.alive())
    else:
        for name in BODIES:
            loop, tasks = suspend(name, Talker())
            assert freeze(tasks) is (mode == "exit")
            loop.close()
            if mode == "exit":
                globals()[f"tasks_of_{name}"] = tasks
    print("ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
