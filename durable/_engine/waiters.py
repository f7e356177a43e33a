"""Who waits for runs to come to rest, and what they are told.

A run is at rest when it has ended, or is blocked for those who want to know of that. One
that is paused is not: nothing is wrong with it. Waiters are resolved by the COMMIT of the
run's end; for a run that is not in memory the journal is asked first.

And `shielded`, for who waits for what must not be left half done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from durable._engine.commands import Commands
from durable._engine.ends import RecentEnds
from durable._engine.ports import RunEnd
from durable._engine.recovery import is_there
from durable._engine.scheduler import Scheduler
from durable._journal.attributes import PAUSED, decode_blocked
from durable._journal.journal import Journal
from durable._journal.records import BLOCKED, FINISHED
from durable.errors import WorkflowRunNotFoundError

T = TypeVar("T")


class _Waiter(NamedTuple):
    """Somebody who waits for a run to come to rest; `parked` tells if a blocked one counts."""

    end: asyncio.Future[RunEnd]
    parked: bool


class Waiters:
    """See the module's docstring. `resume` has a run go on whose code or key has come meanwhile."""

    def __init__(
        self,
        journal: Journal,
        scheduler: Scheduler,
        commands: Commands,
        recent: RecentEnds,
        resume: Callable[[str], Awaitable[None]],
    ) -> None:
        self._journal = journal
        self._scheduler = scheduler
        self._commands = commands
        self._recent = recent
        self._resume = resume
        self._waiters: dict[str, list[_Waiter]] = {}

    async def wait_end(self, run_id: str, parked: bool) -> RunEnd:
        """Return how the run came to rest, once it has."""
        waiter = _Waiter(asyncio.get_running_loop().create_future(), parked)
        waiters = self._waiters.setdefault(run_id, [])
        waiters.append(waiter)  # before reading: an end in between is not missed
        try:
            if self._scheduler.get(run_id) is None:
                end = await self.at_rest(run_id, parked)
                if end is not None:
                    return end
            return await waiter.end
        finally:
            waiters.remove(waiter)
            if not waiters and self._waiters.get(run_id) is waiters:
                del self._waiters[run_id]

    async def at_rest(self, run_id: str, parked: bool = False) -> RunEnd | None:
        """Return how the run came to rest if it has, None if it is still to be waited for."""
        if self._scheduler.get(run_id) is not None:
            return None
        if (recent := self._recent.get(run_id)) is not None:
            return recent
        row = await self._commands.row(run_id)
        if row.status in FINISHED:
            event = await self._journal.reader.end_event(row.pk, run_id)
            if event is None:  # deleted since
                raise WorkflowRunNotFoundError(run_id)
            return RunEnd(row, event.payload)
        if row.status != BLOCKED:
            return None
        blocked = decode_blocked(row.blocked)
        if blocked.missing is not None and is_there(self._journal, blocked.missing):
            await self._resume(run_id)  # it is about to go on by itself
            return None
        return RunEnd(row, None) if parked and blocked.kind != PAUSED else None

    def tell(self, run_id: str, end: RunEnd) -> None:
        """Tell those who wait."""
        for waiter in self._waiters.get(run_id, ()):
            if not waiter.end.done() and (waiter.parked or end.row.status != BLOCKED):
                waiter.end.set_result(end)

    def fail(self, error: Exception) -> None:
        """Tell all of them that nobody will tell them."""
        for waiters in list(self._waiters.values()):
            for waiter in waiters:
                if not waiter.end.done() and not waiter.end.get_loop().is_closed():
                    waiter.end.set_exception(error)


async def shielded(task: asyncio.Task[T]) -> T:
    """Return what a task comes to; it is carried through though who waits here may leave."""
    # An error that nobody waits for any more was for them alone, and none of asyncio's to report.
    task.add_done_callback(_look_at)
    return await asyncio.shield(task)


def _look_at(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()
