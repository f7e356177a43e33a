"""The socket file and the connections: private, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from durable._journal.control import ControlServer
from durable._journal.control_client import ControlClient, OwnerLostError
from tests.ownership.owner import Owner

pytestmark = pytest.mark.both_loops


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
    short_path: Path, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have made it in order to listen in our place."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    (short_path / f"durable-{os.geteuid()}").mkdir(mode=0o755)
    server = ControlServer(str(short_path / ("x" * 120)), owner.handle)
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


async def test_nothing_is_left_of_a_hundred_clients(server: ControlServer) -> None:
    """Neither connections, nor guarded descriptors, nor warnings at collection."""
    from durable._journal import forkguard

    async def visits(count: int) -> tuple[int, int]:
        for n in range(count):
            client = ControlClient(server.socket_path)
            await client.connect()
            assert await client.call("echo", n=n) == {"n": n}
            await client.close()
        for _ in range(20):  # turns of the loop, in which the server notices the last end
            await asyncio.sleep(0)
        gc.collect()
        return len(forkguard._guarded), len(os.listdir("/proc/self/fd"))

    guarded, opened = await visits(3)
    guarded_later, opened_later = await visits(100)
    assert guarded_later <= guarded
    assert opened_later <= opened
