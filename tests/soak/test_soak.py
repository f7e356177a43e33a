"""Some simulated weeks with kills, a short T15."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.soak import soak_trial

DAYS = 14  # more than a run may live, so that those of the first days must be over


@pytest.mark.slow
def test_weeks_with_kills_lose_no_run_and_let_nothing_grow(seed: int, tmp_path: Path) -> None:
    """Sleeps of days, retries of hours, hooks, streams, families, chains, retention."""
    counts = soak_trial(seed, tmp_path, DAYS, facts=(50, 900))
    assert counts["runs"] >= 4 * DAYS
