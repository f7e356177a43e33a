"""A stream that somebody writes to or waits at: where its next row goes, what is durable.

Owns the order of one stream's rows: an index is given at the moment at which a row is
submitted to the journal, so the order of calls is the order of the stream. Rows that are
not durable yet are bounded: who has written one too many waits.

`landed` counts the durable rows; whatever waits here waits for that number to grow.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from durable._journal.chunks import CHUNK, CLOSED, Chunk, StreamKey, chunk_op
from durable._journal.records import RowOp, Write
from durable._journal.seals import Seals
from durable.errors import StreamClosedError

UNSAVED_ROWS_MAX, UNSAVED_BYTES_MAX = 256, 1024 * 1024

Submit = Callable[[Write], None]
Refused = Callable[[str, BaseException], None]


class Author(NamedTuple):
    """Who writes: a step and its attempt; or a writer outside, by a negative number."""

    step: int
    attempt: int


class LiveStream:
    """See the module's docstring.

    Args:
        submit: takes a write to the journal.
        seals: of the journal, if its rows are sealed.
        refused: told the run and the error when the journal refuses a row.
        idle: called when nobody needs this object any more.

    Attributes:
        loaded: the three below are known.
        next_index: where the next row goes.
        landed: how many rows are durable.
        closed_by: who wrote the closing row, if that is the last row.
        holds: how many need this object.
        writers: chunks recorded so far by each writer outside of the run.
    """

    def __init__(
        self,
        key: StreamKey,
        submit: Submit,
        seals: Seals | None,
        refused: Refused,
        idle: Callable[[LiveStream], None],
    ) -> None:
        self.key = key
        self.loaded = False
        self.loading: asyncio.Task[None] | None = None
        self.next_index = 0
        self.landed = 0
        self.closed_by: Author | None = None
        self.holds = 0
        self.writers: dict[int, int] = {}
        self._submit = submit
        self._seals = seals
        self._refused = refused
        self._idle = idle
        self._unsaved_bytes = 0
        self._fault: BaseException | None = None
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[bool]]] = []
        self._prune_at = 64

    def start(self, last: Chunk | None) -> None:
        """Take in what the journal holds."""
        self.next_index = self.landed = 0 if last is None else last.place + 1
        if last is not None and last.kind == CLOSED:
            self.closed_by = Author(last.step, last.attempt)
        self.loaded = True

    @property
    def is_idle(self) -> bool:
        """Tell whether nobody needs this object: all it knows is in the journal."""
        return not self.holds and (self.landed == self.next_index or self._fault is not None)

    # --- writing ------------------------------------------------------------------------

    def put(self, kind: int, author: Author, payload: bytes | None) -> None:
        """Submit a row.

        Raises:
            StreamClosedError: the stream is closed. RuntimeClosedError: so is the journal.
        """
        op = self._op(kind, author, payload)
        size = len(payload or b"")
        self._submit(Write(done=partial(self._done, size), vital=True, ops=[op]))
        self._staged(kind, author, size)

    def stage(
        self, kind: int, author: Author, payload: bytes
    ) -> tuple[RowOp, Callable[[BaseException | None], None]]:
        """Return a row for a write that is about to be submitted, and what to tell then."""
        op = self._op(kind, author, payload)
        self._staged(kind, author, len(payload))
        return op, partial(self._done, len(payload))

    def _op(self, kind: int, author: Author, payload: bytes | None) -> RowOp:
        assert self.loaded
        if self._fault is not None:
            raise self._fault
        if not self.is_open_to(author):
            raise StreamClosedError(self.key.run_id, self.key.namespace)
        chunk = Chunk(self.next_index, kind, *author, payload)
        return chunk_op(self.key, chunk, self._seals)

    def is_open_to(self, author: Author) -> bool:
        """Tell whether `author` may write: a step's next attempt may, if the step closed it."""
        closed = self.closed_by
        if closed is None:
            return True
        return 0 < closed.step == author.step and author.attempt > closed.attempt

    def _staged(self, kind: int, author: Author, size: int) -> None:
        self.next_index += 1
        self._unsaved_bytes += size
        self.closed_by = author if kind == CLOSED else None
        if kind == CHUNK and author.step < 0:
            self.writers[author.step] = author.attempt

    def _done(self, size: int, error: BaseException | None) -> None:
        if error is not None:
            self._fault = error
            self.fail(error)
            self._refused(self.key.run_id, error)
            return
        self.landed += 1
        self._unsaved_bytes -= size
        while self._waiting and self._waiting[0][0] <= self.landed:
            _settle(heapq.heappop(self._waiting)[2], reached=True)
        if self.is_idle:
            self._idle(self)

    # --- waiting ------------------------------------------------------------------------

    async def room(self) -> None:
        """Wait until few enough rows are not durable yet."""
        await self.reached(self.next_index - UNSAVED_ROWS_MAX)
        while self._unsaved_bytes > UNSAVED_BYTES_MAX:
            await self.reached(self.landed + 1)

    async def reached(self, count: int) -> bool:
        """Wait until `count` rows are durable; False if the run has ended before."""
        return True if self.landed >= count else await self.expect(count)

    def expect(self, count: int) -> asyncio.Future[bool]:
        """Return a future of `reached`; raises what the journal refused a row with."""
        if self._fault is not None:
            raise self._fault
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (count, next(self._order), future))
        if len(self._waiting) > self._prune_at:
            self._forget_gone()
            self._prune_at = 2 * len(self._waiting) + 64
        return future

    def _forget_gone(self) -> None:
        """Drop those who have given up waiting, such as readers that were cancelled."""
        self._waiting = [entry for entry in self._waiting if not entry[2].done()]
        heapq.heapify(self._waiting)

    def run_ended(self) -> None:
        """Tell those who wait for more than will ever come."""
        for _, _, future in (entry for entry in self._waiting if entry[0] > self.next_index):
            _settle(future, reached=False)
        self._forget_gone()

    def fail(self, error: BaseException) -> None:
        """Tell everybody who waits."""
        for _, _, future in self._waiting:
            if not future.done() and not future.get_loop().is_closed():
                future.set_exception(error)
        self._waiting.clear()


def _settle(future: asyncio.Future[bool], *, reached: bool) -> None:
    if not future.done() and not future.get_loop().is_closed():
        future.set_result(reached)
