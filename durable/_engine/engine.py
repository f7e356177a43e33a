"""The engine of one journal in one event loop: its parts put together.

Implements `EnginePort` for the process that owns the journal. It owns the waiters of
`wait_end`, the parking of runs, and the order of opening and stopping; every other
decision is made in the part it belongs to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from durable._authoring import registry
from durable._authoring.workflow import KEEP_FOR_EVER
from durable._base.clock import Clock
from durable._engine.activation import Activation
from durable._engine.answers import Answers
from durable._engine.attributes import Attributes
from durable._engine.births import Births
from durable._engine.claims import Claims
from durable._engine.commands import CANCEL, Commands
from durable._engine.ends import RecentEnds
from durable._engine.executor import Executor
from durable._engine.families import Families
from durable._engine.hot import HotRun, settle, with_state
from durable._engine.loader import Loader
from durable._engine.mail import Mail
from durable._engine.management import Cancellations, Shelf
from durable._engine.options import EngineOptions
from durable._engine.pause import Pauses
from durable._engine.payloads import EnginePayloads
from durable._engine.ports import Created, RunEnd, RunSpec
from durable._engine.recovery import Recovery
from durable._engine.requests import Requests
from durable._engine.rewind import Rewinds
from durable._engine.scheduler import Scheduler
from durable._engine.streams import Streams
from durable._engine.suspects import Suspects
from durable._engine.sweeper import Sweeper
from durable._engine.timers import Timers
from durable._engine.waiters import Waiters, shielded
from durable._journal.attributes import PAUSED, Blocked, decode_blocked, encode_blocked
from durable._journal.journal import Journal
from durable._journal.records import (
    BLOCKED,
    FINISHED,
    Request,
    RunRow,
    RunState,
    Write,
)
from durable._replay.opened import OpenStep
from durable._replay.script import Inbound
from durable.errors import (
    DurableError,
    InternalError,
    RuntimeClosedError,
    WorkflowRunNotFoundError,
)

T = TypeVar("T")

logger = logging.getLogger("durable")


class Engine:
    """See the module's docstring.

    Args:
        journal: opened as owner.
        runtime: what `start` inside a step uses.
    """

    def __init__(
        self,
        journal: Journal,
        payloads: EnginePayloads,
        clock: Clock,
        options: EngineOptions,
        runtime: object,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.journal = journal
        self._options = options
        self._loop = loop
        self._payloads = payloads
        self._spawned: set[asyncio.Task[Any]] = set()
        self._parked = asyncio.Lock()  # one command at a time for runs that are blocked
        self._closed = False
        self._streams = Streams(
            journal, payloads, clock, loop,
            lambda run_id: self.scheduler.get(run_id),  # noqa: PLW0108 - it is made later
            self._chunk_refused,
        )  # fmt: skip
        self._timers = Timers(clock, loop)
        self._executor = Executor(
            self, payloads, clock, loop,
            threads_max=options.threads_max, processes_max=options.processes_max, runtime=runtime,
            disk=journal.disk, streams=self._streams,
        )  # fmt: skip
        self._activation = Activation(self, journal, self._executor, self._timers, clock)
        self.scheduler = Scheduler(
            loop, clock, self._activation.activate, self._evicted, options.idle_runs_max,
            gate=journal.disk,
        )  # fmt: skip
        # Straight to where they end up: every step passes here.
        self._executor.post = self._activation.post
        self._executor.soon = self.scheduler.soon
        self._executor.marks = journal.marks
        self._activation.ready = self.scheduler.ready
        self._streams.post = self._activation.post
        self._suspects = Suspects(journal, self._executor.dispatch, self.block, self._timers, clock)
        self._executor.suspects = self._suspects
        self._commands = Commands(
            journal, self.scheduler, self._activation, payloads, clock, options.grace_us
        )
        self._loader = Loader(
            self, journal, payloads, self.scheduler, self._activation, self._timers, clock,
            self._suspects, self._commands.deadline,
        )  # fmt: skip
        claims = Claims(journal, self._activation, payloads, clock, self._spawn, self.settled)
        self._activation.hooks = self._loader.claims = claims
        self._loader.settings["webhook_base_url"] = options.webhook_base_url
        self._make_families(payloads, clock)
        self._recovery = Recovery(
            journal, self.scheduler, self._loader, self._timers, clock, self._has_room
        )
        self._families.made_room = self._recovery.made_room
        self._births = Births(
            journal, self._loader, self._recovery, payloads, clock, self.scheduler.soon
        )
        self._sweeper = Sweeper(journal, self._timers, clock, self._ends.clear)
        self.answers = self._offers(clock, claims)  # see `ask`

    def _offers(self, clock: Clock, claims: Claims) -> dict[str, Callable[..., Awaitable[Any]]]:
        """Return what can be asked, and the parts that answer it."""
        mail = Mail(
            self.journal, self._commands, self._loader, self._activation, self._payloads, claims,
            spawn=self._spawn, park=self._pauses.leave,
        )  # fmt: skip
        answers = Answers()
        shelf = Shelf(
            self.journal, clock, self.scheduler.get, self.kept_until, self._sweeper.start,
            one_at_a_time=self._parked,
        )  # fmt: skip
        cancellations = Cancellations(self._commands, self._loader, self.cancel)
        return self._streams.answers | {
            "resume_hook": mail.resume_hook,
            "send": mail.send,
            "webhook_wait": answers.wait,
            "webhook_give": answers.give,
            "set_attributes": Attributes(self.scheduler, self._activation).note,
            "delete_run": self._shielded(shelf.delete_run),
            "import_run": shelf.import_run,
            "cancel_runs": cancellations.cancel_runs,
            "retry": self._shielded(self._rewinds.retry),
            "fork": self._shielded(self._rewinds.fork),
            "pause": self._shielded(self._pauses.pause),
        }

    def _make_families(self, payloads: EnginePayloads, clock: Clock) -> None:
        """Make what brings runs back: those that wait for others, failed and paused ones."""
        self._ends = RecentEnds()
        self._waiters = Waiters(
            self.journal, self.scheduler, self._commands, self._ends, self.resume
        )
        self._families = Families(
            self.journal, self.scheduler, payloads, self._timers, clock,
            at_rest=self._waiters.at_rest, bring_back=self._fetch,
            cancel=partial(self.cancel, first=True), post=self._activation.post,
            spawn=self._spawn,
        )  # fmt: skip
        self._rewinds = Rewinds(
            self.journal, self._loader, self._commands, payloads, clock, self._parked, self._ends
        )
        self._pauses = Pauses(
            self.journal, self.scheduler, self._loader, self._activation, self._executor,
            self._commands, families=self._families, clock=clock, one_at_a_time=self._parked,
        )  # fmt: skip
        self._executor.families = self._families
        self._activation.outlived, self._loader.rejoin = self._pauses.outlived, self._pauses.rejoin

    async def open(self) -> None:
        """Begin to recover; new runs are welcome from here on."""
        self.journal.marks.open(f"{self.journal.path}.running")
        registry.listen(self)
        back = [self._resume_later(run_id) for run_id in await self._recovery.find_missing()]
        resumed = asyncio.gather(*map(self._spawn, back))
        if requests := await self.journal.reader.requests():
            self._spawn(self._recover_after(requests, resumed))
        else:
            self._recovery.start()
        self._sweeper.start()
        self._spawn(self._families.close_orphans())

    async def _recover_after(
        self, requests: Sequence[Request], resumed: asyncio.Future[Any]
    ) -> None:
        await resumed
        # First, so that no attempt begins again of a run that was cancelled meanwhile.
        wake = partial(self._commands.wake_up, self._loader)
        await Requests(self.journal, self.cancel, wake).perform(requests)
        self._recovery.start()

    # --- EnginePort ---------------------------------------------------------------------

    async def create(self, specs: Sequence[RunSpec]) -> list[Created]:
        """Record runs and queue them; see `EnginePort`."""
        self._require_open()
        created = await self._births.create(specs)
        self._families.begun(specs)
        return created

    async def wait_end(self, run_id: str, parked: bool = True) -> RunEnd:
        """Return how the run came to rest; see `EnginePort`."""
        self._require_open()
        return await self._waiters.wait_end(run_id, parked)

    async def cancel(self, run_id: str, reason: str | None, *, first: bool = False) -> None:
        """Request a cancellation, or only the `first` one; see `EnginePort`."""
        self._require_open()
        found = await self._commands.cancel(self._loader, run_id, reason, first=first)
        if isinstance(found, RunRow) and (later := await self._commands.successor_of(found)):
            return await self.cancel(later, reason, first=first)
        if not isinstance(found, RunRow) or found.status != BLOCKED:
            return
        async with self._parked:
            row = await self._commands.row(run_id)
            if row.status == BLOCKED and not _can_clean_up(row):
                return await self._commands.end_blocked(row, reason)
            asked = row.status == BLOCKED and await self._commands.was_asked(row)
            if asked and first:
                return None
            if row.status == BLOCKED:  # asked a second time, it ends at once, see below
                request = None if asked else self._commands.request(CANCEL, reason)
                if await self._pauses.resume(row, request) is not None and not asked:
                    return await self.journal.perform(Write(done=_ignore, vital=True))
        await self.cancel(run_id, reason, first=first)  # it was resumed or ended meanwhile

    async def wake_up(self, run_id: str, waits: Sequence[int] | None) -> int:
        """End pending sleeps; see `EnginePort`."""
        self._require_open()
        return await self._commands.wake_up(self._loader, run_id, waits)

    async def resume(self, run_id: str) -> None:
        """Let a blocked run try again; see `EnginePort`."""
        self._require_open()
        # To its end, though who asked may leave: a run that is no longer recorded as
        # blocked and not brought into memory either would wait for the next opening.
        await shielded(self._spawn(self._resume(run_id)))

    async def _resume(self, run_id: str, *, by_itself: bool = False) -> None:
        async with self._parked:
            await self._loader.at_rest(run_id)
            row = await self._commands.row(run_id)
            name = decode_blocked(row.blocked).missing
            if row.status != BLOCKED or (by_itself and name is None):
                return
            if name is not None:
                self._recovery.missing.get(name, set()).discard(run_id)
            await self._pauses.resume(row)

    def _shielded(self, answer: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Any]:
        """Return `answer` so that it is carried through though who asked may leave."""

        async def answered(**fields: Any) -> T:
            return await shielded(self._spawn(answer(**fields)))

        return answered

    async def ask(self, what: str, **fields: Any) -> Any:
        """Ask the part that has offered to answer; see `EnginePort`."""
        self._require_open()
        if what not in self.answers:
            raise InternalError(f"the engine was asked for the unknown {what!r}")
        return await self.answers[what](**fields)

    # --- Host and Outcomes: what the parts report -----------------------------------------

    def ready(self, run: HotRun) -> None:
        """Queue a run for its next activation."""
        self.scheduler.ready(run)

    def settled(self, run: HotRun) -> None:
        """Note that a run has nothing to do for now."""
        self.scheduler.settled(run)

    def post(self, run: HotRun, item: Inbound) -> None:
        """Put a step's outcome into its run's inbox."""
        self._activation.post(run, item)

    def soon(self, do: Callable[[Any], None], what: Any) -> None:
        """Call `do(what)` from the host's loop, one of many in a row."""
        self.scheduler.soon(do, what)

    def _has_room(self) -> bool:
        # A run that waits for another one must not keep that one out of memory.
        busy = len(self.scheduler) - self._families.waiting_runs
        return busy < self._options.runs_max

    def attempt_over(self, run: HotRun, step: OpenStep) -> None:
        """Note that an attempt is not running any more."""
        self._suspects.over(step)

    def ended(self, run: HotRun) -> None:
        """Note that a run's end is durable (or that it was never recorded)."""
        self._executor.cancel_all(run)
        self.scheduler.remove(run)
        outcome = None if run.body is None else run.body.outcome
        if run.finished:
            self._families.ended(run)
        run.drop()
        if run.successor is not None:
            successor, history = run.successor
            self._births.admit(successor, *history)
        if run.finished:
            self._sweeper.expect(run.state.expires_at)
            payload = None if outcome is None else outcome.payload
            end = RunEnd(run.current_row(), payload)
            self._ends.keep(run.run_id, end)
            self._tell(run.run_id, end)
        self._recovery.made_room()

    def _evicted(self, run: HotRun) -> None:
        if not self._families.evicted(run):
            self._recovery.leave_behind(run.state.wake_at)
        self._recovery.made_room()

    def interrupted(self, run: HotRun) -> None:
        """Bring a run back from its history, because Ctrl-C hit its code."""
        self._executor.cancel_all(run)
        self.scheduler.remove(run)
        birth, run.birth = run.birth, None
        error = DurableError(f"Ctrl-C interrupted run {run.run_id} while its code was running")
        run.drop(error)
        if birth is not None:
            birth.done(error)  # it was not recorded
        elif not self._closed:
            self._spawn(self._bring_back(run))

    async def _bring_back(self, run: HotRun) -> None:
        # After what it had submitted before is durable.
        await self.journal.perform(Write(done=_ignore, vital=True))
        await self._fetch(run.run_id, resumed=True)

    async def _fetch(self, run_id: str, *, resumed: bool = False) -> None:
        row = await self.journal.reader.run_by_id(run_id)
        if row is not None and row.status not in (BLOCKED, *FINISHED):
            await self._loader.fetch(row, resumed=resumed)

    def kept_until(self, row: RunRow, now_us: int) -> int | None:
        """Return when a run that ends now may be deleted."""
        kept = self._options.retention_us if row.retention_us is None else row.retention_us
        return None if kept == KEEP_FOR_EVER else now_us + kept

    def block(
        self, run: HotRun, kind: str, reason: str, missing: str | None = None, *, unseen: int = 0
    ) -> None:
        """Park a run with the reason; what it has done stays on record."""
        if run.gone:
            return
        logger.warning("run %s is blocked (%s): %s", run.run_id, kind, reason)
        acks, run.acks = run.acks, []
        self._executor.cancel_all(run)
        self.scheduler.remove(run)
        seq = None if run.body is None else run.body.script.recorded_seq - unseen
        run.drop()
        column = encode_blocked(Blocked(kind, reason, missing, seq))
        state = RunState(BLOCKED, run.state.started_at, None, None, None, column, run.row.pk)
        run.state = state
        if missing is not None:
            self._recovery.missing.setdefault(missing, set()).add(run.run_id)
        let_in = self._loader.keep_out([run.run_id])  # until it is recorded as blocked
        write = run.birth or Write(done=_ignore, vital=True)
        told, run.birth = write.done, None
        if write.runs:
            write.runs = [with_state(run.row, state)]
        else:
            write.states = [state]

        def done(error: BaseException | None) -> None:
            let_in()
            told(error)
            for ack in acks:
                settle(ack, error)
            if not isinstance(error, RuntimeClosedError):
                self._tell(run.run_id, RunEnd(with_state(run.row, state), None))
            self._recovery.made_room()

        write.done = done
        try:
            self.journal.submit(write)
        except RuntimeClosedError as error:  # the run goes on where the journal is opened next
            done(error)

    def _chunk_refused(self, run_id: str, error: BaseException) -> None:
        run = self.scheduler.get(run_id)
        if run is not None and not self._closed:
            self.block(run, "corrupt", f"its chunks could not be recorded: {error}")

    def _tell(self, run_id: str, end: RunEnd) -> None:
        if end.row.status in FINISHED:
            self._streams.run_ended(run_id)
        self._families.told(run_id, end)
        self._waiters.tell(run_id, end)

    # --- code that comes later --------------------------------------------------------------

    def on_registered(self, name: str) -> None:
        """Resume the runs that wait for this code; called from any thread."""
        if not self._closed and name in self._recovery.missing and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._code_came, name)

    def _code_came(self, name: str) -> None:
        for run_id in sorted(self._recovery.missing.pop(name, ())):
            self._spawn_resume(run_id)

    def _spawn_resume(self, run_id: str) -> None:
        if not self._closed:
            self._spawn(self._resume_later(run_id))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        return task

    async def _resume_later(self, run_id: str) -> None:
        try:
            await self._resume(run_id, by_itself=True)
        except (WorkflowRunNotFoundError, RuntimeClosedError):
            return  # deleted meanwhile; or the next runtime resumes it
        except Exception:
            logger.exception("run %s could not be resumed by itself", run_id)

    # --- stopping -----------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeClosedError(
                f"the runtime of {self.journal.path} is closed: open it again to go on"
            )

    def stop(self) -> None:
        """Begin no further attempts; what running ones cannot do any more is not their fault."""
        self._executor.stop()

    async def close(self, *, drain: bool = True) -> None:
        """Stop in order: drain attempts up to the deadline, park, close the journal.

        Attempts that are cut off run again at the next opening. No body is unwound.
        """
        if self._closed:
            return
        self._closed = True
        self._executor.stop()
        self._families.close()
        self._loader.stopped = True
        self._timers.close()
        await self._recovery.close()
        await self._sweeper.close()
        await self._executor.drain(self._options.drain_seconds if drain else 0.0)
        while self.scheduler.busy:
            await asyncio.sleep(0)  # the last outcomes reach their bodies
        self.scheduler.stop()
        self._executor.close()
        self._activation.watchdog.close()
        await self.journal.close()
        self._let_go()

    def abandon(self) -> None:
        """Let go without waiting: the loop is closed or the process is going down."""
        self._closed = True
        self._families.close()
        self._loader.stopped = True
        self._timers.close()
        self._executor.close()
        self._activation.watchdog.close()
        self.journal.abandon()
        self._let_go()

    def _let_go(self) -> None:
        self._streams.close(self.journal.path)
        closed = RuntimeClosedError("the runtime was closed while the run was still going on")
        for run in self.scheduler:
            run.drop(closed)
            self.scheduler.remove(run)
        self._waiters.fail(closed)


def _can_clean_up(row: RunRow) -> bool:
    """Tell whether a parked run's code can still be asked: nothing is wrong with it."""
    return row.started_at is not None and decode_blocked(row.blocked).kind == PAUSED


def _ignore(error: BaseException | None) -> None:
    """Do nothing: the engine's own writes have nobody waiting for them."""
