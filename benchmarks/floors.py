"""What this machine does at best without us: the yardsticks of every ratio.

F1   raw `sqlite3`: one row of about 200 bytes per BEGIN IMMEDIATE, INSERT, COMMIT in WAL
     mode, at the same durability as the workload next to it.
F1g  the same rows, 1000 to a COMMIT; per row.
T    `asyncio.create_task` and await of a coroutine that does nothing, always on the
     standard event loop, so that the yardstick stays the same whatever loop we run on.

Invariant: floors run in their own fresh process, on a fresh file, and touch nothing of
`durable`; they may not be slowed down (flattering us) by what a workload left behind.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from time import perf_counter
from typing import Literal

Durability = Literal["full", "process"]

SYNCHRONOUS: dict[Durability, str] = {"full": "FULL", "process": "NORMAL"}
ROW = bytes(range(200))
GROUP = 1000

Samples = dict[str, list[float]]

LABELS = {
    "F1": "raw sqlite3, one row per COMMIT",
    "F1g": "raw sqlite3, 1000 rows per COMMIT, per row",
    "T": "asyncio create_task + await",
}


def measure(directory: Path, durability: Durability, quick: bool) -> Samples:
    """All floors, in seconds per operation."""
    share = 5 if quick else 1
    return {
        "F1": single_rows(directory / "floor-single.db", durability, 1000 // share),
        "F1g": grouped_rows(directory / "floor-grouped.db", durability, 20 // share),
        "T": asyncio.run(spawned(batches=100 // share)),
    }


def single_rows(path: Path, durability: Durability, count: int) -> list[float]:
    """Seconds for each of `count` one-row COMMITs."""
    connection = _open(path, durability)
    samples = [_insert(connection, 1) for _ in range(count)]
    connection.close()
    return samples


def grouped_rows(path: Path, durability: Durability, count: int) -> list[float]:
    """Seconds per row for each of `count` COMMITs of 1000 rows."""
    connection = _open(path, durability)
    samples = [_insert(connection, GROUP) / GROUP for _ in range(count)]
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
    connection = sqlite3.connect(path, isolation_level=None)
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
