"""A power cut leaves a prefix of what was recorded, with everything acknowledged in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.forkserver import ForkServer
from tests.crash.powercuts import power_cut_trials
from tests.crash.scenarios import SCENARIOS

pytestmark = pytest.mark.slow
SEED = 3


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_power_cut_loses_what_was_acknowledged(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """States with unsynced writes lost, torn or reordered; some are then worked to the end."""
    parts = 40 * SCENARIOS[scenario].stride
    judged, _resumed = power_cut_trials(
        server, scenario, place, seed=SEED, part=SEED, parts=parts, resume_share=0.1
    )
    assert judged > 5
