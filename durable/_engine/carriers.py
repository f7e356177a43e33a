"""The tasks of the host's loop that async attempts run as.

A task costs more than all else that a short step needs, and most steps that are short
return without waiting for anything. So a coroutine is entered at once, from a plain
callback, under the name of a task that has nothing to do: `asyncio.current_task()`,
`asyncio.timeout`, cancellation and context variables are as in a task of its own. When
it waits for something, that task carries it on from there. When it returns first, the
task lends its name to the next coroutine, unless somebody has taken hold of it.

Invariants: a coroutine runs in its own context from beginning to end; nobody can tell
that two coroutines ran under the name of one task.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from asyncio.tasks import _enter_task, _leave_task  # public: see "Extending" in asyncio's manual
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from sys import getrefcount
from typing import Any, Generic, Protocol, TypeVar
from weakref import getweakrefcount

_NOTHING: Any = object()


class Carried(Protocol):
    """Who a coroutine belongs to; knows its task while it is suspended."""

    task: asyncio.Task[None] | None


A = TypeVar("A", bound=Carried)
Over = Callable[[A, Any, BaseException | None], None]


class Carriers(Generic[A]):
    """See the module's docstring.

    Args:
        over: called with the owner, and the value or the error, when a coroutine has ended.
            What it raises goes to the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, over: Over[A]) -> None:
        self._loop = loop
        self._over = over
        self._idle: _Carrier[A] | None = None
        self._context = Context()  # of the tasks themselves; entered by their steps alone

    def begin(self, owner: A, work: Coroutine[Any, Any, Any], context: Context) -> None:
        """Run `work` until it waits for something or ends; not from within a task.

        `owner.task` is set if it waits.
        """
        carrier, self._idle = self._idle, None
        if carrier is None or carrier.task.done() or carrier.task.cancelling():
            carrier = _Carrier(self._loop, self._over, self._context)
        try:
            if carrier.enter(owner, work, context):
                self._idle = carrier
        except BaseException:  # Ctrl-C, or `over` failed
            carrier.dismiss()
            raise

    def close(self) -> None:
        """Let the task that has nothing to do end."""
        carrier, self._idle = self._idle, None
        if carrier is not None and not self._loop.is_closed():
            carrier.dismiss()


class _Carrier(Coroutine[Any, Any, None], Generic[A]):
    """What a task runs: nothing at first, then a coroutine that was begun elsewhere."""

    def __init__(self, loop: asyncio.AbstractEventLoop, over: Over[A], context: Context) -> None:
        self._loop = loop
        self._over = over
        self._owner: A | None = None
        self._work: Coroutine[Any, Any, Any] | None = None
        self._context: Context | None = None
        self._held: Any = _NOTHING  # what the coroutine waits for, until the task knows
        self._awaits = False  # whether that is a future
        self._gate: asyncio.Future[None] | None = None  # what the task waits for until then
        self._dismissed = False
        self.__qualname__ = "waiting for a step"  # in the `repr` of the task
        self.task: asyncio.Task[None] = loop.create_task(self, context=context)
        self._name = self.task.get_name()
        # Nothing is lost with a task that has nothing to do.
        setattr(self.task, "_log_destroy_pending", False)

    # --- before there is a coroutine to carry -------------------------------------------

    def enter(self, owner: A, work: Coroutine[Any, Any, Any], context: Context) -> bool:
        """Run `work` up to its first wait; True when it has ended and the task is as before."""
        task = self.task
        holders, watchers = getrefcount(task), getweakrefcount(task)
        end: tuple[Any, BaseException | None] | None = None
        _enter_task(self._loop, task)
        try:
            self._held = context.run(work.send, None)
        except StopIteration as stop:
            end = stop.value, None
        except BaseException as error:
            end = None, error
        finally:
            _leave_task(self._loop, task)
        if end is None:
            self._carry(owner, work, context)
            return False
        try:
            self._over(owner, *end)
        finally:
            del end  # the error knows this frame
        if (
            getrefcount(task) == holders
            and getweakrefcount(task) == watchers
            and not task.cancelling()
            and not task._callbacks
            and task.get_name() == self._name
        ):
            return True
        self.dismiss()
        return False

    def _carry(self, owner: A, work: Coroutine[Any, Any, Any], context: Context) -> None:
        self._owner, self._work, self._context = owner, work, context
        owner.task = self.task
        self.__qualname__ = getattr(work, "__qualname__", "a step")
        # The flag tells a task that a future is awaited; others may come to await it, too,
        # before ours gets to know of it.
        self._awaits = getattr(self._held, "_asyncio_future_blocking", None) is True
        if self._awaits:
            self._held._asyncio_future_blocking = False
        setattr(self.task, "_log_destroy_pending", True)
        self._open_gate()

    def dismiss(self) -> None:
        """Let the task end."""
        self._dismissed = True
        self._open_gate()

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None and not gate.done():
            gate.set_result(None)

    # --- what the task does ---------------------------------------------------------------

    def send(self, value: Any) -> Any:
        """Go on; called by the task."""
        if self._work is None:
            if self._dismissed:
                del self.task
                raise StopIteration
            self._gate = gate = self._loop.create_future()
            gate._asyncio_future_blocking = True
            return gate
        if self._held is not _NOTHING:
            held, self._held = self._held, _NOTHING
            return self._shown(held)
        return self._go_on(self._work.send, None)

    def throw(self, error: Any, *rest: Any) -> Any:
        """Go on with an exception; called by the task."""
        if self._work is None:
            del self.task
            raise error
        held, self._held = self._held, _NOTHING
        if (
            asyncio.isfuture(held)
            and isinstance(error, CancelledError)
            and held.cancel(*error.args)
        ):
            return self._shown(held)  # a task passes a cancellation on to what it waits for
        return self._go_on(self._work.throw, error)

    def _shown(self, held: Any) -> Any:
        if self._awaits:
            held._asyncio_future_blocking = True
        return held

    def _go_on(self, resume: Callable[[Any], Any], given: Any) -> Any:
        assert self._context is not None
        try:
            return self._context.run(resume, given)
        except StopIteration as end:
            self._end(end.value, None)
        except CancelledError as error:
            self._end(None, error)
            raise
        except BaseException as error:
            self._end(None, error)
        raise StopIteration

    def _end(self, value: Any, error: BaseException | None) -> None:
        owner = self._owner
        del self.task  # which refers to us
        self._owner = self._work = self._context = None
        assert owner is not None
        self._over(owner, value, error)

    def close(self) -> None:
        """Close the coroutine, in its context."""
        if self._work is not None and self._context is not None:
            self._context.run(self._work.close)

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("this runs as a task of its own")

    @property
    def cr_frame(self) -> Any:
        """The frame of the coroutine, for `Task.print_stack`."""
        return getattr(self._work, "cr_frame", None)
