"""Brings a run from its rows back into memory: history, replay, alarms, attempts.

A run is loaded once however many ask for it. What cannot be replayed here and now
(missing code, another Python's payload, a divergence, a damaged row) parks the run with
the reason; nothing of it is lost. Steps that were in flight when the previous process
ended are noted as interrupted before they are dispatched again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeGuard

from durable._authoring import registry
from durable._authoring.context import WorkflowMetadata
from durable._authoring.primitives import from_us
from durable._base.clock import Clock
from durable._engine.activation import ATTEMPTS, DEADLINE, Activation, Host
from durable._engine.claims import Claims
from durable._engine.hot import HotRun, Main, settle
from durable._engine.payloads import EnginePayloads, no_workflow, parked_by
from durable._engine.scheduler import Scheduler
from durable._engine.suspects import Suspects
from durable._engine.timers import Timers
from durable._journal.attributes import decode_attributes, seed_of
from durable._journal.journal import Journal
from durable._journal.records import BLOCKED, FINISHED, RunRow, Write
from durable._journal.sealing import still_sealed
from durable._journal.seals import key_id_of, no_key
from durable._replay.attributes import first_attributes
from durable._replay.body import Body
from durable._replay.events import INTERRUPTED, PARKED, Event, EventKind
from durable._replay.rewound import effective
from durable._replay.script import Inbound
from durable._replay.stage import Stage
from durable.errors import DurableError, JournalCorruptError, PayloadDecodeError

logger = logging.getLogger("durable")

# Recorded events applied before the host's loop gets a turn.
REPLAY_SLICE_EVENTS = 500
# When a run is read again whose loading was cut short.
RELOAD_SECONDS = 0.1
START = -3  # the alarm that starts a delayed run


class Loader:
    """See the module's docstring. `deadline` is called when a run's deadline has come."""

    def __init__(
        self,
        host: Host,
        journal: Journal,
        payloads: EnginePayloads,
        scheduler: Scheduler,
        activation: Activation,
        timers: Timers,
        clock: Clock,
        suspects: Suspects,
        deadline: Callable[[HotRun], None],
    ) -> None:
        self._host = host
        self._journal = journal
        self._payloads = payloads
        self._scheduler = scheduler
        self._activation = activation
        self._timers = timers
        self._clock = clock
        self._suspects = suspects
        self._deadline = deadline
        self._loads: dict[str, asyncio.Future[None]] = {}
        self._reloads: set[asyncio.Task[None]] = set()
        self.claims: Claims | None = None
        self.settings: dict[str, object] = {}  # of the runtime, for what bodies call
        self.stopped = False
        self._damaged: set[str] = set()  # told already
        # Gives a run that is back in memory the attempts that its pause has not ended.
        self.rejoin: Callable[[HotRun, Body], None] = _alone

    # --- new runs -----------------------------------------------------------------------

    def admit(self, run: HotRun, *history: Event) -> None:
        """Give a new run its body and queue it, or set the alarm for its delayed start.

        Parks it when its workflow is unknown here. Behind its creation its history may hold
        what was sent to it.
        """
        if self._scheduler.get(run.run_id) is not None:
            return
        self._scheduler.add(run)
        if self._give_body(run, history):
            assert run.body is not None
            run.body.replay(1 + len(history))
            self._arm(run)

    def _give_body(self, run: HotRun, history: Sequence[Event]) -> bool:
        definition = run.definition or registry.find_workflow(run.row.workflow)
        if definition is None:
            self._host.block(run, *no_workflow(run.row.workflow))
            return False
        run.begins_at = history[0].due or 0
        try:
            assert history[0].payload is not None
            args, kwargs = self._payloads.decode_call(history[0].payload)
        except PayloadDecodeError as error:
            self._host.block(run, *parked_by(error, "the arguments of the run"))
            return False
        if run.definition is None and (misfit := _misfit(definition, args, kwargs)) is not None:
            self._host.block(run, "divergence", misfit)
            return False
        main: Main = partial(definition.fn, *args, **kwargs)  # type: ignore[attr-defined]
        run.body = Body(
            run.run_id,
            partial(_begin, run, definition, main),
            history,
            self._payloads,
            self._clock.wall_us,
            None if run.row.origin is None else seed_of(run.row.origin),
        )
        run.body.read_boot = self._clock.boot
        if run.row.attributes is not None:
            run.body.attributes = decode_attributes(run.row.attributes)
        run.body.scratch.update(self.settings)
        return True

    # --- runs from the journal --------------------------------------------------------------

    async def fetch(
        self, row: RunRow, *, resumed: bool = False, due: int | None = None, fresh: bool = False
    ) -> HotRun | None:
        """Return the run, in memory and replayed; None when it is parked, or had to be.

        Args:
            row: as it stands.
            resumed: it was parked, so nothing of it was running when the last process ended.
            due: load it only if this is still its `wake_at`.
            fresh: none of its attempts has been cut off since it was last recorded.
        """
        while (run := self._scheduler.get(row.run_id)) is None or run.loading:
            busy = self._loads.get(row.run_id)
            if busy is None:
                await self._load(row, resumed, due, fresh)
                return self._scheduler.get(row.run_id)
            await asyncio.shield(busy)
            newer = await self._journal.reader.run_by_pk(row.pk)
            if not _goes_on(newer):
                return self._scheduler.get(row.run_id)
            row = newer
        return run

    def reserve(self, run_ids: Sequence[str]) -> Callable[[], None]:
        """Keep runs that are about to be recorded from being loaded; see `keep_out`."""
        wanted = dict.fromkeys(run_ids)  # a batch may name one id several times
        return self.keep_out(
            [i for i in wanted if i not in self._loads and self._scheduler.get(i) is None]
        )

    def keep_out(self, run_ids: Sequence[str]) -> Callable[[], None]:
        """Let nobody load these runs, whose rows are about to change.

        Returns:
            What is to be called once the rows are as they shall be.
        """
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loads.update(dict.fromkeys(run_ids, changed))

        def let_in() -> None:
            for run_id in run_ids:
                self._forget_load(run_id, changed)
            settle(changed, None)

        return let_in

    def _forget_load(self, run_id: str, load: asyncio.Future[None]) -> None:
        if self._loads.get(run_id) is load:  # else the run was parked meanwhile
            del self._loads[run_id]

    def is_busy(self, run_id: str) -> bool:
        """Tell whether the run is being loaded or kept out."""
        return run_id in self._loads

    async def at_rest(self, run_id: str) -> None:
        """Return when the run is neither being loaded nor kept out."""
        while (busy := self._loads.get(run_id)) is not None:
            await asyncio.shield(busy)

    async def _load(self, row: RunRow, resumed: bool, due: int | None, fresh: bool) -> None:
        loaded = self._loads[row.run_id] = asyncio.get_running_loop().create_future()
        try:
            # Who asks may have read the row before it was parked, or woken.
            newer = await self._journal.reader.run_by_pk(row.pk)
            if self._scheduler.get(row.run_id) is not None:
                return  # meanwhile it was born here: it was read before its birth was reported
            if _goes_on(newer) and due in (None, newer.wake_at):
                await self._bring_in(newer, resumed, fresh)
        except JournalCorruptError as error:  # of the row itself: nothing can be recorded there
            self._log_once(row.run_id, error)
        except (DurableError, asyncio.CancelledError):
            # Meanwhile it may have fallen due, and whoever looked saw it on its way.
            loop = asyncio.get_running_loop()
            self._clock.call_later(loop, RELOAD_SECONDS, partial(self._reload, row, resumed))
            raise
        finally:
            self._forget_load(row.run_id, loaded)
            settle(loaded, None)

    def _log_once(self, run_id: str, error: Exception) -> None:
        if run_id not in self._damaged:
            self._damaged.add(run_id)
            logger.error("run %s cannot go on: %s", run_id, error)

    async def _bring_in(self, row: RunRow, resumed: bool, fresh: bool) -> None:
        run = HotRun(row)
        run.loading = True
        self._scheduler.add(run)
        try:
            await self._replay(run)
        except (DurableError, asyncio.CancelledError):
            self._scheduler.remove(run)  # reading failed or was called off: it stays a row
            run.drop()
            raise
        except Exception as error:  # ours: one run's trouble must not become that of all
            logger.exception("run %s met a defect of durable", run.run_id)
            self._host.block(run, "corrupt", f"an internal error, please report it: {error!r}")
        finally:
            run.loading = False
        if not run.gone:
            self._arm(run, resumed, fresh)
        if not run.gone:
            if run.inbox:
                self._scheduler.ready(run)
            else:
                self._note_wake(run)
                self._scheduler.settled(run)

    def _note_wake(self, run: HotRun) -> None:
        """Record when the run is due next, if its row says otherwise: it was parked before."""
        body = run.body
        assert body is not None
        wake_at = self._activation.next_wake(run, body) if body.started else run.begins_at
        if body.outcome is None and wake_at != run.state.wake_at:
            run.state = run.state._replace(wake_at=wake_at)
            ops = [] if self.claims is None else self.claims.marks(run)
            self._journal.submit(Write(done=_ignore, states=[run.state], ops=ops, vital=True))

    def _reload(self, row: RunRow, resumed: bool) -> None:
        if self.stopped:
            return
        task = asyncio.get_running_loop().create_task(self._load_again(row, resumed))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _load_again(self, row: RunRow, resumed: bool) -> None:
        try:
            fresh = await self._journal.reader.run_by_pk(row.pk)
        except DurableError as error:
            logger.warning("run %s could not be read: %s", row.run_id, error)
            loop = asyncio.get_running_loop()
            self._clock.call_later(loop, 1.0, partial(self._reload, row, resumed))
            return
        if _goes_on(fresh):
            with suppress(DurableError):  # a load that fails sees to the next one itself
                await self.fetch(fresh, resumed=resumed)

    async def _replay(self, run: HotRun) -> None:
        try:
            history = await self._journal.reader.history(run.row.pk, run.run_id)
        except JournalCorruptError as error:
            self._host.block(run, "corrupt", str(error))
            return
        if run.gone:
            return  # the runtime ended meanwhile: a body of its own would be left over
        if self._journal.seals is not None and self._park_sealed(run, history):
            return
        if history and history[0].name != run.row.workflow:
            began = f"its history is that of another workflow, {history[0].name!r}"
            self._host.block(run, "corrupt", f"{began}: its row was changed")
            return
        view = effective(history)
        if not self._give_body(run, view.events):
            return
        run.inbox = view.inbox()
        body = run.body
        assert body is not None
        kept = body.attributes
        body.attributes = first_attributes(kept, history)
        try:
            while not run.gone and not self._replay_slice(run, body):
                await asyncio.sleep(0)
        except PayloadDecodeError as error:
            self._host.block(run, *parked_by(error))
            return
        if run.gone:
            return
        if body.script.divergence is not None:
            self._park_diverged(run, body)
        elif body.attributes != kept:
            body.attributes_changed = True  # those that it set after the point it was set back to

    def _replay_slice(self, run: HotRun, body: Body) -> bool:
        watchdog = self._activation.watchdog
        watchdog.busy = run.run_id
        watchdog.turns += 1
        if watchdog.asleep:
            watchdog.rouse()
        try:
            with Stage():
                return body.replay(REPLAY_SLICE_EVENTS)
        finally:
            watchdog.busy = None

    def _park_sealed(self, run: HotRun, history: Sequence[Event]) -> bool:
        """Park a run whose key is not at hand; it goes on by itself where it is."""
        payload = still_sealed(history)
        if payload is None:
            return False
        name = f"key {key_id_of(payload)}"
        self._host.block(run, "sealed", f"its history cannot be read: {no_key(payload)}", name)
        return True

    def _park_diverged(self, run: HotRun, body: Body) -> None:
        name = body.script.missing_name()
        is_ours = name is not None and name.startswith("durable.")
        if name is not None and not is_ours and not registry.is_registered(name):
            reason = f"step {name!r} is not registered in this process; {body.script.divergence}"
            self._host.block(run, "missing_code", reason, name)
        else:
            self._host.block(run, "divergence", str(body.script.divergence))

    def _arm(self, run: HotRun, resumed: bool = False, fresh: bool = False) -> None:
        """Set the run's alarms and begin its attempts, as its body wants them."""
        body, row = run.body, run.row
        assert body is not None
        if row.deadline is not None and body.cancel_event is None:
            late = partial(self._deadline, run)
            if not body.started and row.deadline <= self._clock.wall_us():
                return late()
            run.alarms[DEADLINE] = self._timers.at(row.deadline, late)
        if not body.started:
            self._arm_start(run)
            return
        self._activation.arm_grace(run, body)
        if body.hooks is not None and self.claims is not None:
            self.claims.arm(run)
        self.rejoin(run, body)
        # What an attempt came to meanwhile is followed by the next once that is on record.
        told = {item.ref for item in run.inbox if item.kind in ATTEMPTS}
        waits = list(body.waits.values())
        steps = [step for seq, step in body.steps.items() if seq not in told]
        if run.inbox and not self._caught_up(run, body):
            return
        for wait in waits:
            self._activation.arm_wait(run, wait)
        was_running = row.wake_at == 0 and not (self._journal.clean or resumed)
        running = self._journal.marks.previous
        for step in steps:
            if step.running or step.seq not in body.steps:
                continue
            if step.step.settings.waits_for_run:  # type: ignore[attr-defined]
                self._activation.arm_retry(run, step)  # nothing of it can have been cut off
            elif fresh or step.retry_at is not None:  # the next attempt has not begun
                self._activation.arm_retry(run, step)
            else:
                # What was about to begin, or had just ended, did not kill the process.
                cut_off = was_running and (running is None or (row.pk, step.seq) in running)
                if cut_off and self._suspects.died_alone(row.pk, step.seq):
                    return self._suspects.set_aside(run, step)
                note = INTERRUPTED if cut_off else PARKED
                run.inbox.append(Inbound(EventKind.STEP_RETRYING, step.seq, note))

    def _caught_up(self, run: HotRun, body: Body) -> bool:
        """Let the body decide first about what came in while it was away.

        Returns whether it goes on; what it has begun meanwhile begins when that is durable.
        """
        self._activation.activate(run, all_items=True)
        return not run.gone and body.outcome is None

    def _arm_start(self, run: HotRun) -> None:
        start = Inbound(EventKind.RUN_STARTED)
        due = run.begins_at
        if due <= self._clock.wall_us():
            self._activation.post(run, start)
        else:
            begin = partial(self._activation.post, run, start)
            run.alarms[START] = self._timers.at(due, begin, absolute=True)


def _ignore(error: BaseException | None) -> None:
    """Do nothing: nobody waits for it."""


def _goes_on(row: RunRow | None) -> TypeGuard[RunRow]:
    """Tell whether there is a run that has neither ended nor been parked."""
    return row is not None and row.status not in (BLOCKED, *FINISHED)


def _alone(run: HotRun, body: Body) -> None:
    """Do nothing: no run is paused where nobody can pause one."""


def _misfit(definition: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Tell why the workflow as it is now does not take the recorded arguments, if so."""
    try:
        definition.bind(args, kwargs)
    except TypeError as error:
        return f"{error}. Take the recorded arguments again, then `await run.resume()`"
    return None


def _begin(run: HotRun, definition: object, main: Main) -> Coroutine[Any, Any, Any]:
    assert run.body is not None
    started, attributes = run.body.script.now_us, run.body.attributes
    run.body.scratch["workflow"] = definition
    run.body.scratch["metadata"] = partial(_metadata, run.row, started, attributes)
    return main()


def _metadata(row: RunRow, started: int, attributes: dict[str, str]) -> WorkflowMetadata:
    return WorkflowMetadata(
        run_id=row.run_id,
        workflow_name=row.workflow,
        created_at=from_us(row.created_at),
        started_at=from_us(started),
        parent_id=row.parent_id,
        root_id=row.root_id or row.run_id,
        first_run_id=row.first_id or row.run_id,
        attributes=dict(attributes),
        deployment_id=row.deployment_id,
    )
