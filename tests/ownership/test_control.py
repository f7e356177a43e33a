"""Calls over the control connection: what crosses, what is refused, who is cancelled."""

from __future__ import annotations

import asyncio
import os
import struct

import pytest

from durable import errors
from durable._journal.control import PROTOCOL, ControlServer
from durable._journal.control_client import ControlClient
from durable.errors import (
    InternalError,
    JournalError,
    JournalVersionError,
    PayloadTooLargeError,
    RuntimeClosedError,
    WorkflowRunNotFoundError,
)
from tests.ownership.owner import Answer, Owner

pytestmark = pytest.mark.both_loops


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
    await owner.waiting.acquire()
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
    await owner.waiting.acquire()
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
    await owner.waiting.acquire()
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
    for _ in waiting:
        await owner.waiting.acquire()
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
    return (
        struct.pack(
            ">II", len(text) + 4 if size is None else size, len(text) if json is None else json
        )
        + text
    )


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
