"""The command `durable stream`: what a run emits, line by line.

Owns how items are shown and where the news comes from: reading is done from the file, and
only `--follow` asks the process that owns the journal, never becoming its owner. Nothing
that was recorded is executed, and nothing of it reaches the terminal as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from durable._engine.ports import EnginePort
from durable._engine.remote import RemoteEngine
from durable._journal.control_client import ControlClient, OwnerLostError
from durable._journal.keys import Encryption
from durable._journal.lock import OwnerLock
from durable._journal.sockets import socket_path_of
from durable._surface.bystander import Bystander
from durable._surface.listing import json_value, plain
from durable._surface.run import Run
from durable._surface.streams import StreamChunk

NOBODY = "no process has the journal open, so nothing more will come for now"


class _Listener(Bystander):
    """A bystander that hears from the owner when there is more to read."""

    owner: EnginePort | None = None

    async def port(self) -> EnginePort:
        """Return the way to the owner."""
        return self.owner if self.owner is not None else await super().port()


async def show_stream(
    db: str,
    run_id: str,
    namespace: str | None,
    start: int,
    *,
    follow: bool,
    as_json: bool,
    encryption: Encryption | None = None,
) -> None:
    """Print the items of a stream, one per line.

    Raises:
        JournalError: there is no journal. WorkflowRunNotFoundError: no such run.
        TypeError, ValueError: the namespace or the start is not usable.
    """
    async with _Listener(db, encryption) as access, _owner_of(access, follow=follow) as owner:
        access.owner = owner
        stream = Run(run_id, access).stream(namespace, start, follow=owner is not None)
        alone = owner is None
        try:
            async for chunk in stream.preview():
                print(_line(chunk, as_json=as_json), flush=True)
        except OwnerLostError:
            alone = True
        if follow and alone:
            await _tell_if_unfinished(run_id, access)


@asynccontextmanager
async def _owner_of(access: Bystander, *, follow: bool) -> AsyncIterator[EnginePort | None]:
    client = None
    if follow:
        holder = OwnerLock(access.path).holder() or {}
        client = ControlClient(holder.get("socket") or socket_path_of(access.path))
        try:
            await client.connect()
        except OwnerLostError:
            client = None
    try:
        yield None if client is None else RemoteEngine(client)
    finally:
        if client is not None:
            await client.close()


async def _tell_if_unfinished(run_id: str, access: Bystander) -> None:
    status = await Run(run_id, access).status()
    if status not in {"completed", "failed", "cancelled"}:
        print(f"durable: the run is {status}, and {NOBODY}", file=sys.stderr)


def _line(chunk: StreamChunk, *, as_json: bool) -> str:
    if as_json:
        shown = replace(chunk, value=json_value(chunk.value))
        names = ("index", "value", "step_id", "attempt", "reset")
        return json.dumps({name: getattr(shown, name) for name in names})
    if chunk.reset:
        return f"{chunk.index}  (step {plain(chunk.step_id or '')} begins anew)"
    value = chunk.value if isinstance(chunk.value, str) else repr(chunk.value)
    return f"{chunk.index}  {plain(value)}"
