"""A process killed at any operation of its journal loses nothing and repeats nothing.

The suite kills at a seeded sample of the operations; `python -m tests.campaign T2` kills
at every one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.t2_kills import KINDS
from tests.crash.faultfs import FOREVER
from tests.crash.forkserver import ForkServer
from tests.crash.plan import OPERATIONS, Place, sample
from tests.crash.scenarios import SCENARIOS
from tests.crash.trials import death_trial, kill_trial

pytestmark = pytest.mark.slow
SEED = 1
INTERRUPTS = {"family": 8, "spawner": 6}  # starts that come while stopping


counted: dict[str, int] = {}


def operations(server: ForkServer, scenario: str, place: Path) -> int:
    """Count the operations of a scenario that nobody disturbs."""
    if scenario not in counted:
        ended = kill_trial(server, scenario, place, [FOREVER])
        counted[scenario] = ended.operations
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
        killed += kill_trial(server, scenario, place / str(at), [at]).deaths
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


def test_a_step_that_is_taken_for_a_killer_is_set_aside_and_goes_on_when_asked(
    server: ForkServer, place: Path
) -> None:
    """Four deaths at its beginning; nothing is lost, and its run is resumed by hand."""
    seen: set[str] = set()
    for seed in (1241,):
        chosen = Place("kill four times at facts", "sequential", 6, 0)
        faults = KINDS[chosen.kind].faults(chosen, seed)
        seen |= death_trial(server, chosen.scenario, place / str(seed), faults).seen
    assert "a step was set aside after three deaths, and its run resumed" in seen


@pytest.mark.parametrize("kind", ["kill twelve times", "kill twelve times at facts"])
def test_a_process_that_dies_a_dozen_times_comes_to_its_end(
    kind: str, server: ForkServer, place: Path
) -> None:
    """One dies after the other, most of them while they recover; then one is let live."""
    chosen = Place(kind, "sequential", 12, 0)
    ended = death_trial(server, chosen.scenario, place / "loop", KINDS[kind].faults(chosen, SEED))
    assert ended.deaths == 12
