"""`get_writable`: how steps and bodies emit values while they are still going on.

Owns the handles that people write through and the checks on what they are given. In a step
a handle writes in the name of the running attempt; in a body each write is recorded as a
step of its own, so that replay does not write again. It knows no journal: what a handle
writes to is a `Channel`, and the engine makes those.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from durable._authoring.context import Attempt, current_attempt, current_body
from durable._authoring.namespaces import check_namespace
from durable._authoring.step import Step, StepOptions
from durable._replay.body import Body
from durable.errors import DurableError, WrongContextError

T = TypeVar("T")

APPEND, REPLACE, ONCE = "append", "replace", "once"
OnRetry = Literal["append", "replace"]


class Channel(Protocol):
    """A stream as one writer sees it."""

    async def write(self, chunk: object) -> None:
        """Write a chunk; raises `SerializationError`."""

    async def drain(self) -> None:
        """Return once everything written so far is durable."""

    async def close(self) -> None:
        """End the stream; returns once that is durable."""


class Writable:
    """Writes to one stream of a run; made by `get_writable` and `Run.get_writable`.

    Chunks keep the order of the calls. In a step `write` returns when the chunk is on its
    way to the journal, together with up to 255 others or 1 MB, and waits beyond that;
    everything written is durable before the step counts as completed. In a body and outside
    of runs `write` returns when the chunk is durable.

    Attributes:
        namespace: name of the stream, "" for the default one.

    Example:
        ``async with get_writable("progress") as out: await out.write({"done": 3})``
    """

    def __init__(self, channel: Channel, namespace: str) -> None:
        self.namespace = namespace
        self._channel = channel

    async def write(self, chunk: object) -> None:
        """Write one chunk, any value that can be recorded.

        Raises:
            SerializationError: it cannot be recorded; the message names the part. Nothing
                was written. PayloadTooLargeError: it is too large.
            StreamClosedError: the stream was closed, or its run has ended.
            WrongContextError: the attempt of the step that this handle belongs to is over.
        """
        await self._channel.write(chunk)

    async def write_from(self, source: AsyncIterable[object] | Iterable[object]) -> int:
        """Write everything that `source` yields, as it comes; return how many chunks.

        Example:
            ``await get_writable().write_from(client.stream_completion(prompt))``
        """
        count = 0
        if isinstance(source, AsyncIterable):
            async for chunk in source:
                await self.write(chunk)
                count += 1
            return count
        if isinstance(source, (str, bytes)) or not isinstance(source, Iterable):
            raise TypeError(f"write_from needs an iterable of chunks, got {source!r}: use write()")
        for chunk in source:
            await self.write(chunk)
            count += 1
        return count

    async def drain(self) -> None:
        """Return once everything written so far is durable and readers can have it."""
        await self._channel.drain()

    async def close(self) -> None:
        """End the stream for good: its readers stop behind the last chunk.

        Without it they stop when the run ends. Only the step that has closed a stream may
        write to it again, when it is tried again.
        """
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.drain()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.namespace!r}>"


Call = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


class SyncWritable:
    """A `Writable` for code without an event loop; each method blocks until it is done.

    Attributes:
        namespace: name of the stream, "" for the default one.

    Example:
        ``get_sync_writable().write("halfway")``
    """

    def __init__(self, writable: Writable, call: Call) -> None:
        self.namespace = writable.namespace
        self._writable = writable
        self._call = call

    def write(self, chunk: object) -> None:
        """Write one chunk. See `Writable.write`."""
        self._call(lambda: self._writable.write(chunk))

    def write_from(self, source: Iterable[object]) -> int:
        """Write everything that `source` yields; return how many chunks."""
        if isinstance(source, (str, bytes)) or not isinstance(source, Iterable):
            raise TypeError(f"write_from needs an iterable of chunks, got {source!r}: use write()")
        count = 0
        for chunk in source:
            self.write(chunk)
            count += 1
        return count

    def drain(self) -> None:
        """Return once everything written so far is durable."""
        self._call(self._writable.drain)

    def close(self) -> None:
        """End the stream for good. See `Writable.close`."""
        self._call(self._writable.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.drain()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.namespace!r}>"


def get_writable(namespace: str | None = None, *, on_retry: OnRetry = "append") -> Writable:
    """Return a handle that writes to a stream of the running run.

    Args:
        namespace: name of the stream, 1 to 64 characters; None or "" for the default one.
        on_retry: what becomes of the chunks of a failed attempt when the step is tried
            again: ``"append"`` keeps them, ``"replace"`` withdraws them as soon as the next
            attempt asks for its handle. Readers then skip them; one that has had them
            already is told (see `Stream`).

    Raises:
        WrongContextError: called outside of steps and bodies (use `Run.get_writable`), or
            from a step that runs in a thread (use `get_sync_writable`).
        ValueError, TypeError: an argument is not usable.

    In a step it writes in the name of the running attempt. In a body each write is recorded
    as a step of its own, and happens once, however often the body is replayed.

    Example:
        >>> @step
        ... async def count(upto: int) -> None:
        ...     out = get_writable("progress")
        ...     for number in range(upto):
        ...         await out.write(number)
    """
    name = check_namespace(namespace)
    if on_retry not in (APPEND, REPLACE):
        raise ValueError(f"on_retry={on_retry!r} is unknown: use 'append' or 'replace'")
    body = current_body()
    if body is not None:
        return Writable(_BodyChannel(body, name), name)
    attempt = _attempt()
    if _get_running_loop() is None:
        raise WrongContextError(
            "get_writable() is for async code; in a step that is a plain def, use "
            "get_sync_writable()"
        )
    return Writable(attempt.channel(name, on_retry), name)


def get_sync_writable(
    namespace: str | None = None, *, on_retry: OnRetry = "append"
) -> SyncWritable:
    """Return a blocking handle that writes to a stream, for steps that are a plain ``def``.

    Args and errors are those of `get_writable`; raises `WrongContextError` where an event
    loop is running, and in a step with ``executor="process"``.

    Example:
        >>> @step
        ... def convert(pages: list[bytes]) -> None:
        ...     out = get_sync_writable("progress")
        ...     for number, page in enumerate(pages):
        ...         out.write({"page": number, "size": len(page)})
    """
    name = check_namespace(namespace)
    if current_body() is not None or _get_running_loop() is not None:
        raise WrongContextError(
            "get_sync_writable() would block the event loop: use `await get_writable().write(...)`"
        )
    attempt = _attempt()

    async def make() -> Writable:
        return get_writable(name, on_retry=on_retry)

    return SyncWritable(attempt.wait_for(make), attempt.wait_for)


def _attempt() -> Attempt:
    attempt = current_attempt.get()
    if attempt is None:
        raise WrongContextError(
            "get_writable() works in a step or a body; elsewhere use get_run(id).get_writable()"
        )
    return attempt


# --- inside bodies: each write is a step, which writes once however often it is tried --------


class _BodyChannel:
    """Implements `Channel` for a workflow body."""

    def __init__(self, body: Body, namespace: str) -> None:
        self._body = body
        self._namespace = namespace

    async def write(self, chunk: object) -> None:
        self._require_body()
        await _write_in_body(self._namespace, self._body._payloads.encode(chunk, "chunk"))

    async def drain(self) -> None:
        self._require_body()

    async def close(self) -> None:
        self._require_body()
        await _close_in_body(self._namespace)

    def _require_body(self) -> None:
        if current_body() is not self._body:
            raise WrongContextError(
                "this handle was made by get_writable() in a workflow body and writes only there: "
                "call get_writable() where you write"
            )


async def _write_in_step(namespace: str, payload: bytes) -> None:
    await _attempt().channel(namespace, ONCE).send(payload)


async def _close_in_step(namespace: str) -> None:
    await _attempt().channel(namespace, ONCE).close()


_OPTIONS = StepOptions(no_retry_on=DurableError)
_write_in_body: Step[[str, bytes], None] = Step(_write_in_step, "durable.stream.write", _OPTIONS)
_close_in_body: Step[[str], None] = Step(_close_in_step, "durable.stream.close", _OPTIONS)
