"""T16: tests of the tests. A seed is a planted bug, which has to turn its tests red."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, FoundError, Programme, Trial
from tests.sabotage.bugs import BUGS
from tests.sabotage.workshop import SECONDS_MAX, plant, run_tests

_FAILED = 1  # pytest's exit code


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing."""
    yield trial


def trial(seed: int, place: Path) -> Counts:
    """Plant one bug."""
    bug = BUGS[seed % len(BUGS)]
    plant(bug, place)
    outcome = run_tests(place, bug.tests)
    if outcome.returncode != _FAILED:
        raise FoundError("broken", f"not noticed: {bug.name}\n{outcome.stdout}{outcome.stderr}")
    return Counter(bugs=1)


PROGRAMME = Programme(
    "T16", "planted bugs, which must be noticed", open_trials, SECONDS_MAX + 30.0,
    whole=lambda: len(BUGS),
)  # fmt: skip
