"""Makes attempts of steps and turns each outcome into something for the run's inbox.

Async steps run as tasks of the host's loop, sync ones in threads or worker processes.
What a step receives is decoded from the recorded bytes. An attempt that was given up
(cancelled, timed out, run ended) is forgotten first, so its late result goes nowhere.
Retries are decided here, from the step's options and the failures on record.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from durable._authoring.context import StepMetadata, current_attempt, run_in_attempt
from durable._authoring.primitives import from_us
from durable._authoring.step import Step, StepOptions
from durable._base.clock import Clock, Timer
from durable._engine.generators import pour, pour_in_thread
from durable._engine.hot import HotRun
from durable._engine.live_stream import Author
from durable._engine.outlets import Channel, Outlet
from durable._engine.payloads import EnginePayloads, immutable
from durable._engine.processes import ProcessPool
from durable._engine.retries import misfit, next_attempt_at, origins, raisable, too_long
from durable._engine.streams import Streams
from durable._engine.threads import ThreadPool, Ticket
from durable._replay.body import FAILED_ATTEMPT, OpenStep
from durable._replay.events import STEP_COMPLETED, STEP_RETRYING, EventKind
from durable._replay.script import UNDECODED, Inbound
from durable.errors import (
    JournalError,
    JournalFullError,
    PayloadDecodeError,
    RuntimeClosedError,
    WrongContextError,
)

# How long a cancelled step may go on before nobody waits for it any more.
STRAY_SECONDS = 1.0
# When to make an attempt again that the journal's disk has cut short.
PUT_OFF_SECONDS = 1.0
_TROUBLE = (JournalError, JournalFullError)

T = TypeVar("T")

logger = logging.getLogger("durable")


class Outcomes(Protocol):
    """Where outcomes go."""

    def post(self, run: HotRun, item: Inbound) -> None:
        """Put an outcome into the run's inbox."""

    def block(self, run: HotRun, kind: str, reason: str, missing: str | None = None) -> None:
        """Park a run whose step cannot even be begun."""

    def made_room(self) -> None:
        """Take note that an attempt only waits for another run, which needs a place too."""

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


class Attempt:
    """One running attempt. `forget` makes its outcome meaningless."""

    __slots__ = (
        "began_us", "fences", "forgotten", "number", "outlet", "run", "runtime", "settings",
        "step", "streams", "task", "ticket", "timeout", "yielded",
    )  # fmt: skip

    def __init__(
        self, run: HotRun, step: OpenStep, settings: StepOptions, runtime: object, fences: int,
        streams: Streams,
    ) -> None:  # fmt: skip
        self.run = run
        self.fences = fences
        self.streams = streams
        self.outlet: Outlet | None = None
        self.yielded = 0
        self.step = step
        self.settings = settings
        self.runtime = runtime
        self.began_us = 0
        self.number = step.failures + step.interruptions + step.parks + 1
        self.forgotten = False
        self.task: asyncio.Task[None] | None = None
        self.ticket: Ticket | None = None
        self.timeout: Timer | None = None

    @property
    def metadata(self) -> StepMetadata:
        """What `get_step_metadata` answers inside the step."""
        step_id = f"{self.run.run_id}:{self.step.seq}"
        return StepMetadata(
            step_id=step_id,
            name=self.step.step.name,
            attempt=self.number,
            started_at=from_us(self.began_us),
            run_id=self.run.run_id,
            idempotency_key=step_id,
            yielded=self.yielded,
        )

    def channel(self, namespace: str, mode: str) -> Channel:
        """Return the attempt's channel to a stream of the run.

        Raises:
            WrongContextError: called in another event loop than the one that runs us.
        """
        if asyncio.get_running_loop() is not self.streams.loop:
            raise WrongContextError(
                "a step's streams belong to the event loop of its runtime: in a loop of your own, "
                "pass the values to a thread that uses get_sync_writable()"
            )
        if self.outlet is None:
            self.outlet = self.streams.outlet(self.run, Author(self.step.seq, self.number))
        return self.outlet.channel(namespace, mode)

    def wait_for(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `make()` on the loop that runs us; blocks the calling thread."""
        return asyncio.run_coroutine_threadsafe(make(), self.streams.loop).result()


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
        post: where outcomes go; by default `outcomes.post`.
        waiting_for_runs: running attempts that do nothing but wait for another run.
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
        self._limits: dict[str, _Limit] = {}
        self._running: set[Attempt] = set()
        self._stopped = False
        self.waiting_for_runs = 0
        self._nobody_left: asyncio.Future[None] | None = None
        self.suspects: Suspects | None = None
        self.post: Callable[[HotRun, Inbound], None] = outcomes.post

    # --- beginning -----------------------------------------------------------------

    def dispatch(self, run: HotRun, step: OpenStep) -> None:
        """Begin an attempt of `step`, or queue it behind its concurrency limit."""
        if run.gone or self._stopped or step.running or step.seq not in _steps(run):
            return
        made = step.step
        assert isinstance(made, Step)
        if step.interruptions and self.suspects is not None and self.suspects.is_suspect(step):
            self.suspects.enqueue(run, step)
            return
        step.running = True
        if made.settings.concurrency is not None:
            limit = self._limits.setdefault(made.name, _Limit())
            if limit.running >= made.settings.concurrency:
                limit.waiting.append((run, step))
                return
            limit.running += 1
        self._begin(run, step, made)

    def _begin(self, run: HotRun, step: OpenStep, made: Step[..., Any]) -> None:
        attempt = Attempt(run, step, made.settings, self._runtime, self._disk.fences, self._streams)
        attempt.began_us = self._clock.wall_us()
        run.attempts[step.seq] = attempt
        self._running.add(attempt)
        if made.settings.waits_for_run:
            self.waiting_for_runs += 1
            self._outcomes.made_room()
        try:
            args, kwargs = self._payloads.decode_call(step.payload)
        except PayloadDecodeError as error:
            self._forget(attempt)
            self._outcomes.block(run, "payload", f"the arguments of step {made.name}: {error}")
            return
        context = step.context.copy()
        context.run(current_attempt.set, attempt)
        if made.is_async:
            attempt.task = self._loop.create_task(
                self._run_async(attempt, made, args, kwargs), context=context
            )
            return
        if made.settings.timeout is not None:
            attempt.timeout = self._clock.call_later(
                self._loop, made.settings.timeout, partial(self._time_out_sync, attempt, made)
            )
        try:
            self._begin_sync(attempt, made, args, kwargs, context)
        except RuntimeError as error:  # the system gives no thread, or no worker process
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
            attempt.ticket = self._threads.submit(call, done, self._loop, context=context)
        elif (error := misfit(made, args, kwargs)) is not None:
            self._forget(attempt)
            self._give_up(attempt, error)
        else:
            there = (attempt.metadata, made.fn, args, kwargs)
            attempt.ticket = self._processes.submit(
                run_in_attempt, there, {}, done, self._loop, self._threads
            )

    async def _run_async(
        self, attempt: Attempt, made: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        call = partial(pour, attempt, partial(made.fn, *args, **kwargs)) if made.yields else None
        try:
            work = made.fn(*args, **kwargs) if call is None else call()
            if made.settings.timeout is None:
                value = await work
            else:
                value = await self._within(attempt, made, work)
        except asyncio.CancelledError as error:
            if not attempt.forgotten:
                self._cut_off(attempt, error)
            raise
        except KeyboardInterrupt as error:
            if _is_ctrl_c():
                self._forget(attempt)  # the program is going down: the attempt was cut off
                raise
            self._fail(attempt, error)
        except BaseException as error:
            self._fail(attempt, error)
        else:
            self._complete(attempt, value)

    async def _within(
        self, attempt: Attempt, made: Step[..., Any], work: Coroutine[Any, Any, Any]
    ) -> Any:
        scope = asyncio.timeout(None)
        late = partial(self._time_out_async, attempt, made, scope)
        try:
            async with scope:
                assert made.settings.timeout is not None
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
        self._clock.call_later(self._loop, STRAY_SECONDS, lambda: self._fail(attempt, error))

    def _sync_done(self, attempt: Attempt) -> Callable[[Any, BaseException | None], None]:
        def done(value: Any, error: BaseException | None) -> None:
            if error is None:
                self._complete(attempt, value)
            else:
                self._fail(attempt, error)

        return done

    def _time_out_sync(self, attempt: Attempt, made: Step[..., Any]) -> None:
        if attempt.ticket is not None:
            attempt.ticket.abandon()
        self._fail(attempt, too_long(made))

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
        known = value if immutable(value) else UNDECODED
        self.post(
            attempt.run,
            Inbound(STEP_COMPLETED, step.seq, payload=payload, value=known),
        )

    def _fail(self, attempt: Attempt, error: BaseException) -> None:
        if not self._forget(attempt):
            return
        if self._is_ours(attempt, error):
            return self._put_off(attempt, error)
        error = raisable(error)
        step = cast("Step[..., Any]", attempt.step.step)
        failures = attempt.step.failures + 1
        retry_at = next_attempt_at(step, failures, error, self._clock.wall_us())
        if retry_at is None:
            self._give_up(attempt, error)
            return
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
        if attempt.outlet is not None:
            attempt.outlet.end()
        attempt.task = attempt.ticket = None  # they refer to the attempt
        attempt.step.running = False
        attempt.run.attempts.pop(attempt.step.seq, None)
        self._running.discard(attempt)
        if attempt.settings.waits_for_run:
            self.waiting_for_runs -= 1
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
                return self._begin(run, step, made)

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

    def cancel_all(self, run: HotRun) -> None:
        """Give up all running attempts of a run."""
        for seq in list(run.attempts):
            self.cancel(run, seq)

    def stop(self) -> None:
        """Begin no further attempts."""
        self._stopped = True

    async def drain(self, seconds: float) -> None:
        """Wait for running attempts, then give up those that are left."""
        for attempt in [each for each in self._running if each.settings.waits_for_run]:
            self.cancel(attempt.run, attempt.step.seq)
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
        self._threads.close()
        self._processes.close()


def _steps(run: HotRun) -> dict[int, OpenStep]:
    return run.body.steps if run.body is not None else {}


def _is_ctrl_c() -> bool:
    # asyncio.run turns Ctrl-C into a cancellation; only without it does the signal's own
    # handler raise KeyboardInterrupt in whatever code happens to be running.
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
