"""T10: inputs that nobody meant, at every door: see `tests.fuzz`.

A trial makes a few dozen to a few hundred inputs for one target. An input that is answered
with anything but what is documented, too slowly, or with too much memory ends the trial.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.campaign.programme import Programme, Trial


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing; what is fuzzed is loaded once."""
    from tests.fuzz.targets import trial

    yield trial


PROGRAMME = Programme("T10", "fuzzing of every way in", open_trials, 120.0)
