"""Whether a payload was recorded before, when it is sent once more.

Who sends a payload may not hear that it is recorded: a client, because the owner's process
was lost; the step of a body, because its own process was. Both send it again under the same
key. By then its hook may be gone, or be that of the run which goes on in the place of the
one that got it, so the hook alone cannot tell. Histories can.

Which one is known where a client has named the run that had the hook. A step has not: there
all histories are looked through, once for all who ask at that time, as after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from durable._engine.commands import Commands
from durable._engine.payloads import EnginePayloads
from durable._engine.waiters import shielded
from durable._journal.journal import Journal
from durable._journal.records import RunRow
from durable._replay.events import Event
from durable._replay.hooks import HOOK_CREATED, HOOK_RECEIVED, hook_facts, kept_box, mail_name
from durable.errors import PayloadDecodeError, WorkflowRunNotFoundError

Found = list[tuple[str, str]]  # run ids, with the names of events


class Receipts:
    """See the module's docstring. `spawn` begins work of the engine in the background."""

    def __init__(
        self,
        journal: Journal,
        commands: Commands,
        payloads: EnginePayloads,
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self._journal = journal
        self._commands = commands
        self._payloads = payloads
        self._spawn = spawn
        self._asked: dict[str, None] = {}  # names that the next look is for
        self._next: asyncio.Task[Found] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def along(self, run_id: str, token: str, key: str) -> str | None:
        """Return which run has got the payload: this one, or one that goes on in its place."""
        wanted: str | None = run_id
        with suppress(WorkflowRunNotFoundError):
            while wanted is not None:
                row = await self._commands.row(wanted)
                if await self._has_got(row, token, key):
                    return wanted
                wanted = await self._commands.successor_of(row)
        return None

    async def anywhere(self, token: str, key: str) -> str | None:
        """Return which run has got the payload for a hook with this token, if any has."""
        names = _names(token, key)
        for run_id in [run_id for run_id, name in await self._look(names) if name in names]:
            with suppress(WorkflowRunNotFoundError):
                if await self._has_got(await self._commands.row(run_id), token, key):
                    return run_id
        return None

    async def _look(self, names: Sequence[str]) -> Found:
        """Return what was received under these names, and others that were asked for with them."""
        self._asked.update(dict.fromkeys(names))
        if self._next is None:
            self._next = self._spawn(self._look_through())
        return await shielded(self._next)

    async def _look_through(self) -> Found:
        async with self._one_at_a_time:  # who asks until then is answered by this look, too
            names, self._asked, self._next = list(self._asked), {}, None
            return await self._journal.reader.received_under(names)

    async def _has_got(self, row: RunRow, token: str, key: str) -> bool:
        history = await self._journal.reader.history(row.pk, row.run_id)
        its = {e.seq for e in history if e.kind == HOOK_CREATED and self._token_of(e) == token}
        own, late = _names(token, key)
        return any(
            (e.ref in its and e.name == own) or (not e.ref and e.name == late)
            for e in history
            if e.kind == HOOK_RECEIVED
        )

    def _token_of(self, created: Event) -> object:
        if created.name:
            return created.name
        with suppress(PayloadDecodeError):
            return hook_facts(self._payloads, created).get("token")
        return None


def _names(token: str, key: str) -> tuple[str, str]:
    """Return the names of the event that records it: with the hook there, or yet to come."""
    return mail_name("", key), mail_name(kept_box(token), key)
