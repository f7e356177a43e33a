"""Brings back what is due: at opening, and whenever a run outside memory falls due.

One background task at a time reads pages of runs: first those whose attempts were in
flight when the last process ended, then those due by now. Sleeping runs stay rows; one
alarm is set for the earliest of them. A page that leads no further than the one before
comes from a damaged index, and is the last one: otherwise nobody would ever come to an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from durable._authoring import registry
from durable._base.clock import Clock
from durable._engine.loader import Loader
from durable._engine.scheduler import Scheduler
from durable._engine.timers import Alarm, Timers
from durable._journal.attributes import decode_blocked
from durable._journal.journal import Journal
from durable._journal.records import RunRow
from durable.errors import DurableError

logger = logging.getLogger("durable")

PAGE_RUNS = 256


def is_there(journal: Journal, name: str) -> bool:
    """Tell whether what a blocked run waits for, a workflow, a step or ``key ID``, is here."""
    has_key = journal.seals is not None and journal.seals.has_key(name.removeprefix("key "))
    return has_key or registry.is_registered(name)


class Recovery:
    """See the module's docstring.

    Args:
        room: tells whether another due run may be brought into memory.

    Attributes:
        missing: run ids of parked runs by the name of the code they wait for.
    """

    def __init__(
        self,
        journal: Journal,
        scheduler: Scheduler,
        loader: Loader,
        timers: Timers,
        clock: Clock,
        room: Callable[[], bool],
    ) -> None:
        self._journal = journal
        self._scheduler = scheduler
        self._loader = loader
        self._timers = timers
        self._clock = clock
        self._room = room
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._backlog = False
        self._alarm: tuple[int, Alarm] | None = None
        self._interrupted_after: int | None = 0
        self._closed = False
        self.missing: dict[str, set[str]] = {}

    # --- asking for work ------------------------------------------------------------------

    def start(self) -> None:
        """Begin to bring back what is due."""
        if self._closed:
            return
        if self._task is not None and not self._task.done():
            self._again = True
            return
        self._task = asyncio.get_running_loop().create_task(self._bring_back())

    def has_room(self) -> bool:
        """Tell whether a new run may be taken into memory at once."""
        return self._room()

    def leave_behind(self, wake_at: int | None) -> None:
        """Note that a run is a row only, due at `wake_at`."""
        if wake_at is None or self._closed:
            return
        if wake_at <= self._clock.wall_us():
            self._backlog = True
            self.made_room()
        elif self._alarm is None or wake_at < self._alarm[0]:
            if self._alarm is not None:
                self._alarm[1].cancel()
            self._alarm = (wake_at, self._timers.at(wake_at, self._due, absolute=True))

    def made_room(self) -> None:
        """Note that a run has left memory; the backlog may move up."""
        if self._backlog and self.has_room():
            self._backlog = False
            self.start()

    def _due(self) -> None:
        self._alarm = None
        self.start()

    # --- the background task ---------------------------------------------------------------

    async def _bring_back(self) -> None:
        try:
            while True:
                self._again = False
                await self._interrupted()
                await self._due_by_now()
                if not self._again:
                    return
                await asyncio.sleep(0)  # due runs that push each other out: let them be woken
        except DurableError:
            if not self._closed:
                logger.exception("due runs could not be read; trying again in a second")
                self._timers.at(self._clock.wall_us() + 1_000_000, self.start)

    async def find_missing(self) -> list[str]:
        """Note which runs wait for which code or key; return those that wait no longer."""
        known: list[str] = []
        after = 0
        while page := await self._journal.reader.blocked_runs(after):
            after, before = max(row.pk for row in page), after
            if after <= before:
                break
            for row in page:
                name = decode_blocked(row.blocked).missing
                if name is not None and is_there(self._journal, name):
                    known.append(row.run_id)
                elif name is not None:
                    self.missing.setdefault(name, set()).add(row.run_id)
        return known

    async def _interrupted(self) -> None:
        while self._interrupted_after is not None and not self._is_full():
            before = self._interrupted_after
            page = await self._journal.reader.interrupted_runs(before, PAGE_RUNS)
            for row in page:
                await self._bring(row)
                self._interrupted_after = max(self._interrupted_after, row.pk)
                if self._is_full():
                    return
            if len(page) < PAGE_RUNS or self._interrupted_after == before:
                self._interrupted_after = None

    async def _due_by_now(self) -> None:
        after = (0, 0)
        while not self._is_full():
            now = self._clock.wall_us()
            page = await self._journal.reader.due_runs(after, now, PAGE_RUNS)
            for row in page:
                if self._is_full():
                    return
                await self._bring(row)
            places = [(row.wake_at, row.pk) for row in page if row.wake_at is not None]
            after, before = max(places, default=after), after
            if len(page) < PAGE_RUNS or after <= before:
                self.leave_behind(await self._journal.reader.next_wake(now))
                return

    async def _bring(self, row: RunRow) -> None:
        run = self._scheduler.get(row.run_id)
        if run is not None and not run.loading:
            return
        # The page may be older than what this process has done since.
        await self._loader.fetch(row, due=row.wake_at)

    def _is_full(self) -> bool:
        if self.has_room():
            return False
        self._backlog = True
        return True

    async def close(self) -> None:
        """Stop bringing runs back."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
