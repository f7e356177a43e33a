"""The floors that every ratio is taken to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import floors, least_step

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("durability", ["full", "process"])
def test_every_floor_that_is_named_is_measured(
    durability: floors.Durability, tmp_path: Path
) -> None:
    """On whatever loop was asked for, with nothing left over."""
    samples = floors.measure(tmp_path, durability, "asyncio", quick=True)
    assert set(samples) == set(floors.LABELS)
    assert all(0 < sample < 1 for found in samples.values() for sample in found)


def test_least_step_leaves_two_durable_rows_and_the_right_sum(tmp_path: Path) -> None:
    """A bound that does less than it says would flatter nobody but be wrong."""
    connection = floors._open(tmp_path / "steps.db", "process")
    least_step.seconds_per_step(connection)
    found = connection.execute(
        "SELECT count(*), count(DISTINCT run), max(seq) FROM events"
    ).fetchone()
    connection.close()
    rows = 2 * least_step.BODIES * least_step.STEPS
    assert found == (rows, least_step.BODIES, 2 * least_step.STEPS - 1)


def test_floors_know_nothing_of_the_library() -> None:
    """Their processes may not be slowed down by what is measured against them."""
    program = "import sys, benchmarks.worker; print('durable' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    assert said.stdout.strip() == "False"
