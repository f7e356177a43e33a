"""Makes attempts of steps and turns each outcome into something for the run's inbox.

Async steps run on the host's loop, sync ones in threads or worker processes.
What a step receives is decoded from the recorded bytes. An attempt that was given up
(cancelled, timed out, run ended) is forgotten first, so its late result goes nowhere.
Retries are decided here, from the step's options and the failures on record.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from types import CoroutineType
from typing import Any, Final, Protocol, cast

from durable._authoring.context import current_attempt, run_in_attempt
from durable._authoring.step import Step, StepOptions
from durable._base.clock import Clock
from durable._base.signals import is_from_signal
from durable._engine.attempt import Attempt
from durable._engine.carriers import Carriers
from durable._engine.generators import pour, pour_in_thread
from durable._engine.hot import HotRun
from durable._engine.payloads import EnginePayloads, parked_by
from durable._engine.ports import START_STEP
from durable._engine.processes import ProcessPool
from durable._engine.retries import misfit, next_attempt_at, origins, raisable, too_long
from durable._engine.streams import Streams
from durable._engine.threads import ThreadPool, tell
from durable._journal.running import Marks
from durable._replay.events import FAILED_ATTEMPT, STEP_COMPLETED, STEP_RETRYING, EventKind
from durable._replay.opened import OpenStep
from durable._replay.ports import SCALARS
from durable._replay.script import UNDECODED, Inbound, inbound
from durable.errors import (
    JournalError,
    JournalFullError,
    PayloadDecodeError,
    RuntimeClosedError,
    WorkflowNotRegisteredError,
)

# How long a cancelled step may go on before nobody waits for it any more.
STRAY_SECONDS = 1.0
# When to make an attempt again that the journal's disk has cut short.
PUT_OFF_SECONDS = 1.0
_TROUBLE = (JournalError, JournalFullError)
_NO_KWARGS: Final[dict[str, Any]] = {}

logger = logging.getLogger("durable")


class Outcomes(Protocol):
    """Where outcomes go."""

    def post(self, run: HotRun, item: Inbound) -> None:
        """Put an outcome into the run's inbox."""

    def soon(self, do: Callable[[Any], None], what: Any) -> None:
        """Call `do(what)` from the host's loop, one of many in a row."""

    def block(self, run: HotRun, kind: str, reason: str, missing: str | None = None) -> None:
        """Park a run whose step cannot even be begun."""

    def attempt_over(self, run: HotRun, step: OpenStep) -> None:
        """Take note that an attempt is not running any more, whatever its outcome."""


class Disk(Protocol):
    """What holds the journal."""

    fences: int


class Suspects(Protocol):
    """Steps that may be what kills the process."""

    def is_suspect(self, step: OpenStep) -> bool:
        """Tell whether the step must wait for its turn to run alone."""

    def enqueue(self, run: HotRun, step: OpenStep) -> None:
        """Dispatch it again once it is its turn."""


class Families(Protocol):
    """Who waits for the end of another run; that is no attempt of anything."""

    def wait(self, run: HotRun, step: OpenStep) -> None:
        """Let a step wait for the run that it names."""

    def give_up(self, run: HotRun, seq: int) -> None:
        """Take note that a step waits no more."""

    def left(self, run: HotRun) -> None:
        """Take note that none of a run's steps waits any more."""


class _Limit:
    """The attempts of one step name under a `concurrency` limit."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[tuple[HotRun, OpenStep]] = deque()


class Executor:
    """See the module's docstring.

    Args:
        runtime: what `start` inside a step uses; passed through, never looked at.
        disk: knows how often the journal's disk has failed so far.
        streams: what attempts write to.

    Attributes:
        marks: where running attempts are noted for the next owner.
        post: where outcomes go; by default `outcomes.post`.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        payloads: EnginePayloads,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        *,
        threads_max: int,
        processes_max: int | None,
        runtime: object,
        disk: Disk,
        streams: Streams,
    ) -> None:
        self._streams = streams
        self._outcomes = outcomes
        self._payloads = payloads
        self._clock = clock
        self._loop = loop
        self._runtime = runtime
        self._threads = ThreadPool(threads_max)
        self._processes = ProcessPool(processes_max)
        self._disk = disk
        self._carriers: Carriers[Attempt] = Carriers(loop, self._over)
        self._limits: dict[str, _Limit] = {}
        self._running: set[Attempt] = set()
        self._stopped = False
        self._nobody_left: asyncio.Future[None] | None = None
        self.suspects: Suspects | None = None
        self.families: Families | None = None
        self.post: Callable[[HotRun, Inbound], None] = outcomes.post
        self.soon = outcomes.soon
        self.marks = Marks()

    # --- beginning -----------------------------------------------------------------

    def dispatch(self, run: HotRun, step: OpenStep) -> None:
        """Queue an attempt of `step`, behind its concurrency limit if it has one."""
        body = run.body
        if run.gone or self._stopped or step.running or body is None or step.seq not in body.steps:
            return
        made: Step[..., Any] = step.step  # type: ignore[assignment]  # nothing else is issued
        if step.interruptions and self.suspects is not None and self.suspects.is_suspect(step):
            self.suspects.enqueue(run, step)
            return
        step.running = True
        if made.settings.waits_for_run:
            assert self.families is not None
            return self.families.wait(run, step)
        if made.settings.concurrency is not None:
            limit = self._limits.setdefault(made.name, _Limit())
            if limit.running >= made.settings.concurrency:
                limit.waiting.append((run, step))
                return
            limit.running += 1
        self._enlist(run, step, made.settings)

    def _enlist(self, run: HotRun, step: OpenStep, settings: StepOptions) -> None:
        attempt = Attempt(run, step, settings, self._runtime, self._streams)
        run.attempts[step.seq] = attempt
        self._running.add(attempt)
        self.soon(self._begin, attempt)

    def _begin(self, attempt: Attempt) -> None:
        if attempt.forgotten:
            return
        step, kwargs = attempt.step, _NO_KWARGS
        made: Step[..., Any] = step.step  # type: ignore[assignment]  # nothing else is issued
        args = step.args
        if args is None:
            try:
                args, kwargs = self._payloads.decode_call(step.payload)
            except PayloadDecodeError as error:
                self._forget(attempt)
                parking = parked_by(error, f"the arguments of step {made.name}")
                self._outcomes.block(attempt.run, *parking)
                return
        attempt.began_us = self._clock.wall_us()
        attempt.fences = self._disk.fences
        context = step.context.copy()
        context.run(current_attempt.set, attempt)
        if made.is_async:
            attempt.slot = self.marks.mark(attempt.run.row.pk, step.seq)
            self._begin_async(attempt, made, context, args, kwargs)
            return
        try:
            self._begin_sync(attempt, made, args, kwargs, context)
        except RuntimeError as error:  # the system gives no thread, or no worker process
            self._fail(attempt, error)

    def _begin_async(
        self,
        attempt: Attempt,
        made: Step[..., Any],
        context: Context,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        try:
            if made.yields:
                work: Any = pour(attempt, partial(made.fn, *args, **kwargs))
            else:
                work = context.run(made.fn, *args, **kwargs)
        except BaseException as error:  # it does not take these arguments
            self._over(attempt, None, error)
            return
        if made.settings.timeout is not None or type(work) is not CoroutineType:
            work = self._within(attempt, made, work)
        self._carriers.begin(attempt, work, context)

    def _over(self, attempt: Attempt, value: Any, error: BaseException | None) -> None:
        if error is None:
            self._complete(attempt, value)
        elif isinstance(error, asyncio.CancelledError):
            if not attempt.forgotten:
                self._cut_off(attempt, error)
        elif not isinstance(error, Exception) and is_from_signal(error):
            self._forget(attempt)  # the program is going down: the attempt was cut off
            raise error
        else:
            self._fail(attempt, error)

    def _begin_sync(
        self,
        attempt: Attempt,
        made: Step[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context,
    ) -> None:
        done = self._sync_done(attempt)
        if made.settings.executor == "thread":
            call = partial(made.fn, *args, **kwargs)
            if made.yields:
                call = partial(pour_in_thread, attempt, call)
            call = partial(self._in_thread, attempt, call)
            attempt.ticket = self._threads.submit(call, done, self._loop, context=context)
        elif (error := misfit(made, args, kwargs)) is not None:
            self._forget(attempt)
            self._give_up(attempt, error)
        else:
            there = (attempt.metadata, made.fn, args, kwargs)
            attempt.ticket = self._processes.submit(
                run_in_attempt, there, {}, done, self._loop, self._threads,
                begun=partial(self._begun_elsewhere, attempt),
            )  # fmt: skip

    def _in_thread(self, attempt: Attempt, call: Callable[[], Any]) -> Any:
        """Run a step's function; the attempt begins here, and not with its place in the queue."""
        attempt.began_us = self._clock.wall_us()
        self._mark(attempt)
        if attempt.settings.timeout is not None:
            tell(self._loop, partial(self._limit_sync, attempt))
        return call()

    def _mark(self, attempt: Attempt) -> None:
        attempt.slot = self.marks.mark(attempt.run.row.pk, attempt.step.seq)
        if attempt.forgotten:  # meanwhile, on the loop
            self._unmark(attempt)

    def _unmark(self, attempt: Attempt) -> None:
        # Once only: a slot that is freed twice would serve two attempts.
        slot, attempt.slot = attempt.slot, 0
        if slot:
            self.marks.clear(slot)

    def _begun_elsewhere(self, attempt: Attempt) -> None:
        if not attempt.forgotten:
            self._mark(attempt)
            self._limit_sync(attempt)

    def _limit_sync(self, attempt: Attempt) -> None:
        limit = attempt.settings.timeout
        if limit is not None and not attempt.forgotten:
            late = partial(self._time_out_sync, attempt)
            attempt.timeout = self._clock.call_later(self._loop, limit, late)

    async def _within(self, attempt: Attempt, made: Step[..., Any], work: Awaitable[Any]) -> Any:
        if made.settings.timeout is None:
            return await work
        scope = asyncio.timeout(None)
        late = partial(self._time_out_async, attempt, made, scope)
        try:
            async with scope:
                attempt.timeout = self._clock.call_later(self._loop, made.settings.timeout, late)
                return await work
        except TimeoutError as error:
            if scope.expired():
                raise too_long(made) from error
            raise

    def _time_out_async(
        self, attempt: Attempt, made: Step[..., Any], scope: asyncio.Timeout
    ) -> None:
        scope.reschedule(self._loop.time())
        # A step that does not let itself be cancelled has had its time all the same.
        attempt.timeout = self._clock.call_later(
            self._loop, STRAY_SECONDS, lambda: self._fail(attempt, too_long(made))
        )

    def _cut_off(self, attempt: Attempt, error: asyncio.CancelledError) -> None:
        # Somebody else cancelled the task: `asyncio.run` at its end, most likely. Then no
        # later callback runs and the attempt counts as interrupted; else it has failed.
        if attempt.timeout is not None:
            attempt.timeout.cancel()
        self._clock.call_later(self._loop, STRAY_SECONDS, lambda: self._fail(attempt, error))

    def _sync_done(self, attempt: Attempt) -> Callable[[Any, BaseException | None], None]:
        def done(value: Any, error: BaseException | None) -> None:
            if error is None:
                self._complete(attempt, value)
            else:
                self._fail(attempt, error)

        return done

    def _time_out_sync(self, attempt: Attempt) -> None:
        if attempt.ticket is not None:
            attempt.ticket.abandon()
        self._fail(attempt, too_long(cast("Step[..., Any]", attempt.step.step)))

    # --- outcomes --------------------------------------------------------------------

    def _complete(self, attempt: Attempt, value: Any) -> None:
        if attempt.outlet is not None and attempt.outlet.when_open(
            lambda error: self._fail(attempt, error) if error else self._complete(attempt, value)
        ):
            return  # a stream of it is still being opened
        if not self._forget(attempt):
            return
        step = attempt.step
        try:
            payload = self._payloads.encode(value, "result")
        except Exception as error:  # a SerializationError, or one of the value's own code
            self._give_up(attempt, error)
            return
        known = value if type(value) in SCALARS else UNDECODED
        self.post(attempt.run, inbound((STEP_COMPLETED, step.seq, "", None, payload, known)))

    def _fail(self, attempt: Attempt, error: BaseException) -> None:
        if not self._forget(attempt):
            return
        if self._is_ours(attempt, error):
            return self._put_off(attempt, error)
        if attempt.step.step.name == START_STEP and isinstance(error, WorkflowNotRegisteredError):
            return self._outcomes.block(attempt.run, *parked_by(error, "a child cannot be started"))
        error = raisable(error)
        step = cast("Step[..., Any]", attempt.step.step)
        failures = attempt.step.failures + 1
        now = self._clock.wall_us()
        retry_at = next_attempt_at(step, failures, error, now)
        if retry_at is None:
            self._give_up(attempt, error)
            return
        attempt.step.retry_ends = self._clock.boot() + (retry_at - now) / 1e6
        payload = self._payloads.encode_error(error)
        self.post(
            attempt.run,
            Inbound(STEP_RETRYING, attempt.step.seq, FAILED_ATTEMPT, retry_at, payload),
        )

    def _is_ours(self, attempt: Attempt, error: BaseException) -> bool:
        """Tell whether the attempt failed because this runtime stops or its disk failed."""
        kinds = [type(each) for each in origins(error)]
        if self._stopped and RuntimeClosedError in kinds:
            return True
        if attempt.step.step.name.startswith("durable.") and kinds[0] in _TROUBLE:
            return True  # our own steps do nothing but ask the journal
        failed_meanwhile = self._disk.fences != attempt.fences
        return failed_meanwhile and any(issubclass(kind, JournalError) for kind in kinds)

    def _put_off(self, attempt: Attempt, error: BaseException) -> None:
        """Make the same attempt again later: what cut it off says nothing about the step."""
        run, step = attempt.run, attempt.step
        self._streams.cut_short.add((run.row.pk, step.seq))
        if not self._stopped:
            logger.warning("step %s will be tried again: %s", step.step.name, error)
            again = partial(self.dispatch, run, step)
            self._clock.call_later(self._loop, PUT_OFF_SECONDS, again)

    def _give_up(self, attempt: Attempt, error: BaseException) -> None:
        payload = self._payloads.encode_error(error)
        self.post(attempt.run, Inbound(EventKind.STEP_FAILED, attempt.step.seq, payload=payload))

    # --- ending ----------------------------------------------------------------------

    def _forget(self, attempt: Attempt) -> bool:
        """Take the attempt off the books; False when it was off already."""
        if attempt.forgotten:
            return False
        attempt.forgotten = True
        if attempt.slot:
            self._unmark(attempt)
        if attempt.outlet is not None:
            attempt.outlet.end()
        if attempt.task is not None or attempt.ticket is not None:
            attempt.task = attempt.ticket = None  # they refer to the attempt
        attempt.step.running = False
        attempt.run.attempts.pop(attempt.step.seq, None)
        self._running.discard(attempt)
        if attempt.timeout is not None:
            attempt.timeout.cancel()
        if attempt.settings.concurrency is not None:
            self._next_in_line(attempt.step.step.name)
        if attempt.step.interruptions:
            self._outcomes.attempt_over(attempt.run, attempt.step)
        if not self._running and self._nobody_left is not None and not self._nobody_left.done():
            self._nobody_left.set_result(None)
        return True

    def _next_in_line(self, name: str) -> None:
        limit = self._limits[name]
        limit.running -= 1
        while limit.waiting and not self._stopped:
            run, step = limit.waiting.popleft()
            made = step.step
            if not run.gone and step.seq in _steps(run) and isinstance(made, Step):
                limit.running += 1
                return self._enlist(run, step, made.settings)

    def cancel(self, run: HotRun, seq: int) -> None:
        """Give up the running attempt of a step; its late result will be discarded."""
        attempt: Attempt | None = run.attempts.get(seq)
        if attempt is not None:
            task, ticket = attempt.task, attempt.ticket
            self._forget(attempt)
            if task is not None:
                task.cancel()
            if ticket is not None:
                ticket.abandon()
        elif self.families is not None:
            self.families.give_up(run, seq)

    def cancel_all(self, run: HotRun) -> None:
        """Give up all running attempts of a run, and all its waiting for other runs."""
        if self.families is not None:
            self.families.left(run)
        for seq in list(run.attempts):
            self.cancel(run, seq)

    def stop(self) -> None:
        """Begin no further attempts."""
        self._stopped = True

    async def drain(self, seconds: float) -> None:
        """Wait for running attempts, then give up those that are left."""
        if self._running and seconds > 0:
            self._nobody_left = self._loop.create_future()
            await asyncio.wait([self._nobody_left], timeout=seconds)
        left = list(self._running)
        strays = [attempt.task for attempt in left if attempt.task is not None]
        for attempt in left:
            self.cancel(attempt.run, attempt.step.seq)
        if strays:
            await asyncio.wait(strays, timeout=STRAY_SECONDS)

    def close(self) -> None:
        """End idle threads and worker processes; never waits for a stuck one."""
        self._stopped = True
        self._carriers.close()
        self._threads.close()
        self._processes.close()


def _steps(run: HotRun) -> dict[int, OpenStep]:
    return run.body.steps if run.body is not None else {}
