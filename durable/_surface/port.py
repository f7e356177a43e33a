"""The port that handles of runs send their commands to, whichever engine is current.

Owns the repetition of a call whose engine was lost with its process: by then another
process owns the journal, or this one does. Every call may be repeated: creation goes by
run ids, and the other commands say the same twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from durable._engine.ports import Created, EnginePort, RunEnd, RunSpec
from durable._journal.control_client import OwnerLostError


class Changing(Protocol):
    """A runtime, as far as its engine may change."""

    async def engine(self) -> EnginePort:
        """Return the engine that is current, waiting for one if there is none."""

    def lost(self, engine: EnginePort) -> None:
        """Note that a call to `engine` found its process gone."""


class CurrentPort:
    """Sends each command to the engine that is current, again if its process is lost."""

    def __init__(self, runtime: Changing) -> None:
        self._runtime = runtime

    async def create(self, specs: Sequence[RunSpec]) -> list[Created]:
        """See `EnginePort`."""
        engine = await self._runtime.engine()
        try:
            return await engine.create(specs)
        except OwnerLostError:
            self._runtime.lost(engine)
        # The lost owner may have recorded them, so from now on these ids are asked for.
        named = [replace(s, options=replace(s.options, run_id=s.run_id)) for s in specs]
        return cast("list[Created]", await self._ask("create", named))

    async def wait_end(self, run_id: str, parked: bool = True) -> RunEnd:
        """See `EnginePort`."""
        return cast(RunEnd, await self._ask("wait_end", run_id, parked))

    async def cancel(self, run_id: str, reason: str | None) -> None:
        """See `EnginePort`."""
        await self._ask("cancel", run_id, reason)

    async def wake_up(self, run_id: str, waits: Sequence[int] | None) -> int:
        """See `EnginePort`."""
        return cast(int, await self._ask("wake_up", run_id, waits))

    async def resume(self, run_id: str) -> None:
        """See `EnginePort`."""
        await self._ask("resume", run_id)

    async def ask(self, what: str, **fields: Any) -> Any:
        """See `EnginePort`."""
        return await self._ask("ask", what, **fields)

    async def _ask(self, method: str, *args: object, **fields: object) -> object:
        while True:
            engine = await self._runtime.engine()
            try:
                return await getattr(engine, method)(*args, **fields)
            except OwnerLostError:
                self._runtime.lost(engine)


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`; a cancellation is passed on only once it is over."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: who was cancelled does not ask for it
        raise
