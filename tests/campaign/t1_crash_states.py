"""T1: every state that a power cut may leave behind, at every moment of every scenario.

A trial records one scenario anew and judges a share of its states: unsynced writes kept,
lost, reordered and torn at sectors, in each file for itself. The shares are the sweep (of
long scenarios another stretch in each round); the order and the tears are drawn by the seed.
Other trials cut the power after syncs that have failed, or while an earlier cut is recovered.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, Programme, Trial
from tests.campaign.sometimes import reached_by
from tests.crash.forkserver import ForkServer
from tests.crash.plan import OPERATIONS, Place, Sweep
from tests.crash.powercuts import PowerCuts
from tests.crash.scenarios import SCENARIOS

SHARES = 10
RESUMED = 0.02
SYNCS, MOST_FAILED_SYNCS = 20, 6  # what is left of a scenario makes about so many
TRIALS = {"cut": SHARES, "cut after failed syncs": SHARES, "cut in the recovery": SHARES}
SWEEP = Sweep(TRIALS, lambda kind, _scenario: TRIALS[kind])


def cut(server: ForkServer, chosen: Place, place: Path, seed: int) -> Counts:
    """Do the trial that `chosen` stands for."""
    cuts = PowerCuts(server, chosen.scenario, place, seed=seed, resume_share=RESUMED)
    parts = SHARES * SCENARIOS[chosen.scenario].stride
    if chosen.kind == "cut":
        cuts.anywhere(chosen.at - 1, parts)
    elif chosen.kind == "cut in the recovery":
        cuts.in_recovery(chosen.at - 1, parts)
    else:
        draw = random.Random(seed)
        stop = draw.randint(1, OPERATIONS[chosen.scenario].changes * 3 // 4)
        at = int(SYNCS ** draw.random())  # rather early: the second process may have little to do
        times = draw.randint(1, MOST_FAILED_SYNCS)
        cuts.after_failed_syncs(stop, at, times, parts)
    counts = Counter(states=cuts.judged, recoveries=cuts.resumed)
    return counts + reached_by("T1", cuts.seen)


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share a fork server."""
    with ForkServer() as server:
        yield lambda seed, place: cut(server, SWEEP.place(seed), place, seed)


PROGRAMME = Programme(
    "T1",
    "crash states: unsynced writes kept, lost, reordered, torn",
    open_trials,
    whole=lambda: SWEEP.whole,
)
