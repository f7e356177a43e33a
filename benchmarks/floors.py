"""What this machine does at best without us: the yardsticks of every ratio.

F1   raw `sqlite3`: one row of about 200 bytes per BEGIN IMMEDIATE, INSERT, COMMIT in WAL
     mode, at the same durability as the workload next to it.
F1t  the same for an event loop: a thread does it, and tells the loop. What any library must
     pay that does not stop its host's loop for a flush.
F1g  the rows of F1, 1000 to a COMMIT; per row.
T    `asyncio.create_task` and await of a coroutine that does nothing, always on the
     standard event loop, so that the yardstick stays the same whatever loop we run on.
S    a step as `least_step` has it, with nothing of an engine around it.

Goals are told in F1 and T. F1t and S show how much of them is there before any engine.

Invariant: floors run in their own fresh process, on a fresh file, and touch nothing of
`durable`; they may not be slowed down (flattering us) by what a workload left behind.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Literal, TypeVar

from benchmarks import least_step

T = TypeVar("T")

Durability = Literal["full", "process"]

SYNCHRONOUS: dict[Durability, str] = {"full": "FULL", "process": "NORMAL"}
ROW = bytes(range(200))
GROUP = 1000

Samples = dict[str, list[float]]

LABELS = {
    "F1": "raw sqlite3, one row per COMMIT",
    "F1t": "the same by a thread, for an event loop",
    "F1g": "raw sqlite3, 1000 rows per COMMIT, per row",
    "T": "asyncio create_task + await",
    "S": "a step without an engine: task, future, two pickles, two rows, grouped",
}


def run_on(loop: str, main: Coroutine[object, object, T]) -> T:
    """Run a coroutine on "asyncio", "uvloop", or what `durable.run` would take: "durable"."""
    if loop != "asyncio":
        try:
            import uvloop
        except ImportError:
            if loop == "uvloop":
                raise
        else:
            return uvloop.run(main)
    return asyncio.run(main)


def measure(directory: Path, durability: Durability, loop: str, quick: bool) -> Samples:
    """All floors, in seconds per operation."""
    share = 5 if quick else 1
    threaded = threaded_rows(directory / "floor-threaded.db", durability, 500 // share)
    return {
        "F1": single_rows(directory / "floor-single.db", durability, 1000 // share),
        "F1t": run_on(loop, threaded),
        "F1g": grouped_rows(directory / "floor-grouped.db", durability, 20 // share),
        "T": asyncio.run(spawned(batches=100 // share)),
        "S": least_steps(directory / "floor-steps.db", durability, 5 // share),
    }


def single_rows(path: Path, durability: Durability, count: int) -> list[float]:
    """Seconds for each of `count` one-row COMMITs."""
    connection = _open(path, durability)
    samples = [_insert(connection, 1) for _ in range(count)]
    connection.close()
    return samples


async def threaded_rows(path: Path, durability: Durability, count: int) -> list[float]:
    """Seconds for each of `count` one-row COMMITs that a thread does while the loop waits."""
    connection = _open(path, durability)
    loop = asyncio.get_running_loop()
    errands: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
    thread = threading.Thread(target=_work_off, args=(errands,))
    thread.start()
    samples = []
    for _ in range(count):
        done = loop.create_future()

        def errand(done: asyncio.Future[None] = done) -> None:
            _insert(connection, 1)
            loop.call_soon_threadsafe(done.set_result, None)

        begun = perf_counter()
        errands.put(errand)
        await done
        samples.append(perf_counter() - begun)
    errands.put(None)
    thread.join()
    connection.close()
    return samples


def _work_off(errands: SimpleQueue[Callable[[], object] | None]) -> None:
    while (errand := errands.get()) is not None:
        errand()


def grouped_rows(path: Path, durability: Durability, count: int) -> list[float]:
    """Seconds per row for each of `count` COMMITs of 1000 rows."""
    connection = _open(path, durability)
    samples = [_insert(connection, GROUP) / GROUP for _ in range(count)]
    connection.close()
    return samples


def least_steps(path: Path, durability: Durability, count: int) -> list[float]:
    """Seconds per step for each of `count` times 1000 bodies of five steps."""
    connection = _open(path, durability)
    samples = [least_step.seconds_per_step(connection) for _ in range(max(1, count))]
    connection.close()
    return samples


async def spawned(batches: int, size: int = 100) -> list[float]:
    """Seconds per spawned and awaited coroutine; one sample is the mean over `size`."""
    create_task = asyncio.get_running_loop().create_task
    samples = []
    for _ in range(batches):
        begun = perf_counter()
        for _ in range(size):
            await create_task(_nothing())
        samples.append((perf_counter() - begun) / size)
    return samples


async def _nothing() -> None:
    return None


def _open(path: Path, durability: Durability) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT")
    return connection


def _insert(connection: sqlite3.Connection, rows: int) -> float:
    values = [(ROW,)] * rows
    begun = perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO rows (body) VALUES (?)", values)
    connection.execute("COMMIT")
    return perf_counter() - begun
