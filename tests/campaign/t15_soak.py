"""T15: a simulated year of an application whose process is killed again and again.

A trial is one year; it tells how many simulated days it has covered. See `tests.soak`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.campaign.programme import Programme, Trial


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing."""
    from tests.soak.soak import soak_trial

    yield soak_trial


PROGRAMME = Programme("T15", "soak: simulated years with kills", open_trials, 3600.0)
