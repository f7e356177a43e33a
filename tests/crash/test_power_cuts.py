"""A power cut leaves a prefix of what was recorded, with everything acknowledged in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.forkserver import ForkServer
from tests.crash.powercuts import PowerCuts
from tests.crash.scenarios import SCENARIOS

pytestmark = pytest.mark.slow
SEED = 3


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_power_cut_loses_what_was_acknowledged(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """States with unsynced writes lost, torn or reordered; some are then worked to the end."""
    cuts = PowerCuts(server, scenario, place, seed=SEED, resume_share=0.1)
    cuts.anywhere(SEED, parts=40 * SCENARIOS[scenario].stride)
    assert cuts.judged > 5


def test_a_power_cut_after_failed_syncs_loses_nothing(server: ForkServer, place: Path) -> None:
    """The kernel forgets what a failed sync owed the disk; it is read as if it were there."""
    judged = 0
    for stop, at in ((81, 3), (123, 9)):
        cuts = PowerCuts(server, "family", place / str(at), seed=SEED, resume_share=0.0)
        cuts.after_failed_syncs(stop, at, times=2, parts=30)
        judged += cuts.judged
    assert judged > 10


def test_a_power_cut_of_a_recovery_loses_nothing(server: ForkServer, place: Path) -> None:
    """The state that one cut left is recovered, and the recovery is cut, too."""
    cuts = PowerCuts(server, "fan", place, seed=SEED, resume_share=0.0)
    cuts.in_recovery(SEED, parts=10)
    assert cuts.judged > 30
