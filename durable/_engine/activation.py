"""One turn of one run: decide, commit, act.

`activate` applies what is in the inbox to the body and submits the consumed events, the
new commands and the changed state as ONE write. When the journal reports it durable,
`act` performs the effects: attempts begin or are cancelled, timers are armed,
callers get their answers. Nothing leaves a run before that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Protocol

from durable._base.clock import Clock
from durable._engine.attributes import keep_attributes
from durable._engine.continuing import add_successor
from durable._engine.executor import Executor
from durable._engine.generators import record_items
from durable._engine.hot import HotRun, settle, with_state
from durable._engine.payloads import parked_by
from durable._engine.timers import Timers
from durable._engine.watchdog import Watchdog
from durable._journal.journal import Journal
from durable._journal.records import (
    CANCELLED,
    COMPLETED,
    CONTINUED,
    FAILED,
    RUNNING,
    RowOp,
    RunEvent,
    RunRow,
    RunState,
    RunTurn,
    Write,
)
from durable._replay.body import Body
from durable._replay.events import (
    CANCEL_REQUESTED,
    STEP_RETRYING,
    STEP_STARTED,
    WAIT_COMPLETED,
    WOKEN,
    EventKind,
)
from durable._replay.opened import OpenStep, OpenWait
from durable._replay.script import Inbound
from durable.errors import InternalError, JournalError, PayloadDecodeError

logger = logging.getLogger("durable")

# Events that one activation applies. Bodies do not see where activations end.
ITEMS_MAX = 128

_STATUS: dict[int, str] = {
    EventKind.RUN_COMPLETED: COMPLETED,
    EventKind.RUN_FAILED: FAILED,
    EventKind.RUN_CANCELLED: CANCELLED,
    EventKind.RUN_CONTINUED: CONTINUED,
}
ATTEMPTS = frozenset({STEP_RETRYING, STEP_STARTED})
# Timers of a run that belong to no event of its history are filed under these numbers.
DEADLINE, GRACE = -1, -2


class Host(Protocol):
    """What activation asks of the engine around it."""

    def ready(self, run: HotRun) -> None:
        """Queue the run for its next activation."""

    def ended(self, run: HotRun) -> None:
        """Take note that a run's end is durable."""

    def settled(self, run: HotRun) -> None:
        """Take note that a run has nothing to do for now."""

    def block(
        self, run: HotRun, kind: str, reason: str, missing: str | None = None, *, unseen: int = 0
    ) -> None:
        """Park a run. The last `unseen` events have not been taken in by its body."""

    def interrupted(self, run: HotRun) -> None:
        """Take note that Ctrl-C hit the run's code: its body is lost, its history is not."""

    def kept_until(self, row: RunRow, now_us: int) -> int | None:
        """Return when a run that ends now may be deleted."""


class Claims(Protocol):
    """Who records the hook tokens of runs."""

    def record(self, run: HotRun, body: Body, write: Write) -> None:
        """Add to a turn's write what its body did with tokens."""


def _itself(error: BaseException | None) -> None:
    """Stand for a turn's own `settle`, which would refer to the turn that refers to it."""


class _Turn(Write):
    """The write of one activation, and what it leads to once it is durable."""

    # In the class, because most turns have nothing to say here.
    done: Callable[[BaseException | None], None] = staticmethod(_itself)
    runs: Sequence[RunRow] = ()
    events: Sequence[RunEvent] = ()
    turn: RunTurn | None = None
    states: Sequence[RunState] = ()
    ops: Sequence[RowOp] = ()
    suspect = None
    clear_suspect = False
    vital = True
    existing: Mapping[str, RunRow] = MappingProxyType({})
    changed: Sequence[int] = ()
    created: Sequence[OpenStep | OpenWait] = ()
    ended: Sequence[OpenStep | OpenWait] = ()
    acks: Sequence[asyncio.Future[None]] = ()
    told: Callable[[BaseException | None], None] | None = None

    def __init__(
        self, activation: Activation, run: HotRun, body: Body, items: Sequence[Inbound]
    ) -> None:
        self.activation = activation
        self.run = run
        self.body = body
        self.items = items
        # An empty list stays where it is, and is none of ours: it will fill up again.
        if body.created:
            self.created, body.created = body.created, []
        if body.ended:
            self.ended, body.ended = body.ended, []
            self._disarm()
        if run.acks and not run.inbox:  # else what they wait for may be in the next turn
            self.acks, run.acks = run.acks, []

    def _disarm(self) -> None:
        alarms = self.run.alarms
        for gone in self.ended:
            if isinstance(gone, OpenWait) and (alarm := alarms.pop(gone.seq, None)):
                alarm.cancel()

    def bear(self, birth: Write, row: RunRow) -> None:
        """Create the run in the same transaction; `birth` is what would have created it."""
        self.runs, self.events = [row], birth.events
        self.told, self.vital = birth.done, birth.vital

    def answer(self, error: BaseException | None) -> None:
        """Tell those who wait for the run's next COMMIT."""
        for ack in self.acks:
            settle(ack, error)

    def settle(self, error: BaseException | None) -> None:
        """Act on the outcome of the write."""
        if self.done is not _itself:  # somebody has put himself before us, and calls us then
            done, self.done = self.done, _itself
            return done(error)
        run = self.run
        run.unsaved -= 1
        if self.told is not None:
            run.born = error is None
            self.told(error)
        if self.acks:
            self.answer(error)
        if error is None:
            self.activation.act(self)
            if self.told is not None and run.inbox:
                self.activation.ready(run)
        elif not run.gone:
            self.activation.refused(run, error, unborn=self.told is not None)


class Activation:
    """See the module's docstring."""

    def __init__(
        self, host: Host, journal: Journal, executor: Executor, timers: Timers, clock: Clock
    ) -> None:
        self._host = host
        self._submit = journal.submit
        self._next_pk = journal.next_pk
        self._executor = executor
        self._timers = timers
        self._clock = clock
        self.watchdog = Watchdog(clock)
        self.ready: Callable[[HotRun], None] = host.ready
        self.hooks: Claims | None = None
        # Takes what attempts come to whose run was paused meanwhile.
        self.outlived: Callable[[HotRun, Inbound], None] = _forget

    # --- decide ------------------------------------------------------------------------

    def activate(self, run: HotRun, *, all_items: bool = False) -> None:
        """Apply the run's inbox, or the first part of a long one, and submit the outcome."""
        body = run.body
        assert body is not None
        if not run.born and run.birth is None:
            return  # the journal may still refuse the run; `done` queues it again
        limit = len(run.inbox) if all_items else ITEMS_MAX
        items, run.inbox = run.inbox[:limit], run.inbox[limit:]
        if run.inbox:
            self.ready(run)  # the rest in a turn of its own: the host's loop waits for this one
        watchdog = self.watchdog
        watchdog.busy = run.run_id
        watchdog.turns += 1
        if watchdog.asleep:
            watchdog.rouse()
        try:
            body.activate(items)
        except PayloadDecodeError as error:
            self.submit(run, items)
            # Its event was the last one, and is to reach the body again.
            self._host.block(run, *parked_by(error), unseen=1)
            return
        except (KeyboardInterrupt, SystemExit):
            self._host.interrupted(run)
            raise
        except Exception as error:  # ours: one run's trouble must not become that of all
            logger.exception("run %s met a defect of durable", run.run_id)
            run.refuse(InternalError(f"run {run.run_id} met a defect of durable: {error!r}"))
            self._host.block(run, "corrupt", f"an internal error, please report it: {error!r}")
            return
        finally:
            watchdog.busy = None
        self.submit(run, items)

    def submit(self, run: HotRun, items: Sequence[Inbound] = ()) -> None:
        """Make what the body has done durable, then act on it."""
        body = run.body
        assert body is not None
        script = body.script
        events = script.out
        if events:
            script.out = []
        turn = _Turn(self, run, body, items)
        state = run.state
        # An attempt is under way or about to be, as before: the row says so already.
        as_before = state.wake_at == 0 and state.status == RUNNING and body.outcome is None
        if not as_before or not body.in_flight():
            state = self._next_state(run, body)
        if body.attributes_changed:
            keep_attributes(run, body, turn)
        if run.birth is not None:
            turn.bear(run.birth, with_state(run.row, state))
            run.birth = None
        elif state != run.state:
            turn.states = [state]
        elif not events and turn.acks and run.unsaved:
            run.unsaved += 1  # what they wait for is on its way: a write of nothing follows it
            return self._submit(turn)
        elif not events:
            turn.answer(None)
            return self._host.settled(run)
        run.state = state
        if body.continuation is not None:
            add_successor(run, body, self._next_pk(), turn)
        if events:
            turn.turn = (run.row.pk, run.run_id, events)
        if body.outcome is not None and run.row.first_id is not None:
            body.use_hooks().any_claims = True  # tokens may be kept for it
        if body.hooks is not None and self.hooks is not None:
            turn.done = turn.settle
            self.hooks.record(run, body, turn)
        if run.feeds:
            turn.done = turn.settle if turn.done is _itself else turn.done
            record_items(run, events, turn)
        run.unsaved += 1
        self._submit(turn)

    def _next_state(self, run: HotRun, body: Body) -> RunState:
        old = run.state
        has_started = body.started
        if not has_started and body.outcome is None:
            return old  # it has got mail before its start
        now = body.script.now_us
        started = old.started_at or (now if has_started else None)
        if body.outcome is not None:
            status = _STATUS[body.outcome.kind]
            at = body.outcome.at
            return RunState(
                status, started, at, None, self._host.kept_until(run.row, at), None, run.row.pk
            )
        wake_at = self.next_wake(run, body)
        if old.wake_at == wake_at and old.status == RUNNING:
            return old
        if wake_at is None and body.is_stuck:
            logger.warning(
                "run %s waits for something that can never come, at %s: nothing it has asked "
                "for is pending. Cancel it, or mend its code",
                run.run_id, ", ".join(body.waiting_lines()),
            )  # fmt: skip
        return RunState(RUNNING, started, None, wake_at, None, None, run.row.pk)

    def next_wake(self, run: HotRun, body: Body) -> int | None:
        """Return the run's `wake_at`: 0 while attempts are in flight, else the next due time."""
        if (hooks := body.hooks) is not None and (hooks.in_doubt or hooks.questions()):
            return 0  # an answer from the journal is
        if body.in_flight():
            return 0
        dues = [step.retry_at for step in body.steps.values() if step.retry_at is not None]
        dues += [wait.due for wait in body.waits.values()]
        if run.row.deadline is not None and body.cancel_event is None:
            dues.append(run.row.deadline)
        if body.cancel_event is not None and body.cancel_event.due is not None:
            dues.append(body.cancel_event.due)
        return min(dues, default=None)

    def refused(self, run: HotRun, error: BaseException, *, unborn: bool) -> None:
        """Take note that the journal refused a turn: the disk, or a defect of ours."""
        if unborn:
            self._host.ended(run)  # the run was never recorded: its caller has been told
        elif not isinstance(error, JournalError):
            # Else the journal was closed while its disk failed: nothing is wrong with the run,
            # which goes on from what is recorded when the journal is opened next.
            self._host.block(run, "corrupt", f"its events could not be recorded: {error}")

    # --- act ---------------------------------------------------------------------------

    def act(self, turn: _Turn) -> None:
        """Perform the effects of a turn that is durable."""
        run, body = turn.run, turn.body
        if run.gone and body.outcome is None:
            return
        for gone in turn.ended:
            if gone.seq in run.attempts or gone.seq in run.awaiting:
                self._executor.cancel(run, gone.seq)
        if body.outcome is not None:
            if not run.gone and not run.unsaved:
                self._host.ended(run)
            return
        for item in turn.items:
            if item.kind in ATTEMPTS and item.ref in body.steps:
                self.arm_retry(run, body.steps[item.ref])
            elif item.kind == CANCEL_REQUESTED:
                self.arm_grace(run, body)
        for new in turn.created:
            if isinstance(new, OpenWait):
                self.arm_wait(run, new)
            elif new.seq in body.steps:
                self._executor.dispatch(run, new)
        if not body.steps or run.awaiting:
            self._host.settled(run)

    def arm_wait(self, run: HotRun, wait: OpenWait) -> None:
        """Set the alarm of a durable wait, unless the body has ended it meanwhile."""
        if run.body is not None and wait.seq in run.body.waits:
            fire = partial(self.post, run, Inbound(WAIT_COMPLETED, wait.seq))
            absolute, due = wait.name == "until", wait.due
            if not absolute:
                # Journal time stays ahead of a wall clock that was set back; the wait must
                # not take longer for it.
                due -= max(0, run.body.script.now_us - self._clock.wall_us())
            run.alarms[wait.seq] = self._timers.at(due, fire, absolute=absolute, ends=wait.ends)

    def arm_retry(self, run: HotRun, step: OpenStep) -> None:
        """Begin the next attempt now; or when it is due, once that is on record.

        Else nobody could tell after a crash whether it had begun.
        """
        if step.retry_at is None:
            self._executor.dispatch(run, step)
            return
        begin = partial(self.post, run, Inbound(STEP_STARTED, step.seq))
        run.alarms[step.seq] = self._timers.at(step.retry_at, begin, ends=step.retry_ends)
        self._host.settled(run)

    def arm_grace(self, run: HotRun, body: Body) -> None:
        """End a cancelled run without its consent once its grace time is over."""
        request = body.cancel_event
        if request is not None and request.due is not None:
            run.alarms[GRACE] = self._timers.at(
                request.due, partial(self.end_cancelled, run), ends=run.grace_ends
            )

    def end_cancelled(self, run: HotRun) -> None:
        """End a run whose cancellation was requested before, whatever its body is doing."""
        body = run.body
        if run.gone or body is None or body.outcome is not None or body.cancel_event is None:
            return
        logger.warning("run %s did not end within its grace time: it is terminated", run.run_id)
        body.end_cancelled(body.cancel_event)
        self.submit(run)

    def post(self, run: HotRun, item: Inbound) -> None:
        """Put something into a run's inbox and queue the run."""
        if not run.gone:
            run.inbox.append(item)
            self.ready(run)
        elif run.paused:
            self.outlived(run, item)

    def wake_up(self, run: HotRun, waits: Sequence[int] | None) -> list[int]:
        """Ask to end pending sleeps before their time; timers of asyncio only when named."""
        assert run.body is not None
        pending, woken = run.body.waits, {item.ref for item in run.inbox}
        chosen = [
            seq
            for seq in (sorted(pending) if waits is None else dict.fromkeys(waits))
            if seq in pending and seq not in woken
            if waits is not None or pending[seq].name != "timer"
        ]
        for seq in chosen:
            self.post(run, Inbound(WAIT_COMPLETED, seq, WOKEN))
        return chosen


def _forget(run: HotRun, item: Inbound) -> None:
    """Do nothing: no run is paused where nobody can pause one."""
