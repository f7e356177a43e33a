"""Deletes finished runs once their retention is over, in small batches.

It knows the next expiry only and sets one alarm for it, so it costs nothing in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from durable._base.clock import Clock
from durable._engine.timers import Alarm, Timers
from durable._journal.journal import Journal
from durable.errors import DurableError

logger = logging.getLogger("durable")

BATCH_RUNS = 200
# Expiries are collected, so that a busy journal is not swept run by run.
PAUSE_US = 60 * 1_000_000


class Sweeper:
    """See the module's docstring. `begins` is called before runs are deleted."""

    def __init__(
        self, journal: Journal, timers: Timers, clock: Clock, begins: Callable[[], None]
    ) -> None:
        self._begins = begins
        self._journal = journal
        self._timers = timers
        self._clock = clock
        self._next: tuple[int, Alarm] | None = None
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._closed = False

    def expect(self, expires_at: int | None) -> None:
        """Note when a finished run may be deleted."""
        if expires_at is None or self._closed:
            return
        due = max(expires_at, self._clock.wall_us()) + PAUSE_US
        if self._next is None or due < self._next[0]:
            if self._next is not None:
                self._next[1].cancel()
            self._next = (due, self._timers.at(due, self.start, absolute=True))

    def start(self) -> None:
        """Delete what has expired and what is left of deleted runs, then wait for the next."""
        self._next = None
        self._again = True
        self._begins()
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        try:
            while self._again:  # asked for meanwhile: there is more in the trash
                self._again = False
                while await self._journal.delete_expired(self._clock.wall_us(), BATCH_RUNS):
                    await asyncio.sleep(0)
            self.expect(await self._journal.next_expiry())
        except DurableError:
            if not self._closed:
                logger.exception("expired runs could not be deleted; trying again in a minute")
                self.expect(self._clock.wall_us())

    async def close(self) -> None:
        """Stop sweeping."""
        self._closed = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
