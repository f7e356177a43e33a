"""Fixtures of the ownership tests: servers, clients, and other processes that really own.

Gives `server` and `client`, connected, with an `owner` behind them; and `process`, which
runs a Python program given as text and talks to it by lines. Programs are written in
full in the tests, so that a test shows what both sides do. For whole runtimes, `peers`
starts processes on the test's journal, and `here` is what flows of this process use.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from durable._journal import sockets
from durable._journal.control import ControlServer
from durable._journal.control_client import ControlClient
from tests.ownership import flows
from tests.ownership.owner import Owner
from tests.ownership.peers import Peers, peers_on

ROOT = Path(__file__).parents[2]


class Process:
    """A Python program in a process of its own; it prints a line at each thing it did."""

    def __init__(self, program: str, *arguments: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.pid = self._popen.pid

    def line(self) -> str:
        """Wait for the next line that it prints."""
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def proceed(self) -> None:
        """Answer the `input()` that it waits in."""
        assert self._popen.stdin is not None
        self._popen.stdin.write("\n")
        self._popen.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._popen.send_signal(signal.SIGKILL)
        self._popen.wait()

    def close(self) -> None:
        """End it in any case, and what it has forked: that would keep its pipes open."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.kill()
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """Starts programs, and ends them with the test."""
    started: list[Process] = []

    def start(program: str, *arguments: str) -> Process:
        started.append(Process(program, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket, unlike `tmp_path` at times."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
def path(short_path: Path) -> str:
    """Where the control socket of the test's journal is."""
    return sockets.socket_path_of(str(short_path / "app.db"))


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


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    """Where the steps of all processes of the test note their attempts."""
    return tmp_path / "ledger"


@pytest.fixture
def here(ledger_path: Path) -> Iterator[flows.Here]:
    """What the flows of this process use, with the ledger of the test."""
    flows.here = flows.Here()
    flows.here.ledger = flows.Ledger(ledger_path)
    yield flows.here
    flows.here.ledger.close()
    flows.here = flows.Here()


@pytest.fixture
async def peers(journal_path: Path, ledger_path: Path) -> AsyncIterator[Peers]:
    """Starts processes on the test's journal, and ends them with the test."""
    async with peers_on(journal_path, ledger_path) as peers:
        yield peers
