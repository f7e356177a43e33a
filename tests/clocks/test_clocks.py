"""Clocks that are set, machines that are suspended, zones that change: a short T12."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clocks import fakes
from tests.clocks.jumps import jump_trial
from tests.clocks.moved import moved_trial
from tests.clocks.zones import zone_trial

ZONES = 5


def test_sleeps_across_changes_of_local_time_end_at_their_instant(
    seed: int, tmp_path: Path
) -> None:
    """In some zones of this machine's tzdata; skipped and repeated local times included."""
    changes = 0
    for number in range(ZONES):
        place = tmp_path / str(number)
        place.mkdir()
        changes += zone_trial(seed + number, place)["transitions"]
    assert changes >= ZONES


@pytest.mark.parametrize("number", range(5))
def test_sleeps_end_neither_early_nor_late_whatever_happens_to_the_clocks(
    number: int, seed: int, tmp_path: Path
) -> None:
    """Set back and forth, suspended, killed in between: on a virtual clock."""
    assert jump_trial(seed + number, tmp_path)["sleeps"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("fake", [fakes.Ours, fakes.FakeTime])
def test_real_process_notices_that_its_clocks_have_moved(
    fake: type, seed: int, tmp_path: Path
) -> None:
    """Eight hours of suspend, clocks set by a user: prompt, never early, never twice."""
    known = fakes.fakes()
    if fake not in known:
        pytest.skip(f"no {fake.__name__}: needs a C compiler or libfaketime")
    assert moved_trial(seed * len(known) + known.index(fake), tmp_path)["sleeps"] > 0
