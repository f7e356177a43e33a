"""Attempts of generator steps: pulling items, recording them, going on after a failure.

A generator that the body iterates pours its items into the run's inbox: each becomes an
event, and the chunk in the run's stream is recorded in the same transaction (`record_items`).
One that is awaited writes chunks only. In both cases it is pulled no further ahead of the
journal than a fixed number of items, and while it is iterated not much further ahead of
the body.

What is recorded is never recorded again: by default the next attempt begins anew and its
first items are dropped, as many as there are on record.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import Any, Protocol

from durable._authoring.step import StepOptions
from durable._authoring.writable import APPEND, REPLACE
from durable._engine.hot import HotRun
from durable._engine.live_stream import Author, LiveStream
from durable._engine.outlets import Channel
from durable._engine.streams import Streams
from durable._journal.chunks import CHUNK, StreamKey
from durable._journal.records import RowOp, Write
from durable._replay.events import STEP_OUTCOMES, STEP_YIELDED, Event
from durable._replay.opened import OpenStep
from durable._replay.ports import SCALARS
from durable._replay.script import UNDECODED, Inbound
from durable.errors import StreamClosedError, WrongContextError

# How far a generator is pulled ahead of the journal, and ahead of the body.
UNSAVED_ITEMS_MAX, WAITING_ITEMS_MAX = 64, 1000


class Pulled(Protocol):
    """An attempt of a generator step."""

    run: HotRun
    step: OpenStep
    settings: StepOptions
    streams: Streams
    forgotten: bool
    yielded: int

    @property
    def number(self) -> int:
        """Number of the attempt, from 1."""

    def channel(self, namespace: str, mode: str) -> Channel:
        """Return the attempt's channel to a stream."""

    def wait_for(self, make: Callable[[], Any]) -> Any:
        """Await `make()` on the loop, from a thread."""


class Sink(Protocol):
    """Where the items of one attempt go."""

    async def open(self) -> None:
        """Find out what is on record; must come first."""

    async def push(self, item: object) -> None:
        """Record an item; returns once there is room for the next one."""

    @property
    def count(self) -> int:
        """Items on record, those of earlier attempts included."""


async def pour(attempt: Pulled, make: Callable[[], AsyncGenerator[Any, None]]) -> int:
    """Pull an asynchronous generator to its end; return how many items are on record."""
    sink = _sink(attempt)
    await sink.open()
    async with aclosing(make()) as items:
        async for item in items:
            await sink.push(item)
    return sink.count


def pour_in_thread(attempt: Pulled, make: Callable[[], Generator[Any, None, Any]]) -> int:
    """Pull a plain generator to its end, in a thread; return how many items are on record."""
    sink = _sink(attempt)
    attempt.wait_for(sink.open)
    with closing(make()) as items:
        for item in items:
            attempt.wait_for(partial(sink.push, item))
    return sink.count


def _sink(attempt: Pulled) -> Sink:
    return _Chunks(attempt) if attempt.step.items is None else _Events(attempt)


class _Counted:
    """Drops what is on record already."""

    def __init__(self, attempt: Pulled) -> None:
        self._attempt = attempt
        self._to_skip = 0
        self._recorded = 0

    @property
    def count(self) -> int:
        return self._recorded

    def _begin(self, recorded: int) -> None:
        self._recorded = self._attempt.yielded = recorded
        self._to_skip = recorded if self._attempt.settings.on_retry == "skip" else 0

    def _require_wanted(self) -> None:
        if self._attempt.forgotten:
            raise WrongContextError("this attempt is over: its items are not wanted any more")

    def _is_new(self) -> bool:
        self._require_wanted()
        if self._to_skip:
            self._to_skip -= 1
            return False
        self._recorded += 1
        return True


class _Chunks(_Counted):
    """Items of a generator that is awaited: chunks of the stream and nothing else."""

    async def open(self) -> None:
        attempt, settings = self._attempt, self._attempt.settings
        replaces = settings.on_retry == "replace"
        self._channel = attempt.channel(settings.stream, REPLACE if replaces else APPEND)
        written = await self._channel.written_before()
        self._begin(0 if replaces else written)

    async def push(self, item: object) -> None:
        if self._is_new():
            await self._channel.write(item, "item")


class _Events(_Counted):
    """Items of a generator that the body iterates: events, and chunks with them."""

    def __init__(self, attempt: Pulled) -> None:
        super().__init__(attempt)
        self._unsaved: deque[asyncio.Future[None]] = deque()

    async def open(self) -> None:
        attempt = self._attempt
        run, seq = attempt.run, attempt.step.seq
        key = StreamKey(run.row.pk, run.run_id, attempt.settings.stream)
        if seq in run.feeds:
            run.feeds.pop(seq).let_go()
        stream = attempt.streams.hold(key)
        feed = Feed(attempt.streams, stream, Author(seq, attempt.number))
        run.feeds[seq] = self._feed = feed
        await attempt.streams.load(stream)
        queue = attempt.step.items
        assert queue is not None
        self._queue = queue
        self._begin(queue.count)

    async def push(self, item: object) -> None:
        if not self._is_new():
            return
        attempt = self._attempt
        stream = self._feed.stream
        if not stream.is_open_to(self._feed.author):
            raise StreamClosedError(stream.key.run_id, stream.key.namespace)
        payload = attempt.streams.encode(item, "item")
        value = item if type(item) in SCALARS else UNDECODED
        self._unsaved.append(self._next_write())
        attempt.streams.post(
            attempt.run, Inbound(STEP_YIELDED, attempt.step.seq, payload=payload, value=value)
        )
        await self._room()

    async def _room(self) -> None:
        while len(self._unsaved) > UNSAVED_ITEMS_MAX:
            await self._unsaved.popleft()
        while self._queue.waiting > WAITING_ITEMS_MAX:
            self._require_wanted()  # else there may be no next write, and a thread waits for it
            await self._next_write()

    def _next_write(self) -> asyncio.Future[None]:
        """Return a future that is done when what the run does next is durable."""
        written: asyncio.Future[None] = self._attempt.streams.loop.create_future()
        self._attempt.run.acks.append(written)
        return written


class Feed:
    """The stream that the items of one attempt go to, while they come as events."""

    def __init__(self, streams: Streams, stream: LiveStream, author: Author) -> None:
        self.stream = stream
        self.author = author
        self._streams = streams

    def let_go(self) -> None:
        """Note that nothing more comes."""
        self._streams.release(self.stream)


def record_items(run: HotRun, events: Sequence[Event], write: Write) -> None:
    """Add to a write the chunks of the items among its events."""
    ops: list[RowOp] = []
    told = [write.done]
    for event in events:
        feed = run.feeds.get(event.ref)
        if feed is None:
            continue
        if event.kind == STEP_YIELDED and feed.stream.is_open_to(feed.author):
            assert event.payload is not None
            op, landed = feed.stream.stage(CHUNK, feed.author, event.payload)
            ops.append(op)
            told.append(landed)
        elif event.kind in STEP_OUTCOMES:
            run.feeds.pop(event.ref).let_go()
    if ops:
        write.ops = [*write.ops, *ops]
        write.done = partial(_tell_all, told)


def _tell_all(told: Sequence[Callable[[BaseException | None], None]], error: Any) -> None:
    for done in told:
        done(error)
