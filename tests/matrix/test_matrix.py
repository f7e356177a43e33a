"""Several processes on one journal in any order, a short version of the campaign's T11."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TRIALS = 6
ROOT = Path(__file__).parents[2]


def test_processes_that_meet_on_a_journal_neither_overlap_nor_hang_nor_lose_a_run(
    seed: int,
) -> None:
    """Killed, stopped, ended, forked, closed and opened again: see `tests.matrix.matrix`."""
    seeds = [str(seed + number) for number in range(TRIALS)]
    # In a process of its own, for the processes of a trial are forked from it.
    done = subprocess.run(
        [sys.executable, "-m", "tests.matrix", *seeds],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "runs" in done.stdout
