"""The same work on Prefect 3: flows in this process, their states on its server over HTTP.

Its server keeps SQLite in WAL mode at `synchronous=NORMAL`, so it is compared at "process".
Flows are called, not started, and nothing replays them: there is no `start()` to measure.
As it comes each process begins a temporary server; at its best one is running already, and
nothing is logged.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from benchmarks.rivals import Peer, Rival, Shape, workloads
from benchmarks.workload import Settings

BEGIN_SECONDS = 120


class Flows:
    """Its flows, and tasks that perform them."""

    def __init__(self) -> None:
        from prefect import flow, task

        async def add(number: int, other: int) -> int:
            return number + other

        adding = task(add)

        async def chain(steps: int) -> int:
            number = 0
            for other in range(steps):
                number = await adding(number, other)
            return number

        async def gather(steps: int) -> int:
            return sum(await asyncio.gather(*(adding(number, 1) for number in range(steps))))

        self._flows = {"chain": flow(chain), "gather": flow(gather)}

    async def start(self, shape: Shape, steps: int) -> Any:
        """Begin to perform a flow."""
        return asyncio.create_task(self._flows[shape](steps))

    async def result(self, run: Any) -> object:
        """Wait until it is performed."""
        return await run


@asynccontextmanager
async def opened(settings: Settings, *, server: bool) -> AsyncIterator[Rival]:
    """Give it a home in an empty directory, and a server or none."""
    os.environ |= {
        "PREFECT_HOME": str(settings.directory),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(BEGIN_SECONDS),
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }
    if not server:
        os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "true"
        yield Flows()
        return
    os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
    port = _free_port()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    try:
        await _answering(port)
        yield Flows()
    finally:
        process.terminate()
        await process.wait()


async def _answering(port: int) -> None:
    async with asyncio.timeout(BEGIN_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.2)
            else:
                writer.close()
                return


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


PEERS = tuple(
    Peer(
        subject="prefect, server" if server else "prefect",
        requires="prefect",
        imports="prefect",
        open=partial(opened, server=server),
        durabilities=("process",),
        lacks=frozenset({"W5", "W10"}),
    )
    for server in (False, True)
)
WORKLOADS = tuple(workload for peer in PEERS for workload in workloads(peer))
