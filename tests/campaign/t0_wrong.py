"""T0: a programme that does everything wrong, for the tests of the campaign itself.

Seeds that end with 1 lose something, with 2 raise, with 3 hang, with 4 die; all others are
well. Every seed leaves a file in its directory.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, FoundError, Programme, Trial


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing."""
    yield trial


def trial(seed: int, place: Path) -> Counts:
    """Do what the last digit of `seed` says."""
    (place / "seed").write_text(str(seed))
    print("what a trial prints is no answer")
    if seed % 10 == 1:
        raise FoundError("lost", f"seed {seed} is lost")
    if seed % 10 == 2:
        raise ZeroDivisionError(f"seed {seed} raises")
    if seed % 10 == 3:
        time.sleep(60)  # sleeps: until it is killed
    if seed % 10 == 4:
        os._exit(9)
    return Counter(seeds=1)


PROGRAMME = Programme("T0", "does everything wrong", open_trials, 1.0, whole=lambda: 10)
