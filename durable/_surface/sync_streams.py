"""Streams of runs for code that blocks: iterators over what a `SyncRuntime`'s loop reads.

Owns the way of one item from the loop to the calling thread; what a stream is, and where it
ends, is in `streams`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from durable._surface.streams import Stream, StreamChunk
from durable._surface.sync_host import Host

T = TypeVar("T")


class SyncStream(Iterator[Any]):
    """Reads one stream of a run, as a blocking iterator of values. See `Stream`.

    Example:
        ``for token in run.stream(): print(token, end="")``
    """

    def __init__(self, stream: Stream, host: Host) -> None:
        self._stream = stream
        self._host = host
        self._values = Blocking(stream, host)

    @property
    def position(self) -> int | None:
        """Index of the next item; see `Stream`."""
        return self._stream.position

    def __next__(self) -> Any:
        """Return the next value; Ctrl-C ends the waiting, and asking again goes on."""
        return next(self._values)

    def chunks(self) -> Iterator[StreamChunk]:
        """Iterate `StreamChunk` objects instead of values, from the same position."""
        return Blocking(self._stream.chunks(), self._host)


class Blocking(Iterator[T]):
    """An asynchronous iterator of the host's loop, as a blocking one."""

    def __init__(self, items: AsyncIterator[T], host: Host) -> None:
        self._items = items
        self._host = host

    def __next__(self) -> T:
        try:
            return self._host.call(self._next)
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> T:
        return await anext(self._items)
