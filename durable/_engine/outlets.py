"""What an attempt of a step writes to streams through.

An `Outlet` belongs to one attempt and ends with it: what its step has written by then is
submitted to the journal before the attempt's outcome is, so a step is never complete
without its chunks, and nothing can be written in the name of an attempt that is over.

A `Channel` is one stream of it. It opens by reading where the stream stands, and with
``on_retry="replace"`` by withdrawing what earlier attempts have written; those who write
meanwhile go on in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from durable._authoring.writable import APPEND, ONCE, REPLACE
from durable._engine.live_stream import Author, LiveStream
from durable._journal.chunks import CHUNK, CLOSED, RESET, StreamKey
from durable.errors import WrongContextError


class Sources(Protocol):
    """Where streams come from."""

    loop: asyncio.AbstractEventLoop

    def encode(self, value: object, root: str) -> bytes:
        """Return the payload of a chunk, which errors call `root`."""

    def hold(self, key: StreamKey) -> LiveStream:
        """Return a stream, held."""

    def release(self, stream: LiveStream) -> None:
        """Undo one `hold`."""

    async def load(self, stream: LiveStream) -> None:
        """Return once the stream is loaded."""

    async def count_of_step(self, key: StreamKey, step: int) -> int:
        """Return how many chunks a step has written."""


class Outlet:
    """See the module's docstring. `is_first`: its step cannot have written anything before."""

    def __init__(
        self, streams: Sources, pk: int, run_id: str, author: Author, *, is_first: bool
    ) -> None:
        self.streams = streams
        self.is_first = is_first
        self.author = author
        self.ended = False
        self._pk = pk
        self._run_id = run_id
        self._channels: dict[str, Channel] = {}
        self._then: Callable[[BaseException | None], None] | None = None

    def channel(self, namespace: str, mode: str) -> Channel:
        """Return the attempt's channel to a stream, the same one each time.

        Raises:
            WrongContextError: the attempt is over. ValueError: another mode than before.
        """
        self.require_open()
        found = self._channels.get(namespace)
        if found is None:
            key = StreamKey(self._pk, self._run_id, namespace)
            found = self._channels[namespace] = Channel(self, self.streams.hold(key), mode)
        elif found.mode != mode:
            raise ValueError(
                f"this attempt writes to stream {namespace!r} with on_retry={found.mode!r} "
                f"already: ask for on_retry={mode!r} each time, or for another namespace"
            )
        return found

    def require_open(self) -> None:
        """Raise `WrongContextError` when the attempt is over."""
        if self.ended:
            raise WrongContextError(
                f"attempt {self.author.attempt} of step {self._run_id}:{self.author.step} is over "
                "and cannot write any more: write, and wait for it, before the step returns"
            )

    def when_open(self, then: Callable[[BaseException | None], None]) -> bool:
        """Return False if no channel is being opened; else call `then` once none is."""
        if all(channel.is_open for channel in self._channels.values()):
            return False
        self._then = then
        return True

    def opened(self, error: BaseException | None) -> None:
        """Note that a channel is open, or cannot be opened."""
        if self._then is not None and (error or not self.when_open(self._then)):
            then, self._then = self._then, None
            then(error)

    def end(self) -> None:
        """Note that the attempt is over: nothing more is written in its name."""
        self.ended = True
        for channel in self._channels.values():
            channel.let_go()


class Channel:
    """See the module's docstring; implements `durable._authoring.writable.Channel`."""

    def __init__(self, outlet: Outlet, stream: LiveStream, mode: str) -> None:
        self.mode = mode
        self.is_open = False
        self._outlet = outlet
        self._author = outlet.author
        self._stream = stream
        self._fault: BaseException | None = None
        self._done_before = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._opening = outlet.streams.loop.create_task(self._open())

    async def write(self, chunk: object, root: str = "chunk") -> None:
        """Write a chunk, which errors call `root`."""
        await self.send(self._outlet.streams.encode(chunk, root))

    async def send(self, payload: bytes) -> None:
        """Write an encoded chunk; returns once few enough are not durable yet."""
        await self._ready()
        if not self._done_before:
            self._stream.put(CHUNK, self._author, payload)
            await self._stream.room()

    async def drain(self) -> None:
        """Return once everything written so far is durable."""
        await self._ready()
        await self._stream.reached(self._stream.next_index)

    async def close(self) -> None:
        """Write the end of the stream."""
        await self._ready()
        closed = self._stream.closed_by
        if closed is None or closed.step != self._author.step:
            self._stream.put(CLOSED, self._author, None)
        await self._stream.reached(self._stream.next_index)

    async def written_before(self) -> int:
        """Return how many chunks earlier attempts of the step have written."""
        await self._ready()
        return 0 if self._outlet.is_first else await self._written()

    async def _written(self) -> int:
        await self._stream.reached(self._stream.next_index)
        return await self._outlet.streams.count_of_step(self._stream.key, self._author.step)

    def let_go(self) -> None:
        """Note that the attempt is over."""
        self._outlet.streams.release(self._stream)

    # --- opening --------------------------------------------------------------------------

    async def _ready(self) -> None:
        if not self.is_open:
            turn: asyncio.Future[None] = self._outlet.streams.loop.create_future()
            self._waiting.append(turn)
            await turn
        if self._fault is not None:
            raise self._fault
        self._outlet.require_open()

    async def _open(self) -> None:
        try:
            await self._begin()
        except Exception as error:
            self._fault = error
        self._let_in()

    async def _begin(self) -> None:
        streams, stream, author = self._outlet.streams, self._stream, self._author
        await streams.load(stream)
        if self.mode == APPEND or self._outlet.is_first:
            return
        if await self._written() and not self._outlet.ended:
            self._done_before = self.mode == ONCE
            if self.mode == REPLACE:
                stream.put(RESET, author, None)

    def _let_in(self) -> None:
        """Let those in who wait, in their order; then nobody has to wait any more."""
        if not self._waiting:
            self.is_open = True
            self._outlet.opened(self._fault)
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        # They run before this does; who comes in between waits for the next round.
        self._outlet.streams.loop.call_soon(self._let_in)
