"""The same work on DBOS Transact over SQLite: as it comes, and with WAL switched on before.

DBOS keeps SQLite's rollback journal unless the file is in WAL mode already; its writes are
`synchronous=FULL` in both cases, so it is compared at "full" only.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from benchmarks.rivals import Peer, Rival, Shape, workloads
from benchmarks.workload import Settings


class Dbos:
    """Its workflows."""

    def __init__(self) -> None:
        from dbos import DBOS

        async def add(number: int, other: int) -> int:
            return number + other

        adding = DBOS.step()(add)

        async def chain(steps: int) -> int:
            number = 0
            for other in range(steps):
                number = await adding(number, other)
            return number

        async def gather(steps: int) -> int:
            return sum(await asyncio.gather(*(adding(number, 1) for number in range(steps))))

        self._start = DBOS.start_workflow_async
        self._flows = {"chain": DBOS.workflow()(chain), "gather": DBOS.workflow()(gather)}

    async def start(self, shape: Shape, steps: int) -> Any:
        """Start a run."""
        return await self._start(self._flows[shape], steps)

    async def result(self, run: Any) -> object:
        """Wait for its result."""
        return await run.get_result()


@asynccontextmanager
async def opened(settings: Settings, *, wal: bool) -> AsyncIterator[Rival]:
    """Launch it on an empty file."""
    from dbos import DBOS

    path = settings.journal()
    if wal:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    DBOS(
        config={
            "name": "benchmark",
            "system_database_url": f"sqlite:///{path}",
            "run_admin_server": False,
            "log_level": "ERROR",
        }
    )
    flows = Dbos()
    DBOS.launch()
    try:
        yield flows
    finally:
        DBOS.destroy()


PEERS = tuple(
    Peer(
        subject="dbos, WAL" if wal else "dbos",
        requires="dbos",
        imports="dbos",
        open=partial(opened, wal=wal),
        durabilities=("full",),
    )
    for wal in (False, True)
)
WORKLOADS = tuple(workload for peer in PEERS for workload in workloads(peer))
