"""The end of an owner, in order or not, and who comes next."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from durable._journal import sockets
from durable._journal.control import ControlServer
from durable._journal.control_client import ControlClient, OwnerLostError, own_or_connect
from durable._journal.lock import OwnerLock
from durable.errors import JournalLockedError
from tests.ownership.owner import Answer, Owner

pytestmark = pytest.mark.both_loops


# --- the end ------------------------------------------------------------------------


async def test_close_ends_at_once_with_clients_waiting(
    server: ControlServer,
    client: ControlClient,
    owner: Owner,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Calls in progress end, `lost` is resolved, later calls fail at once."""
    waiting = [asyncio.create_task(client.call("wait")) for _ in range(3)]
    for _ in waiting:
        await owner.waiting.acquire()
    await server.close()
    assert not caplog.records  # its patience with calls that go on was not needed
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
    """About a second is the limit, whatever a handler does."""
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
    async with asyncio.timeout(5):
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
    await owner.waiting.acquire()
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
