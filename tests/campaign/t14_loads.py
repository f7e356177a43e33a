"""T14: 100,000 suspended runs, as many finished ones, 10,000 steps, 16 MB, 10,000 payloads.

A trial is one of them, in its full size and in a process of its own; it prints its figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.campaign.programme import Programme, Trial

KINDS = 5


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing."""
    from tests.load.limits import full_trial

    yield full_trial


PROGRAMME = Programme(
    "T14", "load limits, in full size", open_trials, limit_seconds=1800.0, whole=lambda: KINDS
)
