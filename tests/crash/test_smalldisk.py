"""Real power cuts: the disk forgets what was not synced, and `durable` loses nothing to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.forkserver import ROOT
from tests.crash.smalldisk import lacking

pytestmark = pytest.mark.slow
MISSING = lacking()
needs_a_disk = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

# A process of its own: entering the disk changes what its process sees mounted.
INSERTS = """
import os, sqlite3, sys
from pathlib import Path
from tests.crash import faultfs
from tests.crash.smalldisk import SmallDisk
with SmallDisk(Path(sys.argv[1])) as disk:
    disk.clear()
    path = disk.journal / "a.db"
    if not (child := os.fork()):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE t(x)")
        connection.execute(f"PRAGMA synchronous={sys.argv[2]}")
        for n in range(20):
            connection.execute("INSERT INTO t VALUES (?)", (n,))
        faultfs.cut_power(disk.journal)
        os._exit(0)
    os.waitpid(child, 0)
    disk.return_power()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    print(connection.execute("SELECT count(*) FROM t").fetchone()[0])
    connection.close()
"""


@needs_a_disk
@pytest.mark.parametrize(("synchronous", "left"), [("FULL", 20), ("NORMAL", 0)])
def test_a_cut_loses_what_was_not_synced(synchronous: str, left: int, tmp_path: Path) -> None:
    """Twenty inserts are all there when each was synced, and gone when none was."""
    command = [sys.executable, "-c", INSERTS, str(tmp_path / "disk"), synchronous]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"{left}\n", done.stderr


@needs_a_disk
def test_nothing_is_lost_to_real_power_cuts(tmp_path: Path) -> None:
    """A few trials of the campaign, whose workers unmount everything."""
    files = ["--out", str(tmp_path / "failures.json"), "--json", str(tmp_path / "totals.json")]
    command = [sys.executable, "-m", "tests.campaign", "T3", "--trials", "3", "--workers", "1"]
    done = subprocess.run([*command, *files], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = json.loads((tmp_path / "totals.json").read_text())["programmes"]["T3"]
    assert totals["counts"]["cuts"] > 0
