"""Sets runs back: a failed run goes on from its failed step, or as another run from anywhere.

Owns what a retry and a fork write, which also serves where no process executes the
journal, and the order in which an engine does it: first on record, then into memory.
What a run that was set back has for its history is `_replay.rewound`'s, what a fork
begins with `_replay.forking`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from durable._base.clock import Clock
from durable._base.ids import token_hash
from durable._engine.commands import Commands
from durable._engine.ends import RecentEnds
from durable._engine.loader import Loader
from durable._engine.payloads import EnginePayloads
from durable._journal.attributes import (
    Origin,
    decode_attributes,
    decode_blocked,
    decode_origin,
    encode_attributes,
    encode_origin,
)
from durable._journal.journal import Journal
from durable._journal.records import (
    BLOCKED,
    CANCELLED,
    COMPLETED,
    CONTINUED,
    FAILED,
    PENDING,
    RUNNING,
    RowOp,
    RunEvent,
    RunRow,
    RunState,
    Write,
)
from durable._journal.row_ops import claim_hook, set_attributes, set_deadline
from durable._journal.sealing import require_open
from durable._replay.attributes import after_changes, first_attributes
from durable._replay.events import RESUMED, Event, EventKind
from durable._replay.forking import fork
from durable._replay.hooks import hook_facts
from durable._replay.rewound import (
    View,
    cut_of,
    effective,
    is_resumption,
    mark,
    open_hooks,
    resumption,
)
from durable.errors import (
    DurableError,
    InternalError,
    RunExistsError,
    RunStateError,
    WorkflowRunNotFoundError,
)

# What tells that a run holds the token of its hook.
_HOLDING = frozenset({EventKind.HOOK_RECEIVED, EventKind.HOOK_CONFLICT})

_CURES = {
    BLOCKED: "`await run.resume()` lets a blocked run try again",
    CANCELLED: "it was ended on purpose; `run.rerun()` starts it anew, `run.fork()` goes on "
    "from any of its events",
    COMPLETED: "there is nothing to try again; `run.rerun()` starts it anew, `run.fork()` goes "
    "on from any of its events",
    CONTINUED: "another run goes on in its place, see `run.continued_as()`",
}


class Rewinds:
    """See the module's docstring. `one_at_a_time` is shared by all that bring runs back."""

    def __init__(
        self,
        journal: Journal,
        loader: Loader,
        commands: Commands,
        payloads: EnginePayloads,
        clock: Clock,
        one_at_a_time: asyncio.Lock,
        recent: RecentEnds,
    ) -> None:
        self._recent = recent
        self._journal = journal
        self._loader = loader
        self._commands = commands
        self._payloads = payloads
        self._clock = clock
        self._one_at_a_time = one_at_a_time

    async def retry(self, run_id: str, request: str) -> None:
        """Let a failed run go on from its failed step; returns when that is durable.

        Args:
            run_id: the run.
            request: names this very request: made again under its name it does nothing.

        Raises:
            RunStateError: the run has not failed. WorkflowRunNotFoundError: there is none.
        """
        async with self._one_at_a_time:
            await self._journal.perform(Write(done=_ignore, vital=True))  # after what is under way
            row = await self._commands.row(run_id)
            history = await self._journal.reader.history(row.pk, run_id)
            write = retry_write(row, history, request, self._clock.wall_us())
            if write is None:
                return
            view = effective([*history, write.events[0].event])
            write.ops = [*write.ops, *await claims_of(self._journal, self._payloads, row, view)]
            write.vital = True
            self._recent.clear()  # what it had come to is about to be taken back
            try:
                await self._journal.perform(write)
            except InternalError:
                if await self._journal.reader.run_by_pk(row.pk) is None:  # expired just now
                    raise WorkflowRunNotFoundError(run_id) from None
                raise
            await self._load(row)

    async def fork(
        self, run_id: str, new_id: str, at: int | str | None, results: list[list[Any]]
    ) -> None:
        """Make a run that shares another one's history; returns when that is durable.

        Args:
            run_id: of the run that is forked.
            new_id: of the new one; made again under it, the request finds its own run.
            at, results: see `_replay.forking.fork`; results are encoded.

        Raises:
            ForkError: there is no such place, or step. RunExistsError: `new_id` is taken.
            RunStateError: a hook that it would need is held by a run that goes on.
        """
        await self._journal.perform(Write(done=_ignore, vital=True))  # after what is under way
        row = await self._commands.row(run_id)
        asked = Fork(row, new_id, at, [(key, payload) for key, payload in results])
        made = await fork_run(self._journal, self._payloads, asked, self._clock.wall_us())
        if made is not None:
            await self._load(made)

    async def _load(self, row: RunRow) -> None:
        # What was asked for is recorded, and a load that fails sees to the next one itself.
        with suppress(DurableError):
            await self._loader.fetch(row, resumed=True, fresh=True)


class Fork(NamedTuple):
    """What is asked for; see `Rewinds.fork`. `row` is that of the run that is forked."""

    row: RunRow
    new_id: str
    at: int | str | None
    results: list[tuple[int | str, bytes]]


async def fork_run(
    journal: Journal, payloads: EnginePayloads, asked: Fork, now_us: int
) -> RunRow | None:
    """Record a fork; return its row, None when the same has been recorded before."""
    source, new_id = asked.row, asked.new_id
    found = decode_origin(source.origin)
    seed = source.run_id if found is None or found.seed is None else found.seed
    origin = encode_origin(Origin("forked", source.run_id, seed))
    history = await journal.reader.history(source.pk, source.run_id)
    _require(source, history)
    shared = _seen(source, history) if asked.at is None else history
    events = fork(source.run_id, shared, asked.at, asked.results, now_us)
    row = _forked(source, history, events, now_us)._replace(
        pk=journal.next_pk(), run_id=new_id, origin=origin
    )
    ops = await claims_of(journal, payloads, row, effective(events))
    write = Write(
        done=_ignore, runs=[row], events=[RunEvent(row.pk, new_id, each) for each in events],
        ops=ops,
    )  # fmt: skip
    await journal.perform(write)
    existing = write.existing.get(new_id)
    if existing is None:
        return row
    if existing.origin != origin:
        raise RunExistsError(new_id)
    return None


def _forked(
    source: RunRow, history: Sequence[Event], events: Sequence[Event], now_us: int
) -> RunRow:
    view, allowed = effective(events), time_allowed(source, history)
    first = first_attributes(decode_attributes(source.attributes), history)
    return source._replace(
        status=RUNNING if view.started else PENDING,
        created_at=now_us,
        started_at=now_us if view.started else None,
        completed_at=None,
        wake_at=now_us,
        deadline=None if allowed is None else now_us + allowed,
        expires_at=None,
        parent_id=None,
        root_id=None,
        attributes=encode_attributes(sorted(after_changes(first, view.events).items())),
        blocked=None,
        first_id=None,
        bound_to=None,
    )


def _seen(source: RunRow, history: Sequence[Event]) -> Sequence[Event]:
    """Return a history in which what came in while the run was parked has not been seen."""
    seen = None if source.status != BLOCKED else decode_blocked(source.blocked).seq
    last = history[-1]
    cut = resumption(last.seq, seen)
    return history if cut is None else [*history, mark(last.seq + 1, cut, RESUMED, last.at)]


async def claims_of(
    journal: Journal, payloads: EnginePayloads, row: RunRow, view: View
) -> list[RowOp]:
    """Return what gives a run the hook tokens that its history says it holds.

    Raises:
        RunStateError: another run has got one of them since.
        PayloadDecodeError: it cannot be told which tokens.
    """
    ops: list[RowOp] = []
    held = {e.ref for e in view.events if e.kind in _HOLDING}
    for hook in open_hooks(view.events):
        token = hook.name or str(hook_facts(payloads, hook)["token"])
        holder = await journal.reader.hook(token_hash(token))
        if holder is not None and holder.pk != row.pk and hook.seq in held:
            raise RunStateError(
                row.run_id, row.status,
                f"the hook {token!r} that it needs is held by run {holder.run_id}: end that run, "
                "or have it dispose its hook, and repeat this",
            )  # fmt: skip
        # One that it was not sure of yet may turn out to be another run's: it is told so.
        ops.append(claim_hook(token_hash(token), row.pk, hook.seq))
    return ops


def retry_write(row: RunRow, history: Sequence[Event], request: str, now_us: int) -> Write | None:
    """Return what lets a failed run go on, None when `request` has done so before.

    Raises:
        RunStateError: the run has not failed. PayloadDecodeError: its history is sealed, and
            the key is not at hand. WorkflowRunNotFoundError: it was deleted meanwhile.
    """
    _require(row, history)
    payload = request.encode()
    if any(e.kind == EventKind.RUN_REWOUND and e.payload == payload for e in history):
        return None
    if row.status != FAILED:
        cure = _CURES.get(row.status, "it has not failed, so it goes on by itself")
        raise RunStateError(row.run_id, row.status, f"only a failed run can be retried; {cure}")
    cut, why = cut_of(history)
    at = max(now_us, history[-1].at)
    event = mark(history[-1].seq + 1, cut, why, at, payload)
    view = effective([*history, event])
    started = view.started
    state = RunState(
        RUNNING if started else PENDING,
        row.started_at if started else None,
        None, at, None, None, row.pk,
    )  # fmt: skip
    first = first_attributes(decode_attributes(row.attributes), history)
    kept = encode_attributes(sorted(after_changes(first, view.events).items()))
    ops = [] if kept == row.attributes else [set_attributes(row.pk, kept)]
    if (allowed := time_allowed(row, history)) is not None:
        ops.append(set_deadline(row.pk, at + allowed))
    events = [RunEvent(row.pk, row.run_id, event)]
    return Write(done=_ignore, events=events, states=[state], ops=ops)


def _require(row: RunRow, history: Sequence[Event]) -> None:
    """Raise unless a history is there, and can be read."""
    if not history:
        raise WorkflowRunNotFoundError(row.run_id)  # deleted after its row was read
    require_open(history)


def time_allowed(row: RunRow, history: Sequence[Event]) -> int | None:
    """Return the `timeout` that a run was started with, in microseconds, None for none.

    It counts anew from each time that the run was set back.
    """
    if row.deadline is None:
        return None
    begun = [row.created_at if history[0].due is None else history[0].due]
    begun += [e.at for e in history if e.kind == EventKind.RUN_REWOUND and not is_resumption(e)]
    return row.deadline - begun[-1]


def _ignore(error: BaseException | None) -> None:
    """Do nothing: `perform` tells the outcome."""
