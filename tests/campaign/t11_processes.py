"""T11: two or three processes on one journal, killed, stopped, ended, forked, in any order.

See `tests.matrix.matrix`. The processes are forked from the worker, which has no threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.campaign.programme import Programme, Trial


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Load all that the processes need, once."""
    from tests.matrix.matrix import matrix_trial

    yield matrix_trial


PROGRAMME = Programme("T11", "processes: kills, stops, signals, forks", open_trials, 200.0)
