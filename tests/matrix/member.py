"""One process of the matrix: it opens the journal and does what it is told, line by line.

    [number, verb, ...]            on stdin
    [number, value]                on stdout: done
    [number, null, error]          on stdout: refused
    [null, "open"]                 on stdout, once its runtime is open, as owner or client

Verbs: `start run length`, `result run`, `finish run length` (both), `fork` (a child that lives
on beside it), `reopen` (close the runtime and open another one), `exit` (end without closing
anything).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from durable import Runtime
from durable.errors import DurableError, ForkedJournalError
from tests.ownership import flows

ORPHAN_SECONDS = 30  # until a child that nobody ends is ended by the kernel


class Ledger(flows.Ledger):
    """A ledger whose lock is not inherited by a child made by fork, which may outlive us."""

    def over(self) -> None:
        """Note that an attempt is not running any more."""
        self._running -= 1
        if self._running == 0:
            fcntl.lockf(self._guard, fcntl.LOCK_UN)

    def _alone(self) -> bool:
        try:
            fcntl.lockf(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


class Member:
    """A runtime, and who tells it what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rt = Runtime(path, drain_seconds=1)

    async def live(self) -> None:
        """Serve until stdin ends."""
        doing: set[asyncio.Task[None]] = set()
        await self._rt.open()
        tell(None, "open")
        try:
            async for line in _lines():
                task = asyncio.create_task(self._obey(*json.loads(line)))
                doing.add(task)
                task.add_done_callback(doing.discard)
        finally:
            await self._rt.close()

    async def _obey(self, number: int, verb: str, *given: Any) -> None:
        try:
            tell(number, await getattr(self, f"_{verb}")(*given))
        except DurableError as error:
            traceback.print_exc()
            tell(number, None, f"{type(error).__name__}: {error}")

    async def _start(self, run_id: str, length: int) -> bool:
        await self._rt.start(flows.chain.options(run_id=run_id), run_id, length)
        return True

    async def _result(self, run_id: str) -> Any:
        return await flows.outcome(self._rt.get_run(run_id))

    async def _finish(self, run_id: str, length: int) -> Any:
        await self._start(run_id, length)
        return await self._result(run_id)

    async def _fork(self) -> int:
        child = os.fork()
        if child == 0:
            await self._outlive()
        return child

    async def _outlive(self) -> None:
        """Be a child with everything of its parent but the right to use it."""
        signal.alarm(ORPHAN_SECONDS)
        try:
            await self._rt.start(flows.chain, "of a child", 1)
            tell(None, "a child was let in")
        except ForkedJournalError:
            pass
        signal.pause()

    async def _reopen(self) -> bool:
        await self._rt.close()
        self._rt = Runtime(self._path, drain_seconds=1)
        await self._rt.open()
        return True

    async def _exit(self) -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 3)


async def _lines() -> Any:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield line


def tell(*message: Any) -> None:
    """Write one line in one piece."""
    with suppress(BrokenPipeError):
        os.write(1, (json.dumps(message, default=str) + "\n").encode())


def live(path: Path, ledger: Path) -> None:
    """Be a member; returns when stdin has ended."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    flows.here = flows.Here()
    flows.here.ledger = Ledger(ledger)
    asyncio.run(Member(path).live())
