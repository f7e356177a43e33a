"""Whatever is asked for, in whatever order, the journal does what a simple model says."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.machine import Machine


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_public_api_does_what_the_model_says_through_restarts_and_crashes() -> None:
    """Runs, hooks, mail, streams, families, pauses: what is seen is what is expected."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
