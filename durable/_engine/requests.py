"""Does what was asked of runs while no process executed them.

Such a request stands in the journal beside the histories: what a body does about it must be
recorded together with the event, and only a process with its code can do that. The next
owner hands each one to the ordinary command, and deletes it when that is durable.

Invariant: a request is done once. A crash in between repeats it, so a cancellation counts
only if it is the first, and only the sleeps that were pending when it was asked are ended.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from durable._journal.journal import Journal
from durable._journal.records import BLOCKED, Request, RowOp, RunRow, Write
from durable.errors import DurableError, RuntimeClosedError

CANCEL, WAKE = "cancel", "wake"

logger = logging.getLogger("durable")


class Requests:
    """See the module's docstring. `cancel` and `wake` perform the ordinary commands."""

    def __init__(
        self, journal: Journal, cancel: Callable[..., Awaitable[Any]], wake: Callable[..., Any]
    ) -> None:
        self._journal = journal
        self._cancel = cancel
        self._wake = wake

    async def perform(self, requests: Sequence[Request]) -> None:
        """Do what is asked; what fails stays for the next opening."""
        for request in requests:
            try:
                await self._perform(request)
            except RuntimeClosedError:
                return
            except DurableError as error:
                logger.warning(
                    "what was asked of a run while the journal was closed (%s) waits for the next "
                    "opening: %s", request.kind, error,
                )  # fmt: skip

    async def _perform(self, request: Request) -> None:
        row = await self._journal.reader.run_by_pk(request.run)
        if row is not None and not await self._done(row, request):
            return
        drop = RowOp("drop_request", (request.run, request.kind))
        await self._journal.perform(Write(done=_ignore, ops=[drop], vital=True))

    async def _done(self, row: RunRow, request: Request) -> bool:
        """Do it; False if the run cannot be asked now, because it is parked."""
        if request.kind == CANCEL:
            reason = None if request.payload is None else request.payload.decode()
            await self._cancel(row.run_id, reason, first=True)
            return True
        if row.status == BLOCKED:
            return False
        await self._wake(row.run_id, None, request.seq)
        fresh = await self._journal.reader.run_by_pk(row.pk)
        return fresh is None or fresh.status != BLOCKED


def _ignore(error: BaseException | None) -> None:
    """Do nothing: `perform` tells the outcome."""
