"""The owner's end of the control socket: other processes ask, the owner acts.

Owns the listening socket of a journal's owner, its connections and the requests in them.
Each request is handled by one call of the handler, many at a time on one connection;
what the handler returns or raises goes back. A client that cancels a request, or goes
away, cancels its handler, so a handler shields what must not be left half done.

Invariants: the server listens only while the owner lock is held; only processes of the
same user (or root) are heard; frames, requests and connections are all bounded; every
asyncio task is strongly referenced; closing takes a second at most, whatever handlers and
clients do. The server knows nothing about runs: methods and fields mean what the
handler takes them to mean. The other end is `control_client`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from durable._journal import sockets
from durable._journal.frames import (
    FRAME_BYTES_MAX,
    FrameError,
    Sender,
    encode_error,
    encode_frame,
    read_frame,
)
from durable.errors import DurableError, InternalError, JournalError, JournalVersionError

_log = logging.getLogger("durable")

PROTOCOL = 1  # of requests and answers; an owner refuses all others
REQUESTS_MAX = 10_000
CONNECTIONS_MAX = 256
CLOSE_SECONDS = 0.8
_ACCEPT_PAUSE_SECONDS = 1.0  # after an accept that failed, as when descriptors run out

Handler = Callable[[str, dict[str, object]], Awaitable[dict[str, object]]]
"""Acts on ``(method, fields)`` and returns the fields of the answer, all plain data."""


class ControlServer:
    """Listens beside the journal on behalf of its owner.

    Args:
        socket_path: where to listen, from `socket_path_of(journal_path)`. After `bind`,
            the attribute says where it really listens.
        handler: performs one request; its `DurableError` reaches the client as that
            class, any other exception as `InternalError`.
        frame_bytes_max: refuse larger messages in either direction. Default 64 MiB.
        requests_max: requests of one connection in progress at a time.
        connections_max: clients at a time.

    Example (with the owner lock held):
        >>> server = ControlServer(socket_path_of(path), handler)
        >>> lock.publish({"socket": server.bind()})  # clients may connect, and wait
        >>> await server.start()  # and are served from here on
        >>> await server.close(lock.release)
    """

    def __init__(
        self,
        socket_path: str,
        handler: Handler,
        *,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        requests_max: int = REQUESTS_MAX,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self.socket_path = socket_path
        self.frame_bytes_max = frame_bytes_max
        self.requests_max = requests_max
        self.connections_max = connections_max
        self.retired = False
        self._handler = handler
        self._listener: socket.socket | None = None
        self._made: tuple[int, int] | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._closer: asyncio.Task[object] | None = None  # a handler may be what closes us
        self._pid = os.getpid()

    def bind(self) -> str:
        """Listen, and return the path. Clients can connect and send, but nobody answers yet.

        Called right after the owner lock was taken, before the journal is opened, so
        that clients wait on a connection instead of trying again and again.

        Raises:
            JournalError: no socket can be made.
        """
        if self._listener is None:
            self._listener, self.socket_path = sockets.listen(self.socket_path)
            self._made = sockets.inode(self.socket_path)
        return self.socket_path

    async def start(self) -> None:
        """Begin to accept and serve connections in the running loop; binds if needed."""
        if self._accepting is not None or self.retired:
            raise InternalError("a control server can be started once")
        self.bind()
        self._accepting = asyncio.create_task(self._accept(), name="durable control accept")

    def retire(self) -> None:
        """Take on no more requests; those in progress go on.

        New ones are held without an answer: their callers learn from the end of the
        connection that they were never performed, and turn to the next owner. So call
        it when the owner begins to stop, and `close` at the end.
        """
        self.retired = True

    async def close(self, release: Callable[[], None] | None = None) -> None:
        """Stop listening, cancel the handlers in progress, drop all connections.

        Args:
            release: gives the owner lock up. It is called when the socket file is gone
                and before clients notice, so the first that does finds the lock free.
        """
        self.retire()
        if self._pid == os.getpid():
            sockets.remove(self.socket_path, self._made)
        if release is not None:
            release()
        ending = self._cancel_all()
        if ending:
            _done, late = await asyncio.wait(ending, timeout=CLOSE_SECONDS)
            if late:
                _log.warning("%d control request(s) go on after being cancelled", len(late))
        self._close_listener()
        await asyncio.sleep(0)  # aborted transports close in the next turn of the loop

    def abandon(self) -> None:
        """Let go of everything at once, because the loop that served it is closed."""
        self.retire()
        if self._pid != os.getpid():
            return
        sockets.remove(self.socket_path, self._made)
        self._close_listener()
        for connection in self._connections.values():
            connection.hang_up()

    def _cancel_all(self) -> set[asyncio.Task[None]]:
        self._closer = asyncio.current_task()
        ending: set[asyncio.Task[None] | None] = {self._accepting, None}
        for serving, connection in self._connections.items():
            ending |= {serving, *connection.requests.values()}
        ending.discard(self._closer)
        tasks = {task for task in ending if task is not None}
        for task in tasks:
            task.cancel()
        return tasks

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            sockets.close(listener)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        listener = self._listener
        assert listener is not None
        try:
            while True:
                failed: asyncio.Future[OSError] = loop.create_future()
                loop.add_reader(listener.fileno(), self._accept_waiting, listener, failed)
                error = await failed
                loop.remove_reader(listener.fileno())
                _log.warning("a control connection could not be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
        finally:
            # Also at the end of `asyncio.run`, which cancels this without calling `close`.
            loop.remove_reader(listener.fileno())
            sockets.remove(self.socket_path, self._made)
            self._close_listener()

    def _accept_waiting(self, listener: socket.socket, failed: asyncio.Future[OSError]) -> None:
        # A plain callback: an awaited accept that is cancelled loses what it has accepted.
        if failed.done():  # or cancelled, with `_accept`, after this callback became ready
            return
        try:
            peer = sockets.accept(listener)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            failed.set_result(error)
            return
        if self._may_enter(peer):
            self._welcome(peer)
        else:
            sockets.close(peer)

    def _welcome(self, peer: socket.socket) -> None:
        connection = _Connection(self, self._handler, peer)
        serving = asyncio.create_task(connection.serve(), name="durable control connection")
        self._connections[serving] = connection
        serving.add_done_callback(self._leave)

    def _may_enter(self, peer: socket.socket) -> bool:
        if not sockets.may_ask(peer):
            _log.warning("a control connection of another user was refused")
            return False
        if len(self._connections) < self.connections_max:
            return True
        refusal = JournalError(
            f"the owner of the journal (process {self._pid}) has {self.connections_max} clients "
            "already: close some"
        )
        with suppress(OSError):  # the client is gone, or does not read
            peer.send(b"".join(encode_frame({"refused": encode_error(refusal)})))
        return False

    def _leave(self, serving: asyncio.Task[None]) -> None:
        # Not at the end of `serve`: a task cancelled before its first step never gets there.
        self._connections.pop(serving).drop(self._closer)
        if not serving.cancelled() and (error := serving.exception()) is not None:
            _log.error("a control connection failed", exc_info=error)


class _Connection:
    """One client's connection and its requests in progress."""

    def __init__(self, server: ControlServer, handler: Handler, peer: socket.socket) -> None:
        self.requests: dict[int, asyncio.Task[None]] = {}
        self._server = server
        self._handler = handler
        self._peer = peer
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self) -> None:
        """Take on requests until the client is gone or sends nonsense."""
        limit = self._server.frame_bytes_max
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._peer)
            self._sender = Sender(self._writer)
            while (frame := await read_frame(reader, limit=limit)) is not None:
                await self._receive(frame)
        except FrameError as error:
            _log.warning("a control connection was dropped: %s", error)
        except OSError as error:
            _log.debug("a control connection broke: %s", error)
            if self._writer is not None:
                await sockets.note_break(self._writer)

    def drop(self, spared: asyncio.Task[object] | None) -> None:
        """Cancel the requests but one and close; what was not sent yet is lost."""
        for request in self.requests.values():
            if request is not spared:
                request.cancel()
        if self._writer is None:
            sockets.close(self._peer)
        else:
            sockets.abort(self._peer, self._writer)

    def hang_up(self) -> None:
        """End the connection for the client; a closed loop's transport cannot be closed."""
        with suppress(OSError):  # ended already, or taken over by the loop and closed with it
            self._peer.shutdown(socket.SHUT_RDWR)

    async def _receive(self, frame: dict[str, object]) -> None:
        match frame:
            case {"cancel": int(number)}:
                if number in self.requests:
                    self.requests[number].cancel()
            case {"id": int(number), "method": str(method), "fields": dict(fields)}:
                await self._begin(number, method, fields, frame.get("protocol"))
            case _:
                raise FrameError(f"a frame of the names {sorted(frame)}")

    async def _begin(
        self, number: int, method: str, fields: dict[str, object], protocol: object
    ) -> None:
        if self._server.retired:
            return
        if number in self.requests:
            raise FrameError(f"two requests with the number {number}")
        refusal = self._refusal(protocol)
        if refusal is not None:
            answer = {"id": number, "error": encode_error(refusal)}
            await self._sender.send(encode_frame(answer))
            return
        request = asyncio.create_task(
            self._perform(number, method, fields), name=f"durable control request {method}"
        )
        self.requests[number] = request
        request.add_done_callback(lambda _: self._forget(number))

    def _refusal(self, protocol: object) -> DurableError | None:
        if protocol != PROTOCOL:
            return JournalVersionError(
                f"the owner of the journal (process {os.getpid()}) speaks protocol {PROTOCOL}, "
                f"this process {protocol!r}: run the same release of durable in both"
            )
        if len(self.requests) >= self._server.requests_max:
            return JournalError(
                f"this process has {len(self.requests)} requests in progress at the owner of the "
                "journal, the limit: await some of them first"
            )
        return None

    async def _perform(self, number: int, method: str, fields: dict[str, object]) -> None:
        answer: dict[str, object]
        try:
            answer = {"id": number, "ok": await self._handler(method, fields)}
        except DurableError as error:
            answer = {"id": number, "error": encode_error(error)}
        except (Exception, asyncio.CancelledError) as error:
            if _cancelled_from_outside(error):
                raise  # by the client or by `close`: nobody waits for an answer
            _log.exception("the control request %r failed", method)
            answer = {"id": number, "error": encode_error(error)}
        with suppress(OSError):  # the client is gone, nobody waits for this answer
            await self._sender.send(self._encode(answer))

    def _encode(self, answer: dict[str, object]) -> list[bytes]:
        try:
            return encode_frame(answer, limit=self._server.frame_bytes_max)
        except (DurableError, TypeError) as error:  # too large, or not plain data
            return encode_frame({"id": answer["id"], "error": encode_error(error)})

    def _forget(self, number: int) -> None:
        request = self.requests.pop(number)
        if not request.cancelled() and (error := request.exception()) is not None:
            _log.error("a control request failed", exc_info=error)


def _cancelled_from_outside(error: BaseException) -> bool:
    current = asyncio.current_task()
    return (
        isinstance(error, asyncio.CancelledError)
        and current is not None
        and current.cancelling() > 0
    )
