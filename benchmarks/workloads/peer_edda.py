"""The same work on Edda, an in-process engine over SQLAlchemy, with SQLite.

It keeps SQLite's rollback journal unless the file is in WAL mode already; its writes are
`synchronous=FULL` in both cases. A start performs the run up to its first wait, so there is
no `start()` to measure apart.
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


class Edda:
    """Its workflows, and tasks that perform them."""

    def __init__(self) -> None:
        from edda import WorkflowContext, activity, workflow

        async def add(ctx: WorkflowContext, number: int, other: int) -> int:
            return number + other

        adding = activity(add)

        async def chain(ctx: WorkflowContext, steps: int) -> int:
            number = 0
            for other in range(steps):
                number = await adding(ctx, number, other)
            return number

        async def gather(ctx: WorkflowContext, steps: int) -> int:
            calls = (adding(ctx, n, 1, activity_id=f"add:{n}") for n in range(steps))
            return sum(await asyncio.gather(*calls))

        self._flows = {"chain": workflow(chain), "gather": workflow(gather)}

    async def start(self, shape: Shape, steps: int) -> Any:
        """Begin to perform a run."""
        return asyncio.create_task(self._flows[shape].start(steps=steps))

    async def result(self, run: Any) -> object:
        """Wait until it is performed."""
        return await run


@asynccontextmanager
async def opened(settings: Settings, *, wal: bool) -> AsyncIterator[Rival]:
    """Open it on an empty file."""
    from edda import EddaApp

    path = settings.journal()
    if wal:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    app = EddaApp(service_name="benchmark", db_url=f"sqlite:///{path}")
    await app.initialize()
    try:
        yield Edda()
    finally:
        await app.shutdown()


PEERS = tuple(
    Peer(
        subject="edda, WAL" if wal else "edda",
        requires="edda-framework",
        imports="edda",
        open=partial(opened, wal=wal),
        durabilities=("full",),
        lacks=frozenset({"W5"}),
    )
    for wal in (False, True)
)
WORKLOADS = tuple(workload for peer in PEERS for workload in workloads(peer))
