"""The small deterministic event loop that one workflow body runs on.

A `BodyLoop` is an `asyncio.AbstractEventLoop` without I/O: its ready queue is drained
inside one plain callback of the host loop, so stock asyncio code (tasks, `gather`,
`TaskGroup`, locks, queues) runs on it unchanged. Its rules:

- callbacks run strictly in the order in which they were scheduled;
- time is journal time and stands still while the queue is drained; a timer is a
  durable wait, asked for through the `Timers` port;
- tasks and futures hash by their order of creation, because CPython keeps them in
  sets and iterates those sets (`TaskGroup`, `wait`, `as_completed`);
- sockets, threads, subprocesses and signals are refused with the cure.

What it cannot order: a set of futures that it did not make, such as `asyncio.Future()`
or what `gather` returns, iterates in the order of their addresses.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, NoReturn, Protocol, TypeVarTuple

from durable._base.signals import is_from_signal
from durable._replay.foreign import WAIT, WRAP_FUTURE, refuse_foreign
from durable._replay.siblings import ENSURE_FUTURE, siblings
from durable._replay.source import Place, creator
from durable._replay.stage import Stage, on_stage
from durable.errors import DurationError, NotInBodyError

T = TypeVarTuple("T")

logger = logging.getLogger("durable")

# The longest wait: beyond it a wait is taken for a mistake (a unit mix-up, usually).
WAIT_SECONDS_MAX = 100 * 365.25 * 86400

_sleep_callback = asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]


class Timers(Protocol):
    """What the loop asks of its body: durable waits, given-up steps, the journal's time."""

    def now(self) -> float:
        """Journal time in seconds since the run was created."""

    def arm(self, handle: Timer, delay: float, name: str) -> None:
        """Create a durable wait that runs `handle` after `delay` seconds."""

    def disarm(self, handle: Timer) -> None:
        """Forget the wait behind a cancelled `handle`."""

    def give_up(self, seq: int) -> None:
        """Take note that the outcome of the step `seq` is not awaited any more."""


class _NoTimers:
    """Stands for the body once the loop has let go of it."""

    def now(self) -> float:
        return 0.0

    def arm(self, handle: Timer, delay: float, name: str) -> None:
        pass

    def disarm(self, handle: Timer) -> None:
        pass

    def give_up(self, seq: int) -> None:
        pass


_NO_TIMERS = _NoTimers()


class Timer(asyncio.TimerHandle):
    """A loop timer; `seq` is the wait's number in the history, 0 when it has none."""

    __slots__ = ("seq",)
    seq: int


class _Handle(asyncio.Handle):
    """`asyncio.Handle` without debugging aids: one is made for every callback, by `call_soon`."""

    __slots__ = ()

    def cancel(self) -> None:
        self._cancelled = True
        self._callback, self._args = _do_nothing, ()

    def __repr__(self) -> str:
        return f"<handle of {'nothing' if self._cancelled else self._callback}>"


_new_handle = object.__new__


def _do_nothing() -> None:
    pass


class BodyFuture(asyncio.Future[Any]):
    """A future whose place in a set depends on nothing but the run and its order of creation."""

    __slots__ = ("_order",)
    _order: int

    def __hash__(self) -> int:
        return self._order


class StepFuture(BodyFuture):
    """The outcome of a step as the body awaits it; cancelling it gives the step up.

    `seq` is the step's number in the history, 0 when it has none.
    """

    __slots__ = ("seq",)
    seq: int

    def cancel(self, msg: Any = None) -> bool:
        """Give the step up: its outcome will not be taken any more."""
        if not super().cancel(msg):
            return False
        loop = self.get_loop()
        assert isinstance(loop, BodyLoop)
        loop._timers.give_up(self.seq)
        return True


class BodyTask(asyncio.Task[Any]):
    """A task whose place in a set depends on nothing but the run and its order of creation.

    `made_at` is where it was created, for messages about one that has no line of its own.
    """

    __slots__ = ("_order", "made_at")
    _order: int
    made_at: Place

    def __hash__(self) -> int:
        return self._order


class BodyLoop(asyncio.AbstractEventLoop):
    """See the module's docstring.

    `salt` spreads the hashes of different runs (asyncio keeps the tasks of all loops in
    one set) and must be a function of the run's id alone.
    """

    def __init__(self, timers: Timers, salt: int) -> None:
        self._timers: Timers = timers
        self._order = salt
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: list[BodyTask] = []
        self._early: dict[object, BodyTask] = {}  # made ahead of time, by their coroutines
        self._prune_at = 64
        self.stopped = self.is_gone = False
        self.muted = True  # while replaying: what is to be reported has been

    # --- running -------------------------------------------------------------------

    def drain(self, more: Callable[[], bool] | None = None) -> None:
        """Run callbacks until none is ready, or until `stopped` is set.

        Where `more` is given, it is then asked to make another one ready, and tells whether
        it has.
        """
        first, finalizer = sys.get_asyncgen_hooks()
        if first is not on_stage:
            with Stage():
                return self.drain(more)
        if getattr(finalizer, "__self__", None) is not self:
            sys.set_asyncgen_hooks(finalizer=self._close_dropped)
        host = _get_running_loop()
        _set_running_loop(self)
        ready: deque[Any] = self._ready
        try:
            while not self.stopped and (ready or (more is not None and more())):
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                try:
                    handle._context.run(handle._callback, *handle._args)
                except BaseException as error:
                    self._caught(error)
        finally:
            _set_running_loop(host)

    def _caught(self, error: BaseException) -> None:
        if not isinstance(error, (SystemExit, KeyboardInterrupt)):
            self.call_exception_handler({"message": "a callback failed", "exception": error})
        # Else the task that raised it holds it as its exception; the host must live on.
        elif is_from_signal(error):
            self.halt()  # a signal happened to land here: it is the host's
            raise error

    def _close_dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        if _get_running_loop() is self and not self.stopped:
            self.create_task(generator.aclose())

    def halt(self) -> None:
        """Leave `drain` after the current callback; what is ready stays as it is."""
        self.stopped = True

    def let_go(self) -> None:
        """Forget tasks and callbacks for good, so that no reference cycle keeps the body."""
        self._tasks, self._early = [], {}
        self._ready.clear()
        self._timers = _NO_TIMERS
        self.is_gone = True
        self.muted = True  # what a garbage collection finds from now on is nobody's news

    def live_tasks(self) -> list[BodyTask]:
        """Return the unfinished tasks in their order of creation."""
        self._tasks = [task for task in self._tasks if not task.done()]
        return self._tasks

    # --- what asyncio and bodies call ------------------------------------------------

    def call_soon(
        self,
        callback: Callable[[*T], object],
        *args: *T,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Schedule `callback` behind everything that is ready."""
        handle: Any = _new_handle(_Handle)  # a constructor would cost a call
        handle._callback, handle._args, handle._cancelled = callback, args, False
        handle._context = copy_context() if context is None else context
        self._ready.append(handle)
        return handle  # type: ignore[no-any-return]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[[*T], object],
        *args: *T,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Run `callback` after `delay` seconds: a durable wait when `delay` is positive."""
        if delay <= 0:
            return self.call_soon(callback, *args, context=context)
        if not delay <= WAIT_SECONDS_MAX:
            raise DurationError(
                f"cannot wait for {delay!r} seconds: give a number from 0 to 100 years"
            )
        handle = Timer(self.time() + delay, callback, args, self, context)
        self._timers.arm(handle, delay, "sleep" if callback is _sleep_callback else "timer")
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[[*T], object],
        *args: *T,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Run `callback` at the loop time `when`."""
        return self.call_later(when - self.time(), callback, *args, context=context)

    def fire(self, handle: asyncio.Handle) -> None:
        """Make the callback of a completed wait ready."""
        self._ready.append(handle)

    def time(self) -> float:
        """Return journal time: seconds since the run was created."""
        return self._timers.now()

    def create_future(self) -> BodyFuture:
        """Return a new future of this loop."""
        caller = sys._getframe(1)
        if caller.f_code is WAIT or caller.f_code is WRAP_FUTURE:
            refuse_foreign(caller, self)
        self._order += 1
        future = BodyFuture(loop=self)
        future._order = self._order
        return future

    def create_step_future(self) -> StepFuture:
        """Return a new future for the outcome of a step."""
        future = StepFuture(loop=self)
        future._order = self._order = self._order + 1
        future.seq = 0
        return future

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: object = None,
        context: Context | None = None,
        **options: Any,
    ) -> BodyTask:
        """Return a task for `coro`; its default name is the same on every replay."""
        caller = sys._getframe(1)
        if caller.f_code is ENSURE_FUTURE and coro not in self._early:
            for sibling in siblings(caller, coro):
                self._early[sibling] = self._new_task(sibling, None, None)
        task = self._early.pop(coro, None) or self._new_task(coro, name, context)
        task.made_at = creator(caller)
        return task

    def _new_task(
        self, coro: Coroutine[Any, Any, Any], name: object, context: Context | None
    ) -> BodyTask:
        self._order += 1
        # asyncio.Task hashes itself while it is constructed: the order comes first.
        task = BodyTask.__new__(BodyTask)
        task._order = self._order
        task.__init__(  # type: ignore[misc]
            coro, loop=self, name=name or f"Task-{self._order & 0xFFFF}", context=context
        )
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._prune_at = 2 * len(self.live_tasks()) + 64
        return task

    def get_debug(self) -> bool:
        """Return False: asyncio's debug mode would read the real clock."""
        return False

    def is_running(self) -> bool:
        """Return True: code can only ask while the body runs."""
        return True

    def is_closed(self) -> bool:
        """Return False: a body's loop ends with its run."""
        return False

    def get_task_factory(self) -> None:
        """Return None: tasks are always made by `create_task`."""

    def get_exception_handler(self) -> None:
        """Return None: unhandled errors go to the log."""

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log what asyncio reports."""
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log what asyncio reports: errors that nobody awaits."""
        if self.muted:
            return
        error = context.get("exception")
        logger.error("in a workflow body: %s", context.get("message"), exc_info=error)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        assert isinstance(handle, Timer)
        self._timers.disarm(handle)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refused(self: BodyLoop, *args: object, **kwargs: object) -> NoReturn:
        raise NotInBodyError(
            f"loop.{name}() is not possible in a workflow body, because it cannot be replayed: "
            "put this work in a @step and await the step"
        )

    refused.__name__ = name
    return refused


for _name in vars(asyncio.AbstractEventLoop):
    if not _name.startswith("__") and _name not in vars(BodyLoop):
        setattr(BodyLoop, _name, _refuse(_name))


def make_loop(timers: Timers, salt: int) -> BodyLoop:
    """Return a loop for one body; the refusals above make the class complete."""
    made: BodyLoop = BodyLoop(timers, salt)  # type: ignore[abstract]
    return made
