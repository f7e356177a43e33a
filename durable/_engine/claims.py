"""Claims of hook tokens: recorded with the turn that makes them, judged once it is durable.

A claim is a row, inserted in the same transaction as the hook's `hook_created` unless
somebody else has it; a release deletes it, and so does the end of the run. A run whose
claim failed is marked as due in that transaction too, so that a crash before it has heard
of the conflict brings it back. The conflict itself is an event: the run that made the
claim gets it in its inbox, with the run that holds the token.

Claims say the same twice: when a run is loaded they are looked up again. Until its body has
heard of it, a claim that is not known to hold is marked with every write that may tell when
the run is due.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from durable._base.clock import Clock
from durable._base.ids import token_hash
from durable._engine.activation import Activation
from durable._engine.hot import HotRun
from durable._engine.payloads import EnginePayloads
from durable._journal.journal import Journal
from durable._journal.records import RowOp, Write
from durable._journal.row_ops import claim_hook
from durable._replay.body import Body
from durable._replay.hooks import CLAIMED, HOOK_CONFLICT
from durable._replay.mailbox import OpenHook
from durable._replay.script import Inbound
from durable.errors import DurableError, RuntimeClosedError

logger = logging.getLogger("durable")

# Until a look at the journal that failed is repeated.
RETRY_SECONDS = 1.0


class _Asked(NamedTuple):
    """What a write is to tell: about the claims of a run, and to its body."""

    run: HotRun
    marked: Sequence[OpenHook]
    asking: Sequence[OpenHook]
    write: Write
    places: range  # of the marks among the write's `ops`


class Claims:
    """See the module's docstring.

    `spawn` begins work of the engine in the background, `settled` takes note that a run may
    have nothing to do for now.

    Attributes:
        hot: hooks of runs in memory whose claims are durable, by token.
    """

    def __init__(
        self,
        journal: Journal,
        activation: Activation,
        payloads: EnginePayloads,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        settled: Callable[[HotRun], None],
    ) -> None:
        self._journal = journal
        self._activation = activation
        self._payloads = payloads
        self._clock = clock
        self._spawn = spawn
        self._settled = settled
        self.hot: WeakValueDictionary[str, OpenHook] = WeakValueDictionary()

    # --- with a turn -------------------------------------------------------------------

    def record(self, run: HotRun, body: Body, write: Write) -> None:
        """Add to a turn's write what its body did with tokens."""
        hooks = body.hooks
        assert hooks is not None
        changes, asking = hooks.take_changes(), hooks.questions()
        ops = [_claim(run, hook) if claims else _release(run, hook) for claims, hook in changes]
        marked: Sequence[OpenHook] = ()
        if body.outcome is not None:
            if hooks.any_claims:
                ops.append(RowOp("release_hooks", (run.row.pk,)))
        else:
            new = [hook for claims, hook in changes if claims]
            # Those of earlier turns too: this write may set when the run is due.
            hooks.unsure = [hook for hook in (*hooks.unsure, *new) if _is_open(run, hook)]
            marked = tuple(hooks.unsure)
            ops += self.marks(run)
        if ops or asking:
            write.ops = [*write.ops, *ops]
            places = range(len(write.ops) - len(marked), len(write.ops))
            asked = _Asked(run, marked, asking, write, places)
            write.done = partial(self._recorded, asked, write.done)

    def marks(self, run: HotRun) -> list[RowOp]:
        """Return what keeps a run due until it has heard of the claims that it has lost."""
        hooks = None if run.body is None else run.body.hooks
        return [] if hooks is None else [_mark(run, hook) for hook in hooks.unsure]

    def _recorded(
        self,
        asked: _Asked,
        done: Callable[[BaseException | None], None],
        error: BaseException | None,
    ) -> None:
        if error is not None:
            return done(error)
        # Where a write was only found to be recorded, nobody knows what it changed.
        changed = asked.write.changed
        lost = [not changed or changed[place] > 0 for place in asked.places]
        self._judge(asked.run, asked.marked, lost)
        done(None)
        for hook in asked.asking:
            if hook.claimed:
                self._answer(asked.run, hook)

    def _judge(self, run: HotRun, marked: Sequence[OpenHook], lost: Sequence[bool]) -> None:
        body = run.body
        if run.gone or body is None or body.hooks is None:
            return
        for hook, is_lost in zip(marked, lost, strict=True):
            if hook not in body.hooks.unsure:
                continue  # an earlier turn has told
            if is_lost:
                self._doubt(run, [hook])
            else:
                self._hold(run, hook)

    # --- what became of a claim --------------------------------------------------------------

    def arm(self, run: HotRun) -> None:
        """Look up the claims of a loaded run: what its history tells of them may be past."""
        hooks = None if run.body is None else run.body.hooks
        if hooks is not None and (wanted := [h for h in hooks.open.values() if not h.conflict]):
            hooks.unsure = list(wanted)
            self._begin(run, partial(self._look_up, run, wanted))

    async def _look_up(self, run: HotRun, wanted: Sequence[OpenHook]) -> None:
        held = set(await self._journal.reader.hooks_of(run.row.pk))
        if not run.gone:
            for hook in wanted:
                if hook.seq in held:
                    self._hold(run, hook)
            self._doubt(run, [hook for hook in wanted if hook.seq not in held])
            self._settled(run)

    def _hold(self, run: HotRun, hook: OpenHook) -> None:
        assert run.body is not None
        assert run.body.hooks is not None
        hooks = run.body.hooks
        hooks.unsure = [each for each in hooks.unsure if each is not hook]
        hook.doubted = False
        hook.claimed = True
        hook.run = run
        self.hot[hook.token] = hook
        if hook.is_asking:
            self._answer(run, hook)

    def _answer(self, run: HotRun, hook: OpenHook) -> None:
        if not (hook.asked or hook.settled or hook.closed):
            hook.asked = True
            self._activation.post(run, Inbound(HOOK_CONFLICT, hook.seq, CLAIMED))

    def _doubt(self, run: HotRun, hooks: Sequence[OpenHook]) -> None:
        """Find out who holds the tokens that these hooks seem not to have got."""
        hooks = [hook for hook in hooks if not hook.doubted]
        if hooks:
            # As the journal has it: the run stays in memory until it has heard.
            run.state = run.state._replace(wake_at=0)
        for hook in hooks:
            hook.doubted = True
            self._begin(run, partial(self._find_holder, run, hook))

    async def _find_holder(self, run: HotRun, hook: OpenHook) -> None:
        hashed = token_hash(hook.token)
        while _is_open(run, hook):
            holder = await self._journal.reader.hook(hashed)
            if not _is_open(run, hook):
                return
            if holder is None:  # freed meanwhile
                ops = [_claim(run, hook), _mark(run, hook)]
                await self._journal.perform(Write(done=_ignore, ops=ops, vital=True))
            elif (holder.pk, holder.seq) == (run.row.pk, hook.seq):
                return self._regain(run, hook)
            else:
                payload = self._payloads.encode(holder.run_id)
                lost = Inbound(HOOK_CONFLICT, hook.seq, payload=payload)
                return self._activation.post(run, lost)

    def _regain(self, run: HotRun, hook: OpenHook) -> None:
        self._hold(run, hook)
        if not hook.held:
            self._answer(run, hook)  # in a turn that records when the run is due
        elif run.body is not None and not run.unsaved:
            run.state = run.state._replace(wake_at=self._activation.next_wake(run, run.body))
            self._settled(run)

    def _begin(self, run: HotRun, look: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._spawn(self._insist(run, look))

    async def _insist(self, run: HotRun, look: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await look()
        except RuntimeClosedError:
            return  # the next opening looks again
        except DurableError as error:
            logger.warning("run %s: its hooks could not be looked up: %s", run.run_id, error)
            if not run.gone:
                loop = asyncio.get_running_loop()
                self._clock.call_later(loop, RETRY_SECONDS, partial(self._begin, run, look))


def _is_open(run: HotRun, hook: OpenHook) -> bool:
    body = run.body
    if run.gone or body is None or body.outcome is not None:
        return False
    return not hook.closed and hook.conflict is None


def _claim(run: HotRun, hook: OpenHook) -> RowOp:
    return claim_hook(token_hash(hook.token), run.row.pk, hook.seq)


def _release(run: HotRun, hook: OpenHook) -> RowOp:
    return RowOp("release_hook", (token_hash(hook.token), run.row.pk, hook.seq))


def _mark(run: HotRun, hook: OpenHook) -> RowOp:
    pk = run.row.pk
    return RowOp("mark_unclaimed", (pk, token_hash(hook.token), pk, hook.seq))


def _ignore(error: BaseException | None) -> None:
    """Do nothing: `perform` tells the outcome."""
