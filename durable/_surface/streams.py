"""Reading the streams of runs, wherever they run.

Owns the position of one reader. Rows are read from the journal's file page by page, by
this process, so a slow reader costs no memory and an interrupted one goes on exactly where
it was; only the news that there is more comes from the process that owns the journal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from durable._journal.chunks import (
    CLOSED,
    RESET,
    Chunk,
    Found,
    StreamKey,
    last_row,
    read_page,
)
from durable._journal.records import FINISHED
from durable._surface.current import Access
from durable.errors import StreamResetError, WorkflowRunNotFoundError

_INDEX_MAX = 1 << 53

Way = Callable[[], Awaitable[Access]]


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """One item of a stream.

    Attributes:
        index: its place in the stream, from 0; never changes.
        value: what was written; None when `reset` is set.
        step_id: id of the step that wrote it, None for a writer outside of the run.
        attempt: number of that step's attempt, 0 for a writer outside of the run.
        reset: the step begins anew: forget what it wrote to this stream before.

    Example:
        ``async for chunk in run.stream().chunks(): print(chunk.index, chunk.value)``
    """

    index: int
    value: Any
    step_id: str | None = None
    attempt: int = 0
    reset: bool = False


class Stream(AsyncIterator[Any]):
    """Reads one stream of a run, as an async iterator of values; made by `Run.stream`.

    It waits for what is still to come and ends when the stream is closed or its run has
    ended. An object has one position: iterating it again goes on where it stopped.

    Chunks that a step has withdrawn (see `on_retry` of `get_writable`) are left out. When
    this reader has had some of them already, iteration raises `StreamResetError`;
    `chunks()` yields an item with ``reset=True`` instead.

    Attributes:
        position: index of the next item; give it as `start_index` to go on in another
            `Stream`, in this process or another one. None before a negative
            `start_index` has met the stream.

    Example:
        ``async for token in run.stream(): print(token, end="")``
    """

    def __init__(
        self, run_id: str, way: Way, namespace: str, start_index: int, *, follow: bool
    ) -> None:
        self.position: int | None = start_index if start_index >= 0 else None
        self._run_id = run_id
        self._way = way
        self._namespace = namespace
        self._from_tail = -start_index
        self._follow = follow
        # Items before this index were had by the one who goes on here; the others that
        # matter are in `_had`: the steps of which this reader has had a chunk.
        self._had_before = max(0, start_index)
        self._had: set[int] = set()
        self._known: set[int] = set()
        self._key: StreamKey | None = None
        self._page: deque[Found] = deque()
        self._next_page = 0
        self._caught_up = False
        self._no_more = False
        self._busy = False
        self._access: Access | None = None
        self._load = _loaded

    async def __anext__(self) -> Any:
        """Return the next value."""
        chunk = await self._next()
        if chunk.reset:
            raise StreamResetError(self._run_id, self._namespace, chunk.index)
        return chunk.value

    def chunks(self) -> StreamChunks:
        """Iterate `StreamChunk` objects instead of values, from the same position.

        Example:
            ``async for chunk in run.stream(start_index=saved).chunks(): saved = chunk.index + 1``
        """
        return StreamChunks(self)

    def preview(self) -> StreamChunks:
        """Iterate items whose values are shown, not loaded: no code of theirs is executed.

        Plain data comes as it is, everything else as an inert stand-in.
        """
        self._load = _previewed
        return StreamChunks(self)

    async def _next(self) -> StreamChunk:
        if self._busy:
            raise RuntimeError(f"{self!r} is being read by another task: make one for each reader")
        self._busy = True
        try:
            return await self._advance()
        finally:
            self._busy = False

    async def _advance(self) -> StreamChunk:
        while True:
            while self._page:
                found = self._page.popleft()
                self.position = found.chunk.place + 1
                if self._concerns(found):
                    return self._shown(found.chunk)
            if self._no_more and self._caught_up:
                raise StopAsyncIteration
            await self._turn_page()

    async def _turn_page(self) -> None:
        access = await self._way()
        if self._key is None:
            self._key = await self._find(access)
        if self._caught_up:
            self._caught_up = False
            await self._wait(access)
        page = await read_page(access.reader, self._key, self._next_page)
        self._access = access
        self._page.extend(page.found)
        self._next_page = page.next_index
        self._caught_up = page.is_last
        if not page.found:
            self.position = page.next_index
        self._no_more = self._no_more or page.is_closed or not self._follow

    async def _wait(self, access: Access) -> None:
        try:
            port = await access.port()
            more = await port.ask(
                "stream_wait", run_id=self._run_id, namespace=self._namespace, index=self._next_page
            )
        except BaseException:
            self._caught_up = True  # who is cancelled here may go on later
            raise
        self._no_more = not more

    async def _find(self, access: Access) -> StreamKey:
        row = await access.reader.run_by_id(self._run_id)
        if row is None:
            raise WorkflowRunNotFoundError(self._run_id)
        # Of a run that has ended all is there, and nobody needs to be asked.
        self._follow = self._follow and row.status not in FINISHED
        key = StreamKey(row.pk, self._run_id, self._namespace)
        if self.position is None:
            tail = await tail_of(access, key)
            self.position = max(0, tail + 1 - self._from_tail)
        self._next_page = self.position
        return key

    def _concerns(self, found: Found) -> bool:
        """Note what this reader has had; tell whether it needs to see the item."""
        step = found.chunk.step
        if found.chunk.kind != RESET:
            self._had.add(step)
            return True
        had = step in self._had or (step not in self._known and 0 <= found.first < self._had_before)
        self._had.discard(step)
        self._known.add(step)
        return had

    def _shown(self, chunk: Chunk) -> StreamChunk:
        assert self._access is not None
        is_reset = chunk.kind == RESET
        value = None if is_reset else self._load(self._access, chunk.payload or b"")
        if chunk.step < 0:
            return StreamChunk(chunk.place, value)
        step_id = f"{self._run_id}:{chunk.step}"
        return StreamChunk(chunk.place, value, step_id, chunk.attempt, is_reset)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._namespace!r} of {self._run_id} at {self.position}>"


class StreamChunks(AsyncIterator[StreamChunk]):
    """The items of a `Stream` with their index, writer and attempt; made by `Stream.chunks`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def __anext__(self) -> StreamChunk:
        """Return the next item."""
        return await self._stream._next()


class StreamBytes(AsyncIterator[bytes]):
    """The chunks of a `Stream` as bytes; made by `Run.stream_bytes`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def __anext__(self) -> bytes:
        """Return the next chunk: bytes as they are, text as UTF-8."""
        value = await anext(self._stream)
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, (bytes, bytearray)):
            return bytes(value)
        index = (self._stream.position or 0) - 1
        raise TypeError(
            f"chunk {index} of {self._stream!r} is a {type(value).__name__}, not bytes or text: "
            "read it with run.stream()"
        )


def _loaded(access: Access, payload: bytes) -> object:
    return access.payloads.decode(payload)


def _previewed(access: Access, payload: bytes) -> object:
    return access.payloads.preview(payload)


def check_start(start_index: object) -> int:
    """Return the index at which to begin.

    Raises:
        TypeError: it is no whole number. ValueError: it is absurdly large.
    """
    if not isinstance(start_index, int) or isinstance(start_index, bool):
        raise TypeError(
            f"start_index={start_index!r} must be a whole number: from 0, or negative to count "
            "from the end"
        )
    if abs(start_index) > _INDEX_MAX:
        raise ValueError(f"start_index={start_index} is beyond any stream: at most {_INDEX_MAX}")
    return start_index


async def tail_of(access: Access, key: StreamKey) -> int:
    """Return the index of the stream's last item, -1 when it has none."""
    last = await last_row(access.reader, key)
    if last is None:
        return -1
    return last.place - 1 if last.kind == CLOSED else last.place
