"""The same work on python-durable, which records what steps return, and nothing else.

Its package is called `durable`, too, and needs Python 3.12: it cannot be installed beside this
library, so it is found only in an interpreter of its own (`--peer-python`). It opens SQLite
anew for each question and each write, with a rollback journal unless the file is in WAL mode
already, `synchronous=FULL` in both cases. A run is taken up again by whoever calls it again;
there is no start to measure, and no process that imports it and not us.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.rivals import Peer, Rival, Shape, workloads
from benchmarks.workload import Settings

ROOT = Path(__file__).absolute().parents[2]


class PythonDurable:
    """Its workflows, and tasks that perform them."""

    def __init__(self, path: Path) -> None:
        flows = _package().Workflow("benchmark", db=f"sqlite:///{path}")

        async def add(number: int, other: int) -> int:
            return number + other

        adding = flows.task(add)

        async def chain(steps: int) -> int:
            number = 0
            for other in range(steps):
                number = await adding(number, other)
            return number

        async def gather(steps: int) -> int:
            return sum(await asyncio.gather(*(adding(number, 1) for number in range(steps))))

        self._flows = {"chain": flows.workflow(chain), "gather": flows.workflow(gather)}
        self._numbers = count()

    async def start(self, shape: Shape, steps: int) -> Any:
        """Begin to perform a run."""
        run_id = f"run-{next(self._numbers)}"
        return asyncio.create_task(self._flows[shape].run(run_id, steps))

    async def result(self, run: Any) -> object:
        """Wait until it is performed."""
        return await run


def _package() -> Any:
    """Theirs, not ours, though both have the same name."""
    sys.path[:] = [place for place in sys.path if Path(place).absolute() != ROOT]
    import durable

    return durable


@asynccontextmanager
async def opened(settings: Settings, *, wal: bool) -> AsyncIterator[Rival]:
    """Name it an empty file."""
    path = settings.journal()
    if wal:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    yield PythonDurable(path)


PEERS = tuple(
    Peer(
        subject="python-durable, WAL" if wal else "python-durable",
        requires="python-durable",
        imports="durable",
        open=partial(opened, wal=wal),
        durabilities=("full",),
        lacks=frozenset({"W5", "W9"}),
    )
    for wal in (False, True)
)
WORKLOADS = tuple(workload for peer in PEERS for workload in workloads(peer))
