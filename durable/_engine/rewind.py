"""Sets runs back: a failed run goes on from its failed step, in place.

Owns what a retry writes (`retry_write`, a pure judgement that also serves where no process
executes the journal) and the order in which an engine does it: first on record, then back
into memory. What a run that was set back has for its history is `_replay.rewound`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from durable._base.clock import Clock
from durable._base.ids import token_hash
from durable._engine.commands import Commands
from durable._engine.ends import RecentEnds
from durable._engine.loader import Loader
from durable._engine.payloads import EnginePayloads
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
from durable._replay.events import Event, EventKind
from durable._replay.hooks import hook_facts
from durable._replay.rewound import View, cut_of, effective, is_resumption, mark, open_hooks
from durable.errors import InternalError, RunStateError, WorkflowRunNotFoundError

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
            self._recent.clear()  # what it had come to is about to be taken back
            try:
                await self._journal.perform(write)
            except InternalError:
                if await self._journal.reader.run_by_pk(row.pk) is None:  # expired just now
                    raise WorkflowRunNotFoundError(run_id) from None
                raise
            fresh = await self._journal.reader.run_by_pk(row.pk)
            if fresh is not None:
                await self._loader.fetch(fresh, resumed=True, fresh=True)


async def claims_of(
    journal: Journal, payloads: EnginePayloads, row: RunRow, view: View
) -> list[RowOp]:
    """Return what gives a run its hook tokens back, which were freed at its end.

    Raises:
        RunStateError: another run has got one of them since.
        PayloadDecodeError: it cannot be told which tokens.
    """
    ops: list[RowOp] = []
    for hook in open_hooks(view.events):
        token = hook.name or str(hook_facts(payloads, hook)["token"])
        holder = await journal.reader.hook(token_hash(token))
        if holder is not None and holder.pk != row.pk:
            raise RunStateError(
                row.run_id, row.status,
                f"its hook {token!r} is held by run {holder.run_id} by now: end that run, or let "
                "it dispose its hook, and repeat this",
            )  # fmt: skip
        ops.append(RowOp("claim_hook", (token_hash(token), row.pk, hook.seq)))
    return ops


def retry_write(row: RunRow, history: Sequence[Event], request: str, now_us: int) -> Write | None:
    """Return what lets a failed run go on, None when `request` has done so before.

    Raises:
        RunStateError: the run has not failed.
    """
    payload = request.encode()
    if any(e.kind == EventKind.RUN_REWOUND and e.payload == payload for e in history):
        return None
    if row.status != FAILED:
        cure = _CURES.get(row.status, "it has not failed, so it goes on by itself")
        raise RunStateError(row.run_id, row.status, f"only a failed run can be retried; {cure}")
    cut, why = cut_of(history)
    at = max(now_us, history[-1].at)
    event = mark(history[-1].seq + 1, cut, why, at, payload)
    started = effective([*history, event]).started
    state = RunState(
        RUNNING if started else PENDING,
        row.started_at if started else None,
        None, at, None, None, row.pk,
    )  # fmt: skip
    allowed = time_allowed(row, history)
    ops = [] if allowed is None else [RowOp("set_deadline", (at + allowed, row.pk))]
    return Write(
        done=_ignore, events=[RunEvent(row.pk, row.run_id, event)], states=[state], ops=ops,
        vital=True,
    )  # fmt: skip


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
