"""Other processes, as a test sees them: started, asked, stopped, killed.

`Peer` is one process that runs `peer_program` on a journal. Everything a peer says is
waited for on its pipe; nothing is waited for by time.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until something is so that nobody tells of; looks at it in each turn of the loop."""
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        await asyncio.sleep(0)


class PeerError(Exception):
    """What an expression raised in the peer.

    Attributes:
        kind, cause: names of the types of the error and of its cause.
    """

    def __init__(self, kind: str, cause: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.cause = cause


News = asyncio.Queue[tuple["Peer", str]]


class Peer:
    """One process on one journal; made by `Peers.start`."""

    def __init__(self, process: asyncio.subprocess.Process, news: News) -> None:
        self.pid = process.pid
        self._process = process
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._happened: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._news = news
        self._listening = asyncio.create_task(self._listen())

    async def happens(self, what: str) -> Any:
        """Wait for the next thing that the peer tells by itself, which must be `what`."""
        happened, value = await self._happened.get()
        if happened == "refused" != what:
            raise PeerError(*value)
        assert happened == what, (happened, value)
        return value

    def tell(self, expression: str) -> asyncio.Future[Any]:
        """Have the peer evaluate it; its answer comes as a future."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps([number, expression]) + "\n").encode())
        return answer

    async def ask(self, expression: str) -> Any:
        """Have the peer evaluate it, and wait for the value."""
        return await self.tell(expression)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def stop(self) -> None:
        """Stop it with SIGSTOP, and return when the kernel has."""
        self.signal(signal.SIGSTOP)
        await until(lambda: _state(self.pid) == "T")

    async def kill(self) -> None:
        """Kill it with SIGKILL, and return when it is gone."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):  # it ended by itself just now
                self.signal(signal.SIGKILL)
        await self.gone()

    async def leave(self) -> int:
        """Have it close its runtime and end; return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await self.gone()

    async def gone(self) -> int:
        """Wait for the process's end, and for the last of what it said."""
        code = await self._process.wait()
        await self._listening
        return code

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            match json.loads(line):
                case [None, what, value]:
                    self._happened.put_nowait((what, value))
                    self._news.put_nowait((self, what))
                case [number, value]:
                    self._settle(number, value, None)
                case [number, _, error]:
                    self._settle(number, None, PeerError(*error))
        self._happened.put_nowait(("gone", None))
        for answer in self._answers.values():
            answer.cancel()

    def _settle(self, number: int, value: Any, error: PeerError | None) -> None:
        answer = self._answers.pop(number)
        if answer.done():
            return
        if error is None:
            answer.set_result(value)
        else:
            answer.set_exception(error)


def _state(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


class Peers:
    """Starts peers on one journal, all with one ledger.

    Attributes:
        news: what happened in any of them, as it is told.
    """

    def __init__(self, journal_path: Path, ledger_path: Path | None = None) -> None:
        self._settings = {"path": str(journal_path), "ledger": ledger_path and str(ledger_path)}
        self._started: list[Peer] = []
        self.news: News = asyncio.Queue()

    async def begin(self, *, prelude: str = "", **options: object) -> Peer:
        """Start a peer, without waiting for anything that it does.

        Args:
            prelude: statements that it runs before it opens its runtime.
            options: of its `Runtime`.
        """
        settings = {**self._settings, "prelude": prelude, "options": options}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-m", "tests.ownership.peer_program",
            json.dumps(settings),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        peer = Peer(process, self.news)
        self._started.append(peer)
        return peer

    async def start(self, **settings: Any) -> Peer:
        """Start a peer and wait until its runtime is open, as owner or client."""
        peer = await self.begin(**settings)
        await peer.happens("opened")
        return peer

    async def next_to_begin(self) -> Peer:
        """Wait for the next process that begins a step which announces itself."""
        while True:
            peer, what = await self.news.get()
            if what == "began":
                return peer

    async def close(self) -> None:
        """End all of them in any case."""
        for peer in self._started:
            await peer.kill()
            if peer._process.stdin is not None:
                peer._process.stdin.close()


@asynccontextmanager
async def peers_on(journal_path: Path, ledger_path: Path | None = None) -> AsyncIterator[Peers]:
    """Give a starter of peers, and end them all afterwards."""
    peers = Peers(journal_path, ledger_path)
    try:
        yield peers
    finally:
        await peers.close()
