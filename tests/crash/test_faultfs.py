"""The breaking disk breaks where it is told to, and is an ordinary disk otherwise."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import aiosqlite
import pytest

from tests.crash import faultfs
from tests.crash.faultfs import FOREVER, Fault, FaultFS
from tests.crash.states import apply

HERE = Path(__file__).parent


@pytest.fixture
def disk() -> Iterator[FaultFS]:
    """The shim of this process, without a fault before and after the test."""
    shim = faultfs.install()
    shim.disarm()
    yield shim
    shim.disarm()
    shim.ops = None


def connect(path: Path, *, query: str = "") -> sqlite3.Connection:
    """Open `path` on the breaking disk, in WAL mode, with FULL durability."""
    connection = sqlite3.connect(
        f"file:{path}?vfs=faultfs{query}", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def prepared(path: Path) -> sqlite3.Connection:
    """Open `path` and give it a table with one row."""
    connection = connect(path)
    connection.execute("CREATE TABLE t(x)")
    connection.execute("INSERT INTO t VALUES (0)")
    return connection


def values(path: Path) -> list[int]:
    """Read the table on the ordinary disk."""
    connection = sqlite3.connect(path)
    table = connection.execute("SELECT name FROM sqlite_master").fetchall()
    rows = connection.execute("SELECT x FROM t ORDER BY x").fetchall() if table else []
    found = [row[0] for row in rows]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return found


def test_without_a_fault_it_is_an_ordinary_disk(disk: FaultFS, tmp_path: Path) -> None:
    """WAL, shared memory, readers and other threads work through the shim."""
    writer = prepared(tmp_path / "a.db")
    reader = sqlite3.connect(f"file:{tmp_path}/a.db?vfs=faultfs&mode=ro", uri=True)
    thread = threading.Thread(target=writer.execute, args=("INSERT INTO t VALUES (1)",))
    thread.start()
    thread.join()
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (2,)
    assert {p.name for p in tmp_path.iterdir()} == {"a.db", "a.db-wal", "a.db-shm"}
    assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    reader.close()
    writer.close()
    assert values(tmp_path / "a.db") == [0, 1]


async def test_aiosqlite_runs_on_it_unmodified(disk: FaultFS, tmp_path: Path) -> None:
    """The driver of the journal takes the URI as it is; its writes are counted."""
    disk.arm(Fault(1_000_000, "kill"))
    uri = f"file:{tmp_path}/a.db?vfs=faultfs"
    async with aiosqlite.connect(uri, uri=True) as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("CREATE TABLE t(x)")
        await connection.execute("INSERT INTO t VALUES (7)")
        await connection.commit()
    assert disk.count > 3
    assert values(tmp_path / "a.db") == [7]


def test_an_error_happens_once_at_its_operation(disk: FaultFS, tmp_path: Path) -> None:
    """Each of the operations of one insert can fail alone; the next insert works."""
    connection = prepared(tmp_path / "a.db")
    disk.arm(Fault(1_000_000, "ioerr"))
    connection.execute("INSERT INTO t VALUES (1)")
    operations = disk.count
    assert operations >= 2
    for n in range(1, operations + 1):
        disk.arm(Fault(n, "ioerr"))
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error") as caught:
            connection.execute("INSERT INTO t VALUES (2)")
        assert caught.value.sqlite_errorname in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC")
        assert disk.fired == 1
    connection.execute("INSERT INTO t VALUES (3)")
    connection.close()
    assert values(tmp_path / "a.db")[-1] == 3


def test_a_lasting_error_stays_until_disarmed(disk: FaultFS, tmp_path: Path) -> None:
    """Every attempt fails until the disk is repaired."""
    connection = prepared(tmp_path / "a.db")
    disk.arm(Fault(1, "ioerr", times=FOREVER))
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("INSERT INTO t VALUES (1)")
    disk.disarm()
    connection.execute("INSERT INTO t VALUES (2)")
    connection.close()
    assert values(tmp_path / "a.db") == [0, 2]


def test_a_full_disk_refuses_only_what_makes_a_file_longer(disk: FaultFS, tmp_path: Path) -> None:
    """SQLITE_FULL for growth; writing over what is there goes on."""
    connection = prepared(tmp_path / "a.db")
    connection.execute("INSERT INTO t VALUES (zeroblob(50000))")
    connection.execute("DELETE FROM t WHERE x != 0")
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    disk.arm(Fault(1, "full", times=FOREVER))
    connection.execute("INSERT INTO t VALUES (1)")  # the WAL restarts at its beginning
    with pytest.raises(sqlite3.OperationalError, match="full"):
        connection.execute("INSERT INTO t VALUES (zeroblob(500000))")
    disk.disarm()
    connection.close()
    assert values(tmp_path / "a.db") == [0, 1]


def test_the_recording_holds_every_byte_of_the_files(disk: FaultFS, tmp_path: Path) -> None:
    """Applying all recorded operations rebuilds the database and its WAL exactly."""
    ops = disk.record()
    connection = prepared(tmp_path / "a.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(20)])
    for name in ("a.db", "a.db-wal"):
        mine = [op for op in ops if Path(op.file).name == name and op.kind != "sync"]
        assert apply(None, mine) == (tmp_path / name).read_bytes()
    assert {op.kind for op in ops} == {"write", "sync", "truncate", "delete"}
    connection.close()


KILLED = """
import os, sqlite3, sys
sys.path.insert(0, {here!r})
import faultfs
disk = faultfs.install(default=True)
disk.arm(faultfs.Fault({at}, {action!r}))
connection = sqlite3.connect({path!r}, isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous=FULL")
connection.execute("CREATE TABLE IF NOT EXISTS t(x)")
for n in range(3):
    connection.execute("INSERT INTO t VALUES (?)", (n,))
    print(n, flush=True)
print("alive", disk.count, flush=True)
os._exit(0)
"""


def run_script(python: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run `script` with nothing but the standard library."""
    command = [python, "-I", "-c", script]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("action", ["kill", "kill-half"])
def test_the_process_dies_at_each_operation(action: str, tmp_path: Path) -> None:
    """SIGKILL at operation 1, 2, ...: every printed insert is there, until nothing kills."""
    for at in range(1, 100, 3):
        path = tmp_path / f"{at}.db"
        script = KILLED.format(here=str(HERE), at=at, action=action, path=str(path))
        child = run_script(sys.executable, script)
        printed = child.stdout.split()
        if "alive" in printed:
            assert child.returncode == 0 and at > int(printed[-1])
            return
        assert child.returncode == -signal.SIGKILL, child.stderr
        if printed:
            assert values(path)[: len(printed)] == [int(n) for n in printed]
    raise AssertionError("it was killed at every operation")


def other_pythons() -> list[str]:
    """Interpreters of the supported minors that this machine has, besides this one."""
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    found = {p.parent.parent.name: str(p) for r in roots for p in r.glob("3.1[123].*/bin/python")}
    mine = f"{sys.version_info.major}.{sys.version_info.minor}."
    return [path for name, path in sorted(found.items()) if not name.startswith(mine)]


@pytest.mark.parametrize("python", other_pythons() or [sys.executable])
def test_it_works_on_the_other_pythons_of_this_machine(python: str, tmp_path: Path) -> None:
    """No compiler and no package is needed: a bare interpreter kills itself on time."""
    script = KILLED.format(here=str(HERE), at=12, action="kill", path=str(tmp_path / "a.db"))
    child = run_script(python, script)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert values(tmp_path / "a.db") is not None
