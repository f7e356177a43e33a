"""The streams of an engine: who holds which one, and what readers and writers elsewhere ask.

A stream is in memory only while somebody writes to it, waits at it, or rows of it are not
durable yet; all it knows is read from the journal again at the next need. Attempts write
through an `Outlet`; everybody else asks by `EnginePort.ask`:

    stream_wait   until there is more than `index` rows, or no more will come
    stream_write  chunks of a writer outside of the run, numbered by that writer, so that a
                  repeated question writes nothing twice
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from durable._base.clock import Clock
from durable._engine.hot import HotRun
from durable._engine.live_stream import Author, LiveStream
from durable._engine.outlets import Outlet
from durable._engine.payloads import EnginePayloads
from durable._journal.chunks import (
    CHUNK,
    CLOSED,
    StreamKey,
    count_from_outside,
    count_of_step,
    last_row,
)
from durable._journal.journal import Journal
from durable._journal.records import FINISHED, RunRow
from durable._replay.script import Inbound
from durable.errors import (
    JournalCorruptError,
    JournalError,
    RuntimeClosedError,
    StreamClosedError,
    WorkflowRunNotFoundError,
)

T = TypeVar("T")

# How long to wait before a read is tried again that the disk has failed.
PAUSE_SECONDS = 0.5


class Streams:
    """See the module's docstring.

    Args:
        clock: arms the pauses between attempts to read while the disk fails.
        find: returns a run that is in memory.
        refused: told the run whose row the journal has refused.

    Attributes:
        post: puts what a generator has yielded into its run's inbox; set by the engine.
        cut_short: steps whose attempt is made again under the same number.
    """

    post: Callable[[HotRun, Inbound], None]

    def __init__(
        self,
        journal: Journal,
        payloads: EnginePayloads,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        find: Callable[[str], HotRun | None],
        refused: Callable[[str, BaseException], None],
    ) -> None:
        self.loop = loop
        self.answers: dict[str, Callable[..., Awaitable[Any]]] = {
            "stream_wait": self._wait,
            "stream_write": self._write,
        }
        self.cut_short: set[tuple[int, int]] = set()
        self._clock = clock
        self._closed = False
        self._payloads = payloads
        self._journal = journal
        self._find = find
        self._refused = refused
        self._live: dict[str, dict[str, LiveStream]] = {}

    def encode(self, value: object, root: str) -> bytes:
        """Return the payload of a chunk, which errors call `root`."""
        return self._payloads.encode(value, root)

    # --- holding --------------------------------------------------------------------------

    def hold(self, key: StreamKey) -> LiveStream:
        """Return the stream, which stays in memory until `release`; it may still be loading."""
        streams = self._live.setdefault(key.run_id, {})
        stream = streams.get(key.namespace)
        if stream is None:
            stream = LiveStream(
                key, self._journal.submit, self._journal.seals, self._refused, self._drop
            )
            streams[key.namespace] = stream
        stream.holds += 1
        return stream

    def release(self, stream: LiveStream) -> None:
        """Undo one `hold`."""
        stream.holds -= 1
        if stream.is_idle:
            self._drop(stream)

    def _drop(self, stream: LiveStream) -> None:
        streams = self._live.get(stream.key.run_id, {})
        if streams.get(stream.key.namespace) is stream:
            del streams[stream.key.namespace]
            if not streams:
                del self._live[stream.key.run_id]

    async def load(self, stream: LiveStream) -> None:
        """Return once the stream knows what the journal holds; a failing disk is waited for."""
        if stream.loaded:
            return
        if stream.loading is None or stream.loading.done():
            stream.loading = self.loop.create_task(self._load(stream))
        await asyncio.shield(stream.loading)

    async def _load(self, stream: LiveStream) -> None:
        last = await self._insist(lambda: last_row(self._journal.reader, stream.key))
        if not stream.loaded:
            stream.start(last)

    async def count_of_step(self, key: StreamKey, step: int) -> int:
        """Return how many chunks a step has written to a stream."""
        return await self._insist(lambda: count_of_step(self._journal.reader, key, step))

    async def _insist(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Ask until the disk answers: its failure must not become that of a step."""
        while True:
            try:
                return await ask()
            except JournalCorruptError:
                raise
            except JournalError:
                if self._closed:
                    raise
            again: asyncio.Future[None] = self.loop.create_future()
            self._clock.call_later(self.loop, PAUSE_SECONDS, partial(_go_on, again))
            await again

    def outlet(self, run: HotRun, author: Author) -> Outlet:
        """Return what an attempt writes through."""
        pk = run.row.pk
        is_first = author.attempt == 1 and (pk, author.step) not in self.cut_short
        return Outlet(self, pk, run.run_id, author, is_first=is_first)

    # --- answers --------------------------------------------------------------------------

    async def _wait(self, run_id: str, namespace: str, index: int) -> bool:
        """Wait for the row at `index`; False if it will not come."""
        stream = self.hold(await self._key(run_id, namespace))
        try:
            await self.load(stream)
            if stream.landed > index:
                return True
            if stream.closed_by is not None and stream.next_index <= index:
                return False
            coming = stream.expect(index + 1)  # before looking: an end in between is not missed
            return False if await self._is_over(run_id) else await coming
        finally:
            self.release(stream)

    async def _write(
        self,
        run_id: str,
        namespace: str,
        writer: int,
        number: int,
        payloads: Sequence[bytes],
        close: bool,
    ) -> None:
        """Record chunks, the first of them being the writer's `number`, from 1."""
        stream = self.hold(await self._key(run_id, namespace))
        try:
            await self.load(stream)
            if writer not in stream.writers:
                known = await count_from_outside(self._journal.reader, stream.key, writer)
                stream.writers.setdefault(writer, known)
            over = await self._is_over(run_id)
            # No waiting from here on: the writer's chunks are counted and put in one go.
            first = stream.writers[writer] + 1
            new = list(enumerate(payloads, number))[max(0, first - number) :]
            if new and over:
                raise StreamClosedError(run_id, namespace, "its run has ended")
            for place, payload in new:
                stream.put(CHUNK, Author(writer, place), payload)
            if close and not over and stream.closed_by is None:
                # Not a chunk, so it has the number of the last one.
                stream.put(CLOSED, Author(writer, number + len(payloads) - 1), None)
            await stream.reached(stream.next_index)
        finally:
            self.release(stream)

    async def _key(self, run_id: str, namespace: str) -> StreamKey:
        return StreamKey((await self._row(run_id)).pk, run_id, namespace)

    async def _row(self, run_id: str) -> RunRow:
        run = self._find(run_id)
        row = await self._journal.reader.run_by_id(run_id) if run is None else run.row
        if row is None:
            raise WorkflowRunNotFoundError(run_id)
        return row

    async def _is_over(self, run_id: str) -> bool:
        if self._find(run_id) is not None:
            return False
        return (await self._row(run_id)).status in FINISHED

    # --- ends -----------------------------------------------------------------------------

    def run_ended(self, run_id: str) -> None:
        """Tell the readers of a run that nothing more will come."""
        for stream in self._live.get(run_id, {}).values():
            stream.run_ended()

    def close(self, path: str) -> None:
        """Tell everybody who waits that the runtime is closed."""
        self._closed = True
        error = RuntimeClosedError(f"the runtime of {path} was closed: open it again to go on")
        for streams in list(self._live.values()):
            for stream in list(streams.values()):
                stream.fail(error)
        self._live.clear()


def _go_on(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
