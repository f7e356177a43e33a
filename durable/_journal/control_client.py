"""The client's end of the control socket, and the way to become owner or client.

Owns one connection to the process that owns the journal, the calls in progress on it,
and the notice of the owner's end: the kernel closes the connection at that instant, so
nobody polls for it. `own_or_connect` is the whole protocol of opening a journal
that may have an owner.

Invariants: every call ends: with the answer, with the owner's error, or with
`OwnerLostError` when the connection ends; a cancelled call cancels its handler at
the owner. Whether a lost call was performed is not known here: callers repeat
what is idempotent, at the next owner or by becoming it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from durable._journal import sockets
from durable._journal.control import PROTOCOL
from durable._journal.frames import (
    FRAME_BYTES_MAX,
    FrameError,
    Sender,
    decode_error,
    encode_frame,
    read_frame,
)
from durable._journal.lock import OwnerInfo, OwnerLock
from durable.errors import DurableError, InternalError, JournalError, RuntimeClosedError

_log = logging.getLogger("durable")

PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.001, 0.25


class OwnerLostError(JournalError):
    """The owner's connection ended; a call in progress may or may not have been performed.

    Internal: it never reaches users, because a client repeats the call elsewhere.
    """


class ControlClient:
    """A connection to the owner of a journal, for any number of calls at a time.

    Args:
        socket_path: where the owner listens, from the lock file.
        frame_bytes_max: refuse larger messages in either direction. Default 64 MiB.

    Attributes:
        lost: resolved with the reason when the owner is gone; not by our own `close`.
            Await it through `asyncio.shield`, else cancelling one waiter ends it for all.

    Example:
        >>> client = ControlClient(path)
        >>> await client.connect()
        >>> answer = await client.call("command", run_id="r1", name="cancel")
    """

    lost: asyncio.Future[str]

    def __init__(self, socket_path: str, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.socket_path = socket_path
        self._frame_bytes_max = frame_bytes_max
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, object]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[str] | None = None
        # Makes the error of all calls after the end: each has one of its own, because a
        # raised error collects the frames of the one who raises it.
        self._ended: Callable[[], DurableError] | None = None

    async def connect(self) -> None:
        """Connect in the running loop. Does not wait for the owner to serve.

        Raises:
            OwnerLostError: nobody listens there (yet, or any more).
        """
        if self._reading is not None:
            raise InternalError("a control client can be connected once")
        try:
            self._peer: socket.socket = sockets.connect(self.socket_path)
        except OSError as error:
            raise OwnerLostError(
                f"no owner listens at {self.socket_path}: {error.strerror}"
            ) from error
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._peer)
        except BaseException:
            sockets.close(self._peer)
            raise
        self.lost = asyncio.get_running_loop().create_future()
        self._sender = Sender(self._writer)
        self._reading = asyncio.create_task(self._read(reader), name="durable control client")
        self._reading.add_done_callback(self._end)

    async def call(self, method: str, /, **fields: object) -> dict[str, object]:
        """Have the owner perform a method, and return the fields of its answer.

        Waits as long as the owner takes. Cancelling the call cancels the handler there.

        Raises:
            OwnerLostError: the connection ended before the answer.
            PayloadTooLargeError: the request is over the limit; it was not sent.
            DurableError: what the handler raised.
        """
        if self._ended is not None:
            raise self._ended()
        if self._reading is None:
            raise InternalError("a control client must be connected before a call")
        number = next(self._numbers)
        request = {"id": number, "protocol": PROTOCOL, "method": method, "fields": fields}
        parts = encode_frame(request, limit=self._frame_bytes_max)
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            with suppress(OSError):  # `_read` notices too, and ends the call with the reason
                await self._sender.send(parts)
            return await self._outcome(answer)
        except asyncio.CancelledError:
            # Without waiting, for the caller is being cancelled; the frame is tiny.
            self._sender.send_now(encode_frame({"cancel": number}))
            raise
        finally:
            del self._answers[number]
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # seen: asyncio would report one that nobody asked for

    async def close(self) -> None:
        """Leave. Calls in progress end with `RuntimeClosedError`; `lost` stays as it is."""
        if self._reading is None or self._reading.done():
            return
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await asyncio.sleep(0)  # the aborted transport closes in the next turn of the loop

    async def _outcome(self, answer: asyncio.Future[dict[str, object]]) -> dict[str, object]:
        frame = await answer
        match frame:
            case {"ok": dict(fields)}:
                return fields
            case {"error": error}:
                raise decode_error(error)
        raise InternalError(f"the owner sent an answer of the names {sorted(frame)}")

    async def _read(self, reader: asyncio.StreamReader) -> str:
        try:
            while (frame := await read_frame(reader, limit=self._frame_bytes_max)) is not None:
                self._receive(frame)
        except (FrameError, OSError) as error:
            assert self._writer is not None
            await sockets.note_break(self._writer)
            return f"the connection to the owner of the journal broke: {error}"
        return "the owner of the journal has ended"

    def _receive(self, frame: dict[str, object]) -> None:
        match frame:
            case {"id": int(number)}:
                answer = self._answers.get(number)
                if answer is not None and not answer.done():  # else its call was cancelled
                    answer.set_result(frame)
            case {"refused": error}:
                self._ended = partial(decode_error, error)
            case _:
                raise FrameError(f"a frame of the names {sorted(frame)}")

    def _end(self, reading: asyncio.Task[str]) -> None:
        assert self._writer is not None
        sockets.abort(self._peer, self._writer)
        ended = self._lose(reading)
        self._ended = ended
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ended())

    def _lose(self, reading: asyncio.Task[str]) -> Callable[[], DurableError]:
        if reading.cancelled():
            return partial(RuntimeClosedError, "the connection to the owner was closed here")
        failure = reading.exception()
        if failure is not None:
            _log.error("the control connection failed", exc_info=failure)
        reason = str(failure) if failure is not None else reading.result()
        ended = self._ended or partial(OwnerLostError, reason)
        if not self.lost.done():
            self.lost.set_result(str(ended()))
        return ended


async def own_or_connect(
    lock: OwnerLock, info: OwnerInfo, *, patience_seconds: float = PATIENCE_SECONDS
) -> ControlClient | None:
    """Become the owner of a journal (None: the lock is held), or a client of its owner.

    Neither is possible for the moment between an owner's taking the lock and its
    listening, or between its last breath and the lock's release, so it is tried again
    for a while. An owner that listens is waited for by the calls, without limit.

    Raises:
        JournalLockedError: another process has the lock and cannot be reached, or this
            process has it.
    """
    waited, pause = 0.0, _PAUSE_SECONDS_MIN
    while not lock.acquire(info):
        holder = lock.holder() or {}
        client = ControlClient(holder.get("socket") or sockets.socket_path_of(lock.journal_path))
        try:
            await client.connect()
        except OwnerLostError as error:
            if waited >= patience_seconds:
                raise lock.unreachable_error() from error
        else:
            return client
        await asyncio.sleep(pause)
        waited, pause = waited + pause, min(2 * pause, _PAUSE_SECONDS_MAX)
    return None
