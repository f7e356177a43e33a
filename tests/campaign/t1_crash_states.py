"""T1: every state that a power cut may leave behind, at every moment of every scenario.

A trial records one scenario anew and judges a share of its states: unsynced writes kept,
lost, reordered and torn at sectors, in each file for itself. The shares are the sweep (of
long scenarios another stretch in each round); the order and the tears are drawn by the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, Programme, Trial
from tests.crash.forkserver import ForkServer
from tests.crash.plan import Sweep
from tests.crash.powercuts import power_cut_trials
from tests.crash.scenarios import SCENARIOS

SHARES = 10
RESUMED = 0.02


SWEEP = Sweep(["states"], lambda _kind, _scenario: SHARES)


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share a fork server."""
    with ForkServer() as server:

        def trial(seed: int, place: Path) -> Counts:
            chosen = SWEEP.place(seed)
            parts = SHARES * SCENARIOS[chosen.scenario].stride
            judged, resumed = power_cut_trials(
                server, chosen.scenario, place,
                seed=seed, part=chosen.at - 1, parts=parts, resume_share=RESUMED,
            )  # fmt: skip
            return Counter(states=judged, recoveries=resumed)

        yield trial


PROGRAMME = Programme(
    "T1",
    "crash states: unsynced writes kept, lost, reordered, torn",
    open_trials,
    whole=lambda: SWEEP.whole,
)
