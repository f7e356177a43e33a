"""T13: real threads on one runtime, with the interpreter switching all the time.

A trial is a crowd of threads: see `tests.stress.threads`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.campaign.programme import Programme, Trial


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing."""
    from tests.stress.threads import thread_trial

    yield thread_trial


PROGRAMME = Programme("T13", "threads: users, readers and clients at once", open_trials, 180.0)
