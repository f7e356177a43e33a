"""Writing to a run's stream from outside of the run.

Owns one writer's chunks on their way to the process that owns the journal. The writer has
a number of its own and counts its chunks, so that a question which is repeated because
the owner has died records nothing twice and nothing out of order. After an error, when it
is not known what was recorded, it goes on as another writer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable

from durable._surface.current import Access

PORTION_CHUNKS_MAX, PORTION_BYTES_MAX = 256, 1024 * 1024

_Sent = tuple[bytes, asyncio.Future[None]]


class OutsideChannel:
    """Implements `durable._authoring.writable.Channel`. `way` finds the runtime."""

    def __init__(self, run_id: str, way: Callable[[], Awaitable[Access]], namespace: str) -> None:
        self._run_id = run_id
        self._way = way
        self._namespace = namespace
        self._begin()
        self._pending: deque[_Sent] = deque()
        self._sending: asyncio.Task[None] | None = None

    def _begin(self) -> None:
        self._writer = -1 - secrets.randbits(62)
        self._number = 1  # of the next chunk to be recorded

    async def write(self, chunk: object) -> None:
        """Write a chunk; returns when it is durable."""
        access = await self._way()
        payload = access.payloads.encode(chunk, "chunk")
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((payload, durable))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())
        await durable

    async def drain(self) -> None:
        """Return once everything written so far is durable."""
        if self._sending is not None:
            await asyncio.wait([self._sending])

    async def close(self) -> None:
        """End the stream; returns once that is durable."""
        await self.drain()
        await self._ask([], close=True)

    async def _send(self) -> None:
        while self._pending:
            portion = self._portion()
            try:
                await self._ask([payload for payload, _ in portion], close=False)
            except BaseException as error:
                self._begin()
                left, self._pending = [*portion, *self._pending], deque()
                self._tell(left, error)
                return
            self._number += len(portion)
            self._tell(portion, None)

    def _portion(self) -> list[_Sent]:
        portion: list[_Sent] = []
        size = 0
        while self._pending and len(portion) < PORTION_CHUNKS_MAX and size < PORTION_BYTES_MAX:
            portion.append(self._pending.popleft())
            size += len(portion[-1][0])
        return portion

    async def _ask(self, payloads: list[bytes], *, close: bool) -> None:
        port = await (await self._way()).port()
        await port.ask(
            "stream_write", run_id=self._run_id, namespace=self._namespace,
            writer=self._writer, number=self._number, payloads=payloads, close=close,
        )  # fmt: skip

    def _tell(self, portion: list[_Sent], error: BaseException | None) -> None:
        for _, durable in portion:
            if durable.done():
                continue
            if error is None:
                durable.set_result(None)
            elif isinstance(error, asyncio.CancelledError):
                durable.cancel()
            else:
                durable.set_exception(error)
