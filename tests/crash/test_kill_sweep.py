"""A process killed at any operation of its journal loses nothing and repeats nothing.

The suite kills at a seeded sample of the operations; `python -m tests.campaign T2` kills
at every one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.faultfs import FOREVER
from tests.crash.forkserver import ForkServer
from tests.crash.plan import OPERATIONS, sample
from tests.crash.scenarios import SCENARIOS
from tests.crash.trials import kill_trial

pytestmark = pytest.mark.slow
SEED = 1
INTERRUPTS = {"family": 8, "spawner": 6}  # starts that come while stopping


counted: dict[str, int] = {}


def operations(server: ForkServer, scenario: str, place: Path) -> int:
    """Count the operations of a scenario that nobody disturbs."""
    if scenario not in counted:
        _killed, counted[scenario] = kill_trial(server, scenario, place, [FOREVER])
        assert counted[scenario] <= OPERATIONS[scenario].changes, "the sweep ends too early"
    return counted[scenario]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_or_repeated_after_a_kill(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """SIGKILL before the n-th write, sync, truncate or delete; then a restart."""
    count = operations(server, scenario, place / "undisturbed")
    killed = 0
    for at in sample(count, 4, SEED):
        killed += kill_trial(server, scenario, place / str(at), [at])[0]
    assert killed >= 3  # the count differs a little from run to run


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_write_torn_by_a_kill_is_no_harm(scenario: str, server: ForkServer, place: Path) -> None:
    """SIGKILL after half of the n-th write."""
    count = operations(server, scenario, place / "undisturbed")
    for at in sample(count, 2, SEED + 1):
        kill_trial(server, scenario, place / str(at), [at], "kill-half")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_or_repeated_after_an_interrupt(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """SIGINT at the n-th operation: an orderly stop, which no run takes for a cancellation."""
    count = operations(server, scenario, place / "undisturbed")
    for at in sample(count, INTERRUPTS.get(scenario, 2), SEED + 3):
        kill_trial(server, scenario, place / str(at), [at], "interrupt")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_recovery_itself_survives_a_kill(scenario: str, server: ForkServer, place: Path) -> None:
    """Kill the first process, then the one that recovers; the third comes through."""
    count = operations(server, scenario, place / "undisturbed")
    pairs = zip(sample(count, 2, SEED + 2), (5, 25), strict=True)
    for first, second in pairs:
        kill_trial(server, scenario, place / str(first), [first, second])
