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
from contextvars import Context
from typing import Any
from zlib import crc32

from durable._replay.ahead import Ahead
from durable._replay.attributes import take_change
from durable._replay.blame import Accused, accuse
from durable._replay.ending import Continuation, cancelled_ending, ending_of
from durable._replay.events import (
    STEP_CREATED,
    STEP_STARTED,
    WAIT_COMPLETED,
    WAIT_CREATED,
    WOKEN,
    Event,
    EventKind,
)
from durable._replay.freeze import freeze
from durable._replay.guard import install
from durable._replay.hooks import Hooks
from durable._replay.items import ItemQueue
from durable._replay.loop import BodyFuture, StepFuture, Timer, make_loop
from durable._replay.marks import take_mark
from durable._replay.opened import OpenStep, OpenWait
from durable._replay.ports import SCALARS, Named, Payloads
from durable._replay.script import UNDECODED, Inbound, Script
from durable._replay.source import UNKNOWN, calling_line, task_line

logger = logging.getLogger("durable")


class Body:
    """See the module's docstring.

    Args:
        run_id: id of the run.
        main: called once, when the run starts; returns the coroutine of the body.
        history: all recorded events, beginning with `run_created`.
        payloads: encodes and decodes values.
        read_now: returns UTC microseconds; asked only while the run is live.
        seed: of its random numbers and the order of sets. Default: the run's id.

    Attributes:
        read_boot: returns seconds of a clock that nobody sets, where there is one; durations
            are noted by it, too, because the other may be set before they are recorded.
    """

    def __init__(
        self,
        run_id: str,
        main: Callable[[], Coroutine[Any, Any, Any]],
        history: Sequence[Event],
        payloads: Payloads,
        read_now: Callable[[], int],
        seed: str | None = None,
    ) -> None:
        install()
        self.run_id = run_id
        self.seed = seed or run_id
        self.script = Script(history, self._where)
        # The upper bits come from the seed, the lower ones count tasks and futures.
        self.loop = make_loop(self, crc32(self.seed.encode()) << 24)
        self.steps: dict[int, OpenStep] = {}
        self.waits: dict[int, OpenWait] = {}
        self.created: list[OpenStep | OpenWait] = []
        self.ended: list[OpenStep | OpenWait] = []
        self.hooks: Hooks | None = None  # made by the first hook, or mail
        self.outcome: Event | None = None
        self.result: object = UNDECODED
        self.cancel_event: Event | None = None
        self.continuation: Continuation | None = None
        self.scratch: dict[str, Any] = {}
        self.attributes: dict[str, str] = {}
        self.attributes_changed = False  # since they were last written
        self._main = main
        self.main: asyncio.Task[Any] | None = None
        self._payloads = payloads
        self._read_now = read_now
        self.read_boot: Callable[[], float] | None = None
        self._created_at = history[0].at

    # --- driving ---------------------------------------------------------------------

    def replay(self, events_max: int) -> bool:
        """Apply up to `events_max` recorded events; True when the history is used up.

        Afterwards look at `script.divergence`: when it is set the body must be abandoned.
        """
        script, ahead = self.script, Ahead(self, events_max)
        while ahead.left:
            ahead.left -= 1
            event = script.next_inbound()
            if event is None:
                if script.replaying:
                    self._meet_unfollowed()
                self.loop.muted = False
                return True
            self._apply(event, UNDECODED, ahead.give)
            if script.divergence is not None or self.outcome is not None:
                return True
        return False

    def _meet_unfollowed(self) -> None:
        """Judge what the history holds where the code waits: an end from outside is fine."""
        possible = {EventKind.RUN_CANCELLED}
        if self.cancel_event is not None or not self.started:
            possible.add(EventKind.RUN_FAILED)  # at the deadline
        end = self.script.recorded_end()
        if end is not None and end.kind in possible:
            self.outcome = end
        else:
            self.script.diverge("issued nothing there")

    def activate(self, inbox: Sequence[Inbound]) -> None:
        """Apply what reached the run, one event at a time, until the run has ended.

        Raises:
            KeyboardInterrupt, SystemExit: a signal hit the body's code. Nothing of this turn may
                be recorded: the body is dropped, and must be made again from its history.
        """
        try:
            self._take_in(inbox)
        except (KeyboardInterrupt, SystemExit):
            self.script.take()
            self.created, self.ended = [], []
            self.loop.muted = True  # the host gets the exception
            self.abandon()
            raise

    def _take_in(self, inbox: Sequence[Inbound]) -> None:
        now, record, loop = self._read_now(), self.script.record, self.loop
        for item in inbox:
            at, ref = now, item.ref
            if item.kind == WAIT_COMPLETED:
                wait = self.waits.get(ref)
                if wait is None:
                    continue
                # The wall clock may have been set back, yet a wait ends after its time.
                at = now if item.name == WOKEN else max(now, wait.due)
            elif ref not in self.steps and self._is_stale(item):
                continue
            if self.outcome is not None or loop.stopped:
                return
            self._apply(record(item, at), item.value)

    def abandon(self) -> None:
        """Drop the body as it stands, without running its `finally` blocks."""
        if self.loop.is_gone:
            return
        self.loop.halt()
        if alive := self.loop.live_tasks():
            freeze(alive)
        self.loop.let_go()
        self.script.let_go()
        if self.hooks is not None:
            self.hooks.let_go()

    @property
    def payloads(self) -> Payloads:
        """How the run's values become bytes."""
        return self._payloads

    @property
    def started(self) -> bool:
        """Tell whether the body's code has begun to run."""
        return self.main is not None

    def in_flight(self) -> bool:
        """Tell whether an attempt of some step is running, or is to begin at once."""
        for step in self.steps.values():  # noqa: SIM110 - `any` costs two calls more
            if step.running or step.retry_at is None:
                return True
        return False

    @property
    def is_stuck(self) -> bool:
        """Tell whether the body waits for itself alone: nothing recorded can wake it again."""
        if not self.started or self.outcome is not None or self.steps or self.waits:
            return False
        return self.hooks is None or not self.hooks.is_waiting

    def use_hooks(self) -> Hooks:
        """Return the hooks and mailboxes of this body."""
        if self.hooks is None:
            self.hooks = Hooks(self.script, self.loop, self._payloads)
        return self.hooks

    def waiting_lines(self) -> list[str]:
        """Return the source line at which each unfinished task of the body waits."""
        return [task_line(task) for task in self.loop.live_tasks()]

    # --- applying one event ----------------------------------------------------------

    def _is_stale(self, item: Inbound) -> bool:
        """Tell whether an item that answers no open step or wait comes too late."""
        if item.kind in _MAIL:
            return self.use_hooks().is_stale(item)
        return item.ref != 0

    def _apply(self, event: Event, value: object, more: Callable[[], bool] | None = None) -> None:
        _TAKE[event.kind](self, event, value)
        self.loop.drain(more)
        if self.main is not None and self.main.done() and self.script.divergence is None:
            self._finish(self.main)

    def _take_retry(self, event: Event, value: object) -> None:
        if (step := self.steps.get(event.ref)) is not None:
            step.note(event)

    def _take_start(self, event: Event, value: object) -> None:
        try:
            coroutine = self._main()
        except Exception as error:  # the arguments no longer fit: the signature has changed
            coroutine = _raise(error)
        self.main = self.loop.create_task(coroutine, name="main", context=Context())

    def _take_result(self, event: Event, value: object) -> None:
        step = self.steps.pop(event.ref, None)
        if step is None:
            return self._unexpected(event)
        if value is UNDECODED:
            assert event.payload is not None
            value = self._payloads.decode(event.payload)
        if step.items is not None and value != step.items.count:
            self.script.diverge("iterates the items, which were only counted then")
        step.future.set_result(value)

    def _take_item(self, event: Event, value: object) -> None:
        step = self.steps.get(event.ref)
        if step is None or step.items is None:
            self.script.diverge(f"is not iterating the step of event {event.ref}")
            return
        assert event.payload is not None
        step.items.put(self._payloads.decode(event.payload) if value is UNDECODED else value)

    def _take_failure(self, event: Event, value: object) -> None:
        step = self.steps.pop(event.ref, None)
        if step is None:
            return self._unexpected(event)
        assert event.payload is not None
        attempts = step.failures + 1
        error = self._payloads.decode_error(event.payload, step.step.name, attempts)
        accuse(error, Accused(self.run_id, event.seq, event.ref))
        step.future.set_exception(error)

    def _take_wait_end(self, event: Event, value: object) -> None:
        wait = self.waits.pop(event.ref, None)
        if wait is None:
            self._unexpected(event)
        else:
            self._note_end(wait)
            self.loop.fire(wait.handle)

    def _take_mail(self, event: Event, value: object) -> None:
        if not self.use_hooks().take_mail(event, value):
            self._unexpected(event)

    def _take_conflict(self, event: Event, value: object) -> None:
        if not self.use_hooks().take_answer(event):
            self._unexpected(event)

    def _take_cancel(self, event: Event, value: object) -> None:
        assert self.main is not None
        self.cancel_event = event
        self.main.cancel(event.payload.decode() if event.payload else None)

    def _note_end(self, closed: OpenStep | OpenWait) -> None:
        if not self.script.replaying:
            self.ended.append(closed)

    def _unexpected(self, event: Event) -> None:
        self.script.diverge(f"is not waiting for the outcome of event {event.ref}")

    def _where(self) -> str:
        """Return the line that runs now, or else the line at which the body waits."""
        return calling_line() or (UNKNOWN if self.main is None else task_line(self.main))

    # --- the end ---------------------------------------------------------------------

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._cancel_leftovers()
        if self.script.divergence is not None:
            return
        ending = ending_of(self.run_id, task, self.cancel_event, self._payloads)
        kind = ending.kind
        if not self.script.replaying:
            if kind == EventKind.RUN_COMPLETED:
                self.result = task.result()
            self.continuation = ending.continuation
            return self.terminate(kind, ending.payload, ending.blamed)
        recorded = self.script.recorded_end()
        if recorded is not None and recorded.kind == kind:
            self.outcome = recorded
        else:
            self.script.diverge(f"came to its end ({kind.label})")

    def end_cancelled(self, request: Event) -> None:
        """End the run as `request` asks: cancelled, or failed at its deadline."""
        ending = cancelled_ending(request, self._payloads)
        self.terminate(ending.kind, ending.payload)

    def _cancel_leftovers(self) -> None:
        for task in list(self.loop.live_tasks()):
            if not self.script.replaying:
                logger.warning(
                    "run %s returned while %s was still waiting at %s: it is cancelled; "
                    "await the work, or use asyncio.TaskGroup",
                    self.run_id, task.get_name(), task_line(task),
                )  # fmt: skip
            task.cancel()
        self.loop.drain()

    def terminate(self, kind: EventKind, payload: bytes | None, blamed: int = 0) -> None:
        """End the run without asking the body; `blamed` is the step that it failed with."""
        for seq in list(self.steps):
            self.give_up(seq)
        self.ended.extend(self.waits.values())
        self.waits.clear()
        self.outcome = self.script.record(Inbound(kind, blamed, payload=payload), self._read_now())
        self.abandon()

    # --- commands (called by authoring and by the loop) ----------------------------------

    def now(self) -> float:
        """Journal time in seconds since the run was created."""
        return (self.script.now_us - self._created_at) / 1e6

    def create_step(self, step: Named, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepFuture:
        """Issue a step and return the future of its outcome.

        Raises:
            SerializationError: the arguments cannot be recorded; nothing was issued.
        """
        script = self.script
        # On replay too: what was refused then must be refused now.
        payload = self._payloads.encode_call(args, kwargs)
        future = self.loop.create_step_future()
        event = script.issue(STEP_CREATED, step.name, payload=payload)
        if event is None:
            self.loop.halt()
            return future
        assert event.payload is not None
        future.seq = event.seq
        if script.replaying:  # the recorded arguments count, not those given now
            self.steps[event.seq] = OpenStep(event.seq, step, future, event.payload)
            return future
        known = None if kwargs or not SCALARS.issuperset(map(type, args)) else args
        opened = OpenStep(event.seq, step, future, event.payload, known)
        self.steps[event.seq] = opened
        self.created.append(opened)
        return future

    def create_items(self, step: Named, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ItemQueue:
        """Issue a generator step and return what takes its items."""
        future = self.create_step(step, args, kwargs)
        queue = ItemQueue(self.loop, future)
        if (opened := self.steps.get(future.seq)) is not None:
            opened.items = queue
        return queue

    def give_up(self, seq: int) -> None:
        """Issue that the outcome of a step is not awaited any more, if it is open."""
        step = self.steps.pop(seq, None)
        if step is None or self.loop.stopped:
            return
        if self.script.issue(EventKind.STEP_CANCELLED, step.step.name, ref=seq) is None:
            self.loop.halt()
        self._note_end(step)

    def wait_until(self, due_us: int) -> BodyFuture:
        """Issue a wait that ends at the wall time `due_us` (UTC microseconds)."""
        future = self.loop.create_future()
        handle = Timer(0.0, _set_none, (future,), self.loop, None)
        self._arm(handle, due_us, "until")
        future.add_done_callback(lambda done: handle.cancel() if done.cancelled() else None)
        return future

    def arm(self, handle: Timer, delay: float, name: str) -> None:
        """Create a durable wait for a timer of the loop."""
        due, ends = 0, None
        if not self.script.replaying:
            duration = int(delay * 1e6 + 0.5)
            # Journal time lags behind while the body computes; a wait must not end early.
            due = max(self._read_now(), self.script.now_us) + duration
            if self.read_boot is not None:
                ends = self.read_boot() + duration / 1e6
        self._arm(handle, due, name, ends)

    def _arm(self, handle: Timer, due: int, name: str, ends: float | None = None) -> None:
        event = self.script.issue(WAIT_CREATED, name, due=due)
        if event is None:
            handle.seq = 0
            return self.loop.halt()
        assert event.due is not None
        handle.seq = event.seq
        wait = self.waits[event.seq] = OpenWait(event.seq, event.due, name, handle, ends)
        if not self.script.replaying:
            self.created.append(wait)

    def disarm(self, handle: Timer) -> None:
        """Forget the wait of a cancelled timer; replay derives this again."""
        wait = self.waits.pop(handle.seq, None)
        if wait is not None:
            self._note_end(wait)


# What each kind of event does to the body, before its loop is drained.
_TAKE: dict[int, Callable[[Body, Event, object], None]] = {
    EventKind.RUN_STARTED: Body._take_start,
    EventKind.RUN_REWOUND: take_mark,
    EventKind.STEP_RETRYING: Body._take_retry,
    STEP_STARTED: Body._take_retry,
    EventKind.STEP_COMPLETED: Body._take_result,
    EventKind.STEP_FAILED: Body._take_failure,
    EventKind.STEP_YIELDED: Body._take_item,
    WAIT_COMPLETED: Body._take_wait_end,
    EventKind.CANCEL_REQUESTED: Body._take_cancel,
    EventKind.HOOK_RECEIVED: Body._take_mail,
    EventKind.HOOK_CONFLICT: Body._take_conflict,
    EventKind.ATTR_NOTED: take_change,
}
_MAIL = frozenset({EventKind.HOOK_RECEIVED, EventKind.HOOK_CONFLICT})


def _set_none(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


async def _raise(error: Exception) -> None:
    raise error
