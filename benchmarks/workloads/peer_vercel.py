"""The same work on `vercel-workflow` (Python) in its local world: JSON files, never flushed.

It promises less than we do at "process" (its queue is in memory, and a run that was cut off
is not taken up again), so "process" is what it is compared at. As it comes it imports the
workflow's module anew for each activation and is asked for a result once a second; at its
best sandboxes are shared, and its status is asked for every millisecond.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from benchmarks.rivals import Peer, Rival, Shape, workloads
from benchmarks.workload import Settings

POLL_SECONDS = 0.001


class LocalWorld:
    """Its local world; `best` is told in the module's docstring."""

    def __init__(self, *, best: bool) -> None:
        from benchmarks.peers import vercel_flows

        self._flows = vercel_flows
        self._best = best

    async def start(self, shape: Shape, steps: int) -> Any:
        """Start a run."""
        from vercel.workflow import start

        return await start(getattr(self._flows, shape), steps)

    async def result(self, run: Any) -> object:
        """Wait for its result."""
        while self._best and await run.status() not in ("completed", "failed", "cancelled"):
            await asyncio.sleep(POLL_SECONDS)
        return await run.return_value()


@asynccontextmanager
async def opened(settings: Settings, *, best: bool) -> AsyncIterator[Rival]:
    """Open the local world in an empty directory."""
    os.environ["WORKFLOW_LOCAL_DATA_DIR"] = str(settings.directory / "data")
    if best:
        os.environ["BENCHMARK_SHARE_SANDBOXES"] = "1"
    yield LocalWorld(best=best)


PEERS = tuple(
    Peer(
        subject="vercel-workflow, shared" if best else "vercel-workflow",
        requires="vercel-workflow",
        imports="vercel.workflow",
        open=partial(opened, best=best),
        durabilities=("process",),
    )
    for best in (False, True)
)
WORKLOADS = tuple(workload for peer in PEERS for workload in workloads(peer))
