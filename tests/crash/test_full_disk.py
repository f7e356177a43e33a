"""On a really full disk work pauses, `start` says so, and all goes on when there is space."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.forkserver import ROOT

pytestmark = pytest.mark.slow

# A mount namespace of its own: the small disk vanishes with the process.
COMMAND = """
mount -t tmpfs -o size=12m,mode=0700 none "$1" || exit 77
exec "$2" -W error -m tests.crash.full_disk_program "$1"
"""


def on_a_small_disk(place: Path) -> subprocess.CompletedProcess[str]:
    """Run the program on a disk of 12 MB, or skip where no such disk can be made."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare(1) for a disk of its own")
    command = ["unshare", "--mount", "sh", "-c", COMMAND, "sh", str(place), sys.executable]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no disk of its own: {done.stderr}")
    return done


def test_a_full_disk_pauses_work_and_fails_nothing(tmp_path: Path) -> None:
    """`start` raises JournalFullError; started runs wait, and finish once space is back."""
    done = on_a_small_disk(tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert "full" in seen["refused"]
    assert set(seen["during"]) <= {"pending", "running", "completed"}
    assert "running" in seen["during"]
    assert seen["recorded"] == seen["started"]
    assert seen["results"] == [80_000]
    assert seen["after"] == 80_000
    assert (seen["retried"], seen["failed"]) == (0, 0)
