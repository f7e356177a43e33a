"""The control connection between the owner of a journal and its clients."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from durable import errors
from durable._journal import sockets
from durable._journal.control import PROTOCOL, ControlServer
from durable._journal.control_client import ControlClient, OwnerLostError, own_or_connect
from durable._journal.lock import OwnerLock
from durable.errors import (
    InternalError,
    JournalError,
    JournalLockedError,
    JournalVersionError,
    PayloadTooLargeError,
    RuntimeClosedError,
    WorkflowRunNotFoundError,
)

pytestmark = pytest.mark.both_loops

Answer = dict[str, object]


class Owner:
    """A handler with a few methods, that remembers what happened to its calls."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.cancelled = asyncio.Event()
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()

    async def handle(self, method: str, fields: Answer) -> Answer:
        self.called.append(method)
        return await getattr(self, method)(**fields)

    async def echo(self, **fields: object) -> Answer:
        return fields

    async def wait(self) -> Answer:
        self.waiting.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {"waited": True}

    async def missing(self, run_id: str) -> Answer:
        raise WorkflowRunNotFoundError(run_id)

    async def broken(self) -> Answer:
        raise ZeroDivisionError("oh")

    async def gives_up(self) -> Answer:
        raise asyncio.CancelledError

    async def odd_answer(self) -> Answer:
        return {"object": object()}

    async def large(self, size: int) -> Answer:
        return {"data": b"x" * size}


@pytest.fixture
def path(journal_path: Path) -> str:
    """Where the control socket of the test's journal is."""
    return sockets.socket_path_of(str(journal_path))


@pytest.fixture
async def owner() -> Owner:
    """What the server of the test serves."""
    return Owner()


@pytest.fixture
async def server(path: str, owner: Owner) -> AsyncIterator[ControlServer]:
    """A server with small limits, started."""
    server = ControlServer(
        path, owner.handle, frame_bytes_max=100_000, requests_max=5, connections_max=3
    )
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def client(server: ControlServer) -> AsyncIterator[ControlClient]:
    """A client of that server, connected."""
    client = ControlClient(server.socket_path, frame_bytes_max=100_000)
    await client.connect()
    yield client
    await client.close()


async def raw(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection without a client."""
    return await asyncio.open_unix_connection(path)


# --- calls --------------------------------------------------------------------------


async def test_plain_data_and_bytes_cross_unchanged(client: ControlClient) -> None:
    """Bytes at any depth, odd names, and dicts that look like the wire format's own marks."""
    fields: Answer = {
        "method": "a field of the same name",
        "none": None,
        "numbers": [1, -(2**70), 1.5, True, False],
        "text": "ä\0\ud800\U0001f600",
        "bytes": [b"", bytes(range(256)), {"deep": b"x"}],
        "mark": {"$bytes": [0, 1], "$dict": b"y"},
        "marks": [{"$dict": {}}, {"$bytes": None}],
    }
    assert await client.call("echo", **fields) == fields
    assert await client.call("echo", pair=(1, (2, b"3"))) == {"pair": [1, [2, b"3"]]}
    assert await client.call("echo") == {}


async def test_calls_on_one_connection_overlap(client: ControlClient, owner: Owner) -> None:
    """A call that waits does not keep the others waiting."""
    waiting = asyncio.create_task(client.call("wait"))
    await owner.waiting.wait()
    assert await client.call("echo", n=1) == {"n": 1}
    assert not waiting.done()
    owner.go_on.set()
    assert await waiting == {"waited": True}


async def test_large_frames_and_many_calls_at_a_time_arrive_whole(path: str, owner: Owner) -> None:
    """Beyond any buffer between the two."""
    server = ControlServer(path, owner.handle)
    await server.start()
    client = ControlClient(path)
    await client.connect()
    data = os.urandom(3_000_000)
    answers = await asyncio.gather(
        *(client.call("echo", n=n, data=data) for n in range(5)),
        *(client.call("echo", n=n) for n in range(1000)),
    )
    assert [answer["n"] for answer in answers] == [*range(5), *range(1000)]
    assert all(answer["data"] == data for answer in answers[:5])
    await client.close()
    await server.close()


async def test_cancelled_call_cancels_its_handler(client: ControlClient, owner: Owner) -> None:
    """The owner does not go on waiting for somebody who left."""
    waiting = asyncio.create_task(client.call("wait"))
    await owner.waiting.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await owner.cancelled.wait()
    assert await client.call("echo", n=2) == {"n": 2}


async def test_client_that_leaves_cancels_its_handlers(
    client: ControlClient, owner: Owner, server: ControlServer
) -> None:
    """And its calls in progress end with an error."""
    waiting = asyncio.create_task(client.call("wait"))
    await owner.waiting.wait()
    await client.close()
    with pytest.raises(RuntimeClosedError):
        await waiting
    with pytest.raises(RuntimeClosedError):
        await client.call("echo")
    await owner.cancelled.wait()
    assert not client.lost.done()


# --- errors -------------------------------------------------------------------------


async def test_errors_of_the_library_cross_with_class_fields_and_notes(
    client: ControlClient,
) -> None:
    """The caller cannot tell that another process raised it."""
    with pytest.raises(WorkflowRunNotFoundError, match="holds no run 'r1'") as caught:
        await client.call("missing", run_id="r1")
    assert caught.value.run_id == "r1"
    assert str(caught.value) == str(WorkflowRunNotFoundError("r1"))


async def test_other_exceptions_of_a_handler_arrive_as_internal_error(
    client: ControlClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Named, but never rebuilt; the owner logs the traceback."""
    with pytest.raises(InternalError, match="ZeroDivisionError in the owner's process: oh"):
        await client.call("broken")
    assert "ZeroDivisionError" in caplog.text
    with pytest.raises(InternalError, match="CancelledError"):
        await client.call("gives_up")
    with pytest.raises(InternalError, match="not plain data"):
        await client.call("odd_answer")
    with pytest.raises(TypeError, match="not plain data"):
        await client.call("echo", x={1, 2})


async def test_frame_limit_holds_in_both_directions(client: ControlClient) -> None:
    """What is too large is refused at its source, and the connection lives on."""
    with pytest.raises(PayloadTooLargeError, match="over the limit of 100000 bytes"):
        await client.call("echo", data=b"x" * 100_000)
    with pytest.raises(PayloadTooLargeError, match="over the limit of 100000 bytes"):
        await client.call("large", size=100_000)
    overhead = len('{"id":5,"ok":{"data":{"$bytes":[0,99999]}}}') + 4
    answer = await client.call("large", size=100_000 - overhead)
    assert len(answer["data"]) == 100_000 - overhead  # type: ignore[arg-type]
    assert not client.lost.done()


async def test_too_many_requests_are_refused_and_the_others_go_on(
    client: ControlClient, owner: Owner
) -> None:
    """The limit is an error with a cure, not a standstill."""
    waiting = [asyncio.create_task(client.call("wait")) for _ in range(5)]
    while owner.called.count("wait") < 5:
        await asyncio.sleep(0)
    with pytest.raises(JournalError, match="5 requests in progress"):
        await client.call("echo")
    owner.go_on.set()
    assert await asyncio.gather(*waiting) == [{"waited": True}] * 5
    assert await client.call("echo", n=1) == {"n": 1}


async def test_too_many_connections_are_refused_with_a_reason(
    server: ControlServer, client: ControlClient
) -> None:
    """The clients that are there are not disturbed."""
    others = [ControlClient(server.socket_path) for _ in range(3)]
    for other in others:
        await other.connect()
    assert "3 clients already" in await asyncio.shield(others[2].lost)
    with pytest.raises(JournalError, match="3 clients already"):
        await others[2].call("echo")
    assert await others[1].call("echo", n=1) == await client.call("echo", n=1)
    for other in others:
        await other.close()


async def test_another_protocol_is_refused(server: ControlServer) -> None:
    """Two releases on one machine do not misunderstand each other."""
    from durable._journal.frames import decode_error, encode_frame, read_frame

    reader, writer = await raw(server.socket_path)
    request = {"id": 1, "protocol": PROTOCOL + 1, "method": "echo", "fields": {}}
    writer.writelines(encode_frame(request))
    answer = await read_frame(reader)
    assert answer is not None
    assert isinstance(decode_error(answer["error"]), JournalVersionError)
    writer.close()


def frame(text: bytes, *, size: int | None = None, json: int | None = None) -> bytes:
    """A frame that may lie about its lengths."""
    return struct.pack(
        ">II", len(text) + 4 if size is None else size, len(text) if json is None else json
    ) + text


@pytest.mark.parametrize(
    "sent",
    [
        frame(b"", size=2**32 - 1),
        frame(b"", size=100_001),
        frame(b"", size=3),
        frame(b"{}", json=3),
        frame(b"nonsense"),
        frame(b"[1]"),
        frame(b"[" * 50_000),
        frame(b"\xff\xfe"),
        frame(b"{}"),
        frame(b'{"id":"1","method":"echo","fields":{}}'),
        frame(b'{"id":1,"method":"echo","fields":{"$bytes":[0,1]}}'),
        frame(b'{"id":1,"method":"echo","fields":{"x":{"$bytes":[-1,1]}}}'),
        frame(b'{"id":1,"method":"echo","fields":{"x":{"$bytes":"no"}}}'),
        frame(b'{"id":1,"method":"echo","fields":{"$dict":[[1,2]]}}'),
        frame(b'{"id":1,"protocol":1,"method":"wait","fields":{}}') * 2,
    ],
)
async def test_nonsense_drops_only_the_connection_that_sent_it(
    sent: bytes, server: ControlServer, client: ControlClient
) -> None:
    """Whatever arrives is never fatal, never buffered without limit and never executed."""
    reader, writer = await raw(server.socket_path)
    writer.write(sent)
    with_error = False
    try:
        assert await reader.read() == b""
    except ConnectionResetError:
        with_error = True
    assert with_error or reader.at_eof()
    writer.close()
    assert await client.call("echo", n=1) == {"n": 1}


async def test_answers_never_name_a_class_outside_the_errors_module() -> None:
    """A hostile owner can choose among our errors, nothing else."""
    from durable._journal.frames import decode_error, encode_error

    for name in ("datetime", "_rebuild", "_RunError", "Any", "KeyError", "__builtins__", "no"):
        described = {"class": name, "args": ["x"], "fields": {}}
        assert type(decode_error(described)) is InternalError, name
    for odd in (None, 1, {}, {"class": 1, "args": [], "fields": {}}):
        assert type(decode_error(odd)) is InternalError
    error = decode_error(
        {"class": "FatalError", "args": ["x"], "fields": {"__class__": "y", "ok": 1}}
    )
    assert type(error) is errors.FatalError
    assert vars(error) == {"ok": 1}
    noted = errors.FatalError("f")
    noted.add_note("a note")
    assert decode_error(encode_error(noted)).__notes__ == ["a note"]


# --- the socket ---------------------------------------------------------------------


async def test_socket_is_private_and_removed_on_close(path: str, owner: Owner) -> None:
    """Under any umask, mode 0600; nothing stays behind."""
    before = os.umask(0)
    try:
        server = ControlServer(path, owner.handle)
        assert server.bind() == path
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        await server.start()
    finally:
        os.umask(before)
    await server.close()
    assert not os.path.exists(path)


async def test_stale_socket_of_a_dead_owner_is_replaced(path: str, owner: Owner) -> None:
    """Left behind by a process that was killed."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.close()
    with pytest.raises(OwnerLostError):
        await ControlClient(path).connect()
    server = ControlServer(path, owner.handle)
    await server.start()
    client = ControlClient(path)
    await client.connect()
    assert await client.call("echo") == {}
    await client.close()
    await server.close()


async def test_socket_of_a_later_owner_is_not_removed(path: str, owner: Owner) -> None:
    """A server removes only the file that it made."""
    first, second = ControlServer(path, owner.handle), ControlServer(path, owner.handle)
    await first.start()
    await second.start()
    await first.close()
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    await second.close()
    assert not os.path.exists(path)


@pytest.mark.parametrize("why", ["too long", "in the way"])
async def test_socket_that_cannot_be_beside_the_journal_goes_to_a_private_directory(
    why: str, tmp_path: Path, owner: Owner
) -> None:
    """Always to the same place, so that nothing piles up; no file of the user is removed."""
    path = str(tmp_path / ("x" * 120 if why == "too long" else "x") / "app.db.sock")
    os.makedirs(os.path.dirname(path))
    if why == "in the way":
        Path(path).write_text("precious")
    server = ControlServer(path, owner.handle)
    found = server.bind()
    assert found != path
    assert len(os.fsencode(found)) <= 100
    assert stat.S_IMODE(os.stat(os.path.dirname(found)).st_mode) == 0o700
    assert os.path.dirname(os.path.dirname(found)) == tempfile.gettempdir()
    await server.start()
    client = ControlClient(found)
    await client.connect()
    assert await client.call("echo") == {}
    await client.close()
    await server.close()
    again = ControlServer(path, owner.handle)
    assert again.bind() == found
    await again.close()
    assert why == "too long" or Path(path).read_text() == "precious"


async def test_directory_of_another_user_is_not_trusted(
    tmp_path: Path, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have made it in order to listen in our place."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"durable-{os.geteuid()}").mkdir(mode=0o755)
    server = ControlServer(str(tmp_path / ("x" * 120)), owner.handle)
    directory = Path(server.bind()).parent
    assert directory.name != f"durable-{os.geteuid()}"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    await server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_processes_of_other_users_are_not_heard(
    server: ControlServer, process: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where the modes of files would let them in."""
    program = """
        import os, socket, sys
        peer = socket.socket(socket.AF_UNIX)
        os.chdir(os.path.dirname(sys.argv[1]))
        os.setresuid(65534, 65534, 65534)
        peer.connect("app.db.sock")
        print(peer.recv(1), flush=True)
    """
    os.chmod(server.socket_path, 0o666)
    os.chmod(os.path.dirname(server.socket_path), 0o777)
    other = process(program, server.socket_path)
    assert await asyncio.to_thread(other.line) == "b''"
    assert "another user was refused" in caplog.text


# --- the end ------------------------------------------------------------------------


async def test_close_ends_at_once_with_clients_waiting(
    server: ControlServer, client: ControlClient, owner: Owner
) -> None:
    """Calls in progress end, `lost` is resolved, later calls fail at once."""
    waiting = [asyncio.create_task(client.call("wait")) for _ in range(3)]
    while owner.called.count("wait") < 3:
        await asyncio.sleep(0)
    async with asyncio.timeout(0.5):
        await server.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [OwnerLostError] * 3
    assert results[0] is not results[1]
    assert "has ended" in await asyncio.shield(client.lost)
    with pytest.raises(OwnerLostError):
        await client.call("echo")
    await server.close()


async def test_close_does_not_wait_for_handlers_that_ignore_cancellation(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A second is the limit, whatever a handler does."""
    started, end = asyncio.Event(), asyncio.Event()

    async def stubborn(method: str, fields: Answer) -> Answer:
        started.set()
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                pass
        return {}

    server = ControlServer(path, stubborn)
    await server.start()
    client = ControlClient(path)
    await client.connect()
    call = asyncio.create_task(client.call("x"))
    await started.wait()
    async with asyncio.timeout(1.0):
        await server.close()
    assert "1 control request(s) go on" in caplog.text
    with pytest.raises(OwnerLostError):
        await call
    end.set()
    await client.close()


async def test_close_by_a_handler_does_not_wait_for_itself(path: str) -> None:
    """The owner may be told to stop through its own socket."""
    closed = asyncio.Event()

    async def stop(method: str, fields: Answer) -> Answer:
        await server.close()
        closed.set()
        return {}

    server = ControlServer(path, stop)
    await server.start()
    client = ControlClient(path)
    await client.connect()
    with pytest.raises(OwnerLostError):
        await client.call("stop")
    await closed.wait()
    await client.close()


async def test_retired_server_holds_new_requests_and_finishes_old_ones(
    server: ControlServer, client: ControlClient, owner: Owner
) -> None:
    """A held request was never performed, and its caller learns that it must ask elsewhere."""
    waiting = asyncio.create_task(client.call("wait"))
    await owner.waiting.wait()
    server.retire()
    late = asyncio.create_task(client.call("echo"))
    owner.go_on.set()
    assert await waiting == {"waited": True}
    assert not late.done()
    await server.close()
    with pytest.raises(OwnerLostError):
        await late
    assert owner.called == ["wait"]


async def test_lock_is_free_when_clients_notice_the_end(journal_path: Path, owner: Owner) -> None:
    """So the first that notices takes over at its first attempt."""
    lock, next_lock = OwnerLock(str(journal_path)), OwnerLock(str(journal_path))
    assert lock.acquire({})
    server = ControlServer(sockets.socket_path_of(str(journal_path)), owner.handle)
    await server.start()
    client = ControlClient(server.socket_path)
    await client.connect()

    async def take_over() -> bool:
        await asyncio.shield(client.lost)
        return next_lock.acquire({})

    taking = asyncio.create_task(take_over())
    await server.close(lock.release)
    assert await taking
    assert not os.path.exists(server.socket_path)
    next_lock.release()


async def test_bound_server_lets_clients_wait_until_it_is_started(path: str, owner: Owner) -> None:
    """The owner may take its time to open the journal."""
    server = ControlServer(path, owner.handle)
    server.bind()
    client = ControlClient(path)
    await client.connect()
    call = asyncio.create_task(client.call("echo", n=1))
    await asyncio.sleep(0)
    assert not call.done()
    await server.start()
    assert await call == {"n": 1}
    await client.close()
    await server.close()


async def test_server_closed_before_it_started_leaves_nothing(path: str, owner: Owner) -> None:
    """As when opening the journal fails after the lock was taken."""
    server = ControlServer(path, owner.handle)
    server.bind()
    client = ControlClient(path)
    await client.connect()
    await server.close()
    await asyncio.shield(client.lost)
    assert not os.path.exists(path)


# --- two processes ------------------------------------------------------------------

OWNER = """
    import asyncio, os, sys, time
    from durable._journal import sockets
    from durable._journal.control import ControlServer
    from durable._journal.lock import OwnerLock

    async def handle(method, fields):
        if method == "wait":
            print("waiting", flush=True)
            await asyncio.Event().wait()
        return {"pid": os.getpid(), **fields}

    async def main():
        lock = OwnerLock(sys.argv[1])
        assert lock.acquire({})
        server = ControlServer(sockets.socket_path_of(sys.argv[1]), handle)
        lock.publish({"socket": server.bind()})
        await server.start()
        print("serving", flush=True)
        await asyncio.to_thread(input)
        FORK = len(sys.argv) > 2 and os.fork() == 0
        if FORK:
            print(os.getpid(), flush=True)
            time.sleep(60)
            os._exit(0)
        if len(sys.argv) > 2:
            await asyncio.to_thread(input)
        await server.close(lock.release)
        print("closed", flush=True)

    asyncio.run(main())
"""


async def test_killed_owner_is_noticed_and_succeeded_at_once(
    journal_path: Path, process: Callable
) -> None:
    """The waiting call ends, and the client becomes the owner."""
    other = process(OWNER, str(journal_path))
    assert await asyncio.to_thread(other.line) == "serving"
    lock = OwnerLock(str(journal_path))
    client = await own_or_connect(lock, {})
    assert client is not None
    assert await client.call("echo", x=b"1") == {"pid": other.pid, "x": b"1"}
    waiting = asyncio.create_task(client.call("wait"))
    assert await asyncio.to_thread(other.line) == "waiting"
    other.kill()
    async with asyncio.timeout(5):
        with pytest.raises(OwnerLostError):
            await waiting
        await asyncio.shield(client.lost)
        assert await own_or_connect(lock, {}) is None
    assert lock.held
    lock.release()
    await client.close()


async def test_orphan_of_a_killed_owner_does_not_hide_its_death(
    journal_path: Path, process: Callable
) -> None:
    """A forked child has neither the lock nor the other end of our connection."""
    other = process(OWNER, str(journal_path), "fork")
    assert await asyncio.to_thread(other.line) == "serving"
    lock = OwnerLock(str(journal_path))
    client = await own_or_connect(lock, {})
    assert client is not None
    assert (await client.call("echo"))["pid"] == other.pid
    other.proceed()
    orphan = int(await asyncio.to_thread(other.line))
    try:
        other.kill()
        os.kill(orphan, 0)
        async with asyncio.timeout(5):
            await asyncio.shield(client.lost)
            assert await own_or_connect(lock, {}) is None
    finally:
        os.kill(orphan, signal.SIGKILL)
    lock.release()
    await client.close()


async def test_owner_that_stops_in_order_hands_over(journal_path: Path, process: Callable) -> None:
    """The client takes the lock while the old owner's process still lives."""
    other = process(OWNER, str(journal_path))
    assert await asyncio.to_thread(other.line) == "serving"
    lock = OwnerLock(str(journal_path))
    client = await own_or_connect(lock, {})
    assert client is not None
    other.proceed()
    await asyncio.shield(client.lost)
    assert lock.acquire({})
    assert await asyncio.to_thread(other.line) == "closed"
    lock.release()
    await client.close()


async def test_owner_that_cannot_be_reached_is_named_after_a_while(
    journal_path: Path, process: Callable
) -> None:
    """It holds the lock, but listens nowhere."""
    program = """
        import sys
        from durable._journal.lock import OwnerLock
        print(OwnerLock(sys.argv[1]).acquire({"command": "mute"}), flush=True)
        input()
    """
    other = process(program, str(journal_path))
    assert await asyncio.to_thread(other.line) == "True"
    with pytest.raises(JournalLockedError, match=f"{other.pid} .mute."):
        await own_or_connect(OwnerLock(str(journal_path)), {}, patience_seconds=0.01)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_interrupted_programs_end_without_noise(
    loop: str, journal_path: Path, process: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """`asyncio.run` cancels server, requests, client and calls that nobody closed."""
    pytest.importorskip(loop)
    program = """
        import asyncio, gc, importlib, sys
        from durable._journal import sockets
        from durable._journal.control import ControlServer
        from durable._journal.control_client import ControlClient

        sys.stderr = sys.stdout
        started = None

        async def handle(method, fields):
            started.set()
            await asyncio.Event().wait()

        async def main():
            global started
            started = asyncio.Event()
            server = ControlServer(sockets.socket_path_of(sys.argv[1]), handle)
            await server.start()
            client = ControlClient(server.socket_path)
            await client.connect()
            main.call = asyncio.create_task(client.call("wait"))
            await started.wait()
            late = ControlClient(server.socket_path)
            await late.connect()  # its connection is not accepted yet
            main.kept = server, client, late

        with asyncio.Runner(loop_factory=importlib.import_module(sys.argv[2]).new_event_loop) as r:
            r.run(main())
        del main.kept, main.call
        gc.collect()
        print("end", flush=True)
    """
    other = process(program, str(journal_path), loop)
    assert await asyncio.to_thread(other.line) == "end"
    assert not os.path.exists(sockets.socket_path_of(str(journal_path)))


async def test_nothing_is_left_of_a_hundred_clients(server: ControlServer) -> None:
    """Neither connections, nor guarded descriptors, nor warnings at collection."""
    from durable._journal import forkguard

    async def visits(count: int) -> tuple[int, int]:
        for n in range(count):
            client = ControlClient(server.socket_path)
            await client.connect()
            assert await client.call("echo", n=n) == {"n": n}
            await client.close()
        while server._connections:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        return len(forkguard._guarded), len(os.listdir("/proc/self/fd"))

    guarded, opened = await visits(3)
    guarded_later, opened_later = await visits(100)
    assert guarded_later <= guarded
    assert opened_later <= opened
