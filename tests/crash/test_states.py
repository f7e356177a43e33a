"""The crash states are those a power cut allows: harmless for FULL, harmful for NORMAL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import faultfs
from tests.crash.faultfs import FaultFS, Op
from tests.crash.states import crash_states

SEED = 20240101


@pytest.fixture
def disk() -> Iterator[FaultFS]:
    """The shim of this process, recording nothing before and after the test."""
    shim = faultfs.install()
    shim.disarm()
    yield shim
    shim.ops = None


def record(disk: FaultFS, path: Path, synchronous: str) -> list[Op]:
    """Record 25 acknowledged inserts with a few WAL restarts."""
    ops = disk.record()
    connection = sqlite3.connect(f"file:{path}?vfs=faultfs", uri=True, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("PRAGMA wal_autocheckpoint=8")
    connection.execute("CREATE TABLE t(x)")
    for n in range(25):
        connection.execute("INSERT INTO t VALUES (?)", (n,))
        disk.mark(str(n))
    connection.close()
    return ops


def rows(directory: Path) -> list[int]:
    """Open a state as a restarted program would, and read what it holds."""
    connection = sqlite3.connect(directory / "a.db")
    connection.execute("PRAGMA synchronous=OFF")  # nothing is lost twice
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    found = connection.execute("SELECT name FROM sqlite_master").fetchall()
    values = [row[0] for row in connection.execute("SELECT x FROM t")] if found else []
    connection.close()
    return values


def judge(ops: list[Op], directory: Path) -> tuple[int, int]:
    """Return (states seen, states that lost an acknowledged insert)."""
    seen = lost = 0
    for state in crash_states(ops, seed=SEED):
        place = directory / str(seen)
        state.restore(place)
        values = rows(place)
        assert values == list(range(len(values))), f"a hole: {state} (seed {SEED})"
        seen += 1
        lost += len(values) < len(state.marks)
    return seen, lost


def test_no_power_cut_loses_an_insert_acknowledged_at_full(disk: FaultFS, tmp_path: Path) -> None:
    """The enumeration accuses nobody who syncs before acknowledging."""
    seen, lost = judge(record(disk, tmp_path / "a.db", "FULL"), tmp_path / "states")
    assert seen > 100
    assert lost == 0


def test_power_cuts_lose_inserts_acknowledged_at_normal(disk: FaultFS, tmp_path: Path) -> None:
    """The enumeration does find the loss that `synchronous=NORMAL` allows."""
    seen, lost = judge(record(disk, tmp_path / "a.db", "NORMAL"), tmp_path / "states")
    assert lost > seen // 4
