"""A running workflow body: events in, commands out.

`Body` owns one `BodyLoop` and one `Script`. Events are applied one at a time, and the
loop is drained to idle after each, live and on replay alike: that is the one ordering
rule. The body never waits and has no effect outside itself; `created` and `ended`
collect the steps and waits whose effects the engine performs once the script's output
is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, Protocol
from zlib import crc32

from durable._replay.events import TERMINAL, Event, EventKind
from durable._replay.freeze import freeze
from durable._replay.guard import install
from durable._replay.loop import BodyFuture, Timer, make_loop
from durable._replay.script import UNDECODED, Inbound, Script
from durable._replay.source import UNKNOWN, suspended_line
from durable.errors import NotInBodyError, WorkflowTimeoutError

logger = logging.getLogger("durable")

# Names of events that say why: a wait ended before its time; an attempt was cut off.
WOKEN = "woken"
INTERRUPTED, PARKED, FAILED_ATTEMPT = "interrupted", "parked", "failed"


class Payloads(Protocol):
    """How values become bytes and back; given to the body, so that it stays free of I/O."""

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Encode the arguments of a step."""

    def encode(self, value: object, root: str = ...) -> bytes:
        """Encode the result of the run."""

    def decode(self, payload: bytes) -> object:
        """Decode the result of a step."""

    def encode_error(self, error: BaseException) -> bytes:
        """Encode the exception that ended the run."""

    def decode_error(self, payload: bytes, step: str, attempts: int) -> BaseException:
        """Return the exception that a failed step raises in the body."""


class Named(Protocol):
    """A step, as far as replay knows it."""

    name: str


class OpenStep:
    """A step without an outcome. `payload` holds its encoded arguments."""

    __slots__ = (
        "context", "failures", "future", "interruptions", "parks", "payload", "retry_at",
        "running", "seq", "step",
    )  # fmt: skip

    def __init__(self, seq: int, step: Named, future: BodyFuture, payload: bytes) -> None:
        self.seq = seq
        self.step = step
        self.future = future
        self.payload = payload
        self.context = copy_context()
        self.failures = 0
        self.interruptions = 0  # by a crash; a step that causes crashes is told by them
        self.parks = 0  # by an orderly stop
        self.retry_at: int | None = None
        self.running = False  # kept by the engine: an attempt is under way

    @property
    def attempt(self) -> int:
        """Number of the attempt that is due or running, from 1."""
        return self.failures + self.interruptions + self.parks + 1

    def note(self, event: Event) -> None:
        """Take in a `step_retrying` event."""
        if event.name == INTERRUPTED:
            self.interruptions += 1
        elif event.name == PARKED:
            self.parks += 1
        else:
            self.failures += 1
        self.retry_at = event.due


class OpenWait:
    """A wait that has not been completed. `name` is sleep, until or timer."""

    __slots__ = ("due", "handle", "name", "seq")

    def __init__(self, seq: int, due: int, name: str, handle: Timer) -> None:
        self.seq = seq
        self.due = due
        self.name = name
        self.handle = handle


class StepFuture(BodyFuture):
    """The outcome of a step as the body awaits it; cancelling it abandons the step."""

    __slots__ = ("_abandon",)
    _abandon: Callable[[], None]

    def cancel(self, msg: Any = None) -> bool:
        """Give the step up: its outcome will not be taken any more."""
        if not super().cancel(msg):
            return False
        self._abandon()
        return True


class Body:
    """See the module's docstring.

    Args:
        run_id: id of the run.
        main: called once, when the run starts; returns the coroutine of the body.
        history: all recorded events, beginning with `run_created`.
        payloads: encodes and decodes values.
        read_now: returns UTC microseconds; asked only while the run is live.
    """

    def __init__(
        self,
        run_id: str,
        main: Callable[[], Coroutine[Any, Any, Any]],
        history: Sequence[Event],
        payloads: Payloads,
        read_now: Callable[[], int],
    ) -> None:
        install()
        self.run_id = run_id
        self.script = Script(history)
        # The upper bits come from the run's id, the lower ones count tasks and futures.
        self.loop = make_loop(self, crc32(run_id.encode()) << 24)
        self.steps: dict[int, OpenStep] = {}
        self.waits: dict[int, OpenWait] = {}
        self.created: list[OpenStep | OpenWait] = []
        self.ended: list[OpenStep | OpenWait] = []
        self.outcome: Event | None = None
        self.result: object = UNDECODED
        self.cancel_event: Event | None = None
        self.scratch: dict[str, Any] = {}
        self._main = main
        self._task: asyncio.Task[Any] | None = None
        self._payloads = payloads
        self._read_now = read_now
        self._created_at = history[0].at

    # --- driving ---------------------------------------------------------------------

    def replay(self, events_max: int) -> bool:
        """Apply up to `events_max` recorded events; True when the history is used up.

        Afterwards look at `script.divergence`: when it is set the body must be abandoned.
        """
        script = self.script
        for _ in range(events_max):
            event = script.next_inbound()
            if event is None:
                if script.replaying:
                    script.diverge("issued nothing there", self._where())
                return True
            if event.kind not in TERMINAL:
                self._apply(event, UNDECODED)
            if script.divergence is not None or self.outcome is not None:
                return True
        return False

    def activate(self, inbox: Sequence[Inbound]) -> None:
        """Apply what reached the run, one event at a time, until the run has ended."""
        for item in inbox:
            if self.outcome is None and not self._is_stale(item):
                self._apply(self.script.record(item, self._when(item)), item.value)

    def _when(self, item: Inbound) -> int:
        # The wall clock may have been set back, yet a wait that ran its time ends after it.
        now = self._read_now()
        if item.kind == EventKind.WAIT_COMPLETED and item.name != WOKEN:
            return max(now, self.waits[item.ref].due)
        return now

    def terminate(self, kind: EventKind, payload: bytes | None) -> None:
        """End the run without asking the body; its code does not run any more."""
        self._end(kind, payload)

    def abandon(self) -> None:
        """Drop the body as it stands, without running its `finally` blocks."""
        self.loop.stop()
        if alive := self.loop.live_tasks():
            freeze(alive)

    @property
    def started(self) -> bool:
        """Tell whether the body's code has begun to run."""
        return self._task is not None

    def waiting_lines(self) -> list[str]:
        """Return the source line at which each unfinished task of the body waits."""
        return [suspended_line(task) for task in self.loop.live_tasks()]

    # --- applying one event ----------------------------------------------------------

    def _is_stale(self, item: Inbound) -> bool:
        """Tell whether an answer comes too late: what it answers is closed already."""
        if item.kind == EventKind.WAIT_COMPLETED:
            return item.ref not in self.waits
        if item.ref:
            return item.ref not in self.steps
        return False

    def _apply(self, event: Event, value: object) -> None:
        kind = event.kind
        if kind == EventKind.STEP_COMPLETED:
            if (step := self._close_step(event)) is not None:
                assert event.payload is not None
                if value is UNDECODED:
                    value = self._payloads.decode(event.payload)
                step.future.set_result(value)
        elif kind == EventKind.WAIT_COMPLETED:
            if (wait := self.waits.pop(event.ref, None)) is not None:
                self.ended.append(wait)
                self.loop.fire(wait.handle)
            else:
                self._unexpected(event)
        elif kind == EventKind.STEP_FAILED:
            self._fail_step(event)
        elif kind == EventKind.STEP_RETRYING:
            if event.ref in self.steps:
                self.steps[event.ref].note(event)
            return
        elif kind == EventKind.RUN_STARTED:
            self._task = self.loop.create_task(self._main(), name="main", context=Context())
        elif kind == EventKind.CANCEL_REQUESTED:
            assert self._task is not None
            self.cancel_event = event
            self._task.cancel(event.payload.decode() if event.payload else None)
        self.loop.drain()
        if self._task is not None and self._task.done() and self.script.divergence is None:
            self._finish(self._task)

    def _close_step(self, event: Event) -> OpenStep | None:
        step = self.steps.pop(event.ref, None)
        if step is None:
            self._unexpected(event)
        else:
            self.ended.append(step)
        return step

    def _unexpected(self, event: Event) -> None:
        where = self._where()
        self.script.diverge(f"is not waiting for the outcome of event {event.ref}", where)

    def _where(self) -> str:
        return UNKNOWN if self._task is None else suspended_line(self._task)

    def _fail_step(self, event: Event) -> None:
        step = self._close_step(event)
        if step is not None:
            assert event.payload is not None
            attempts = step.failures + 1
            error = self._payloads.decode_error(event.payload, step.step.name, attempts)
            step.future.set_exception(error)

    # --- the end ---------------------------------------------------------------------

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._cancel_leftovers()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self.script.replaying:
            self.outcome = self.script.recorded_end()
            if self.outcome is None:
                self.script.diverge("came to its end", self._where())
            return
        if error is None:
            try:
                payload = self._payloads.encode(task.result(), "result")
            except Exception as refused:
                return self._end(EventKind.RUN_FAILED, self._payloads.encode_error(refused))
            self.result = task.result()
            return self._end(EventKind.RUN_COMPLETED, payload)
        request = self.cancel_event
        if request is None or not isinstance(error, asyncio.CancelledError):
            payload = self._payloads.encode_error(_explain(error))
            return self._end(EventKind.RUN_FAILED, payload)
        return self.end_cancelled(request)

    def end_cancelled(self, request: Event) -> None:
        """End the run as `request` asks: cancelled, or failed at its deadline."""
        if request.name == "deadline":
            late = WorkflowTimeoutError("the run was not finished at its deadline")
            self.terminate(EventKind.RUN_FAILED, self._payloads.encode_error(late))
        else:
            self.terminate(EventKind.RUN_CANCELLED, request.payload)

    def _cancel_leftovers(self) -> None:
        leftovers = self.loop.live_tasks()
        if not leftovers:
            return
        for task in list(leftovers):
            if not self.script.replaying:
                logger.warning(
                    "run %s returned while %s was still waiting at %s: it is cancelled; "
                    "await the work, or use asyncio.TaskGroup",
                    self.run_id, task.get_name(), suspended_line(task),
                )  # fmt: skip
            task.cancel()
        self.loop.drain()

    def _end(self, kind: EventKind, payload: bytes | None) -> None:
        for step in list(self.steps.values()):
            self._abandon(step)
        self.ended.extend(self.waits.values())
        self.waits.clear()
        self.outcome = self.script.record(Inbound(kind, payload=payload), self._read_now())
        self.abandon()

    # --- commands (called by authoring and by the loop) ----------------------------------

    def now(self) -> float:
        """Journal time in seconds since the run was created."""
        return (self.script.now_us - self._created_at) / 1e6

    def create_step(self, step: Named, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BodyFuture:
        """Issue a step and return the future of its outcome.

        Raises:
            SerializationError: the arguments cannot be recorded; nothing was issued.
        """
        script = self.script
        payload = None if script.replaying else self._payloads.encode_call(args, kwargs)
        future = StepFuture(loop=self.loop)
        future._order = self.loop.next_order()
        event = script.issue(EventKind.STEP_CREATED, step.name, payload=payload)
        if event is None:
            self.loop.stop()
            return future
        assert event.payload is not None
        opened = OpenStep(event.seq, step, future, event.payload)
        future._abandon = lambda: self._abandon(opened)
        self.steps[event.seq] = opened
        if not script.replaying:
            self.created.append(opened)
        return future

    def _abandon(self, step: OpenStep) -> None:
        if self.steps.pop(step.seq, None) is None or self.loop.stopped:
            return
        if self.script.issue(EventKind.STEP_CANCELLED, step.step.name, ref=step.seq) is None:
            self.loop.stop()
        self.ended.append(step)

    def wait_until(self, due_us: int) -> BodyFuture:
        """Issue a wait that ends at the wall time `due_us` (UTC microseconds)."""
        future = self.loop.create_future()
        handle = Timer(0.0, _set_none, (future,), self.loop, None)
        self._arm(handle, due_us, "until")
        future.add_done_callback(lambda done: handle.cancel() if done.cancelled() else None)
        return future

    def arm(self, handle: Timer, delay: float, name: str) -> None:
        """Create a durable wait for a timer of the loop."""
        due = 0
        if not self.script.replaying:
            # Journal time lags behind while the body computes; a wait must not end early.
            due = max(self._read_now(), self.script.now_us) + int(delay * 1e6 + 0.5)
        self._arm(handle, due, name)

    def _arm(self, handle: Timer, due: int, name: str) -> None:
        event = self.script.issue(EventKind.WAIT_CREATED, name, due=due)
        if event is None:
            handle.seq = 0
            return self.loop.stop()
        assert event.due is not None
        handle.seq = event.seq
        wait = self.waits[event.seq] = OpenWait(event.seq, event.due, name, handle)
        if not self.script.replaying:
            self.created.append(wait)

    def disarm(self, handle: Timer) -> None:
        """Forget the wait of a cancelled timer; replay derives this again."""
        wait = self.waits.pop(handle.seq, None)
        if wait is not None:
            self.ended.append(wait)


def _set_none(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def _explain(error: BaseException) -> BaseException:
    """Say what to do where asyncio's own message does not."""
    if isinstance(error, RuntimeError) and "attached to a different loop" in str(error):
        hint = NotInBodyError(
            "a workflow body awaited something that belongs to the host's event loop "
            f"({error}): put this work in a @step and await the step"
        )
        hint.__cause__ = error
        return hint
    return error
