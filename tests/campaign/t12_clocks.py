"""T12: clocks that are set, machines that are suspended, and zones that change their time.

Three kinds of trials take turns: sleeps across the transitions of a time zone, any order of
jumps, suspends and kills on a virtual clock, and now and then a real process whose clocks are
moved by a library under it. See `tests.clocks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, Programme, Trial

REAL_EVERY = 20


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing."""
    from tests.clocks.jumps import jump_trial
    from tests.clocks.moved import moved_trial
    from tests.clocks.zones import zone_trial

    def trial(seed: int, place: Path) -> Counts:
        if seed % REAL_EVERY == 0:
            return moved_trial(seed // REAL_EVERY, place)
        return (zone_trial if seed % 2 else jump_trial)(seed // 2, place)

    yield trial


def lacking() -> str | None:
    """Tell what the real processes lack here."""
    from tests.clocks.fakes import lacking

    return lacking()


PROGRAMME = Programme("T12", "clocks: jumps, suspends, time zones", open_trials, 120.0, lacking)
