"""What the owner's control server serves in these tests."""

from __future__ import annotations

import asyncio

from durable.errors import WorkflowRunNotFoundError

Answer = dict[str, object]


class Owner:
    """A handler with a few methods, that remembers what happened to its calls."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.cancelled = asyncio.Event()
        self.waiting = asyncio.Semaphore(0)  # acquire it once for each call that must wait
        self.go_on = asyncio.Event()

    async def handle(self, method: str, fields: Answer) -> Answer:
        self.called.append(method)
        return await getattr(self, method)(**fields)

    async def echo(self, **fields: object) -> Answer:
        return fields

    async def wait(self) -> Answer:
        self.waiting.release()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {"waited": True}

    async def missing(self, run_id: str) -> Answer:
        raise WorkflowRunNotFoundError(run_id)

    async def broken(self) -> Answer:
        raise ZeroDivisionError("oh")

    async def gives_up(self) -> Answer:
        raise asyncio.CancelledError

    async def odd_answer(self) -> Answer:
        return {"object": object()}

    async def large(self, size: int) -> Answer:
        return {"data": b"x" * size}
