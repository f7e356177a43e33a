"""T6: every state of the journal's protocol, within wider and wider limits.

A seed is a combination of limits: how many crashes, power losses, errors, payloads, requests
and timeouts there may be. All combinations together are one sweep, the small ones first.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, FoundError, Programme, Trial
from tests.model.checker import search
from tests.model.protocol import SHIPPED, Limits, Policy

EACH_MAX, ALL_MAX = 3, 8
LIMITS = sorted(
    (Limits(*each) for each in itertools.product(range(EACH_MAX + 1), repeat=6)
     if sum(each) <= ALL_MAX),
    key=sum,
)  # fmt: skip


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing."""
    yield trial


def trial(seed: int, place: Path) -> Counts:
    """Visit all states within the limits of this seed."""
    limits = LIMITS[seed % len(LIMITS)]
    policy = SHIPPED if limits.power_losses else Policy(sync="normal")
    found = search(policy, limits)
    if found.finding is not None:
        raise FoundError("broken", f"{limits}: {found.finding.broken}\n{found.finding.story}")
    return Counter(states=found.states)


PROGRAMME = Programme(
    "T6", "every state of the protocol, a model", open_trials, 900.0, whole=lambda: len(LIMITS)
)
