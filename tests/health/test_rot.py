"""Bit rot: whatever bit flips, no run is told anything but the truth; see rot.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.campaign.rot import open_trials

TRIALS = 24


@pytest.mark.slow
def test_flipped_bit_is_found_before_it_is_used(tmp_path: Path, seed: int) -> None:
    """In the database, in the -wal, in any page; and the others among the runs go on."""
    counts: Counter[str] = Counter()
    with open_trials(("small", "crashed")) as trial:
        for number in range(seed, seed + TRIALS):
            place = tmp_path / str(number)
            place.mkdir()
            counts += trial(number, place)
    assert counts["flips"] == TRIALS
    assert counts["harmless"] < TRIALS
