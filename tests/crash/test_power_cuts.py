"""A power cut leaves a prefix of what was recorded, with everything acknowledged in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.forkserver import ForkServer
from tests.crash.scenarios import SCENARIOS
from tests.crash.trials import power_cut_trials

pytestmark = pytest.mark.slow
SEED = 3


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_power_cut_loses_what_was_acknowledged(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """States with unsynced writes lost, torn or reordered; some are then worked to the end."""
    share = 0.05 / SCENARIOS[scenario].stride
    judged = power_cut_trials(server, scenario, place, seed=SEED, share=share, resume_share=0.1)
    assert judged > 10
