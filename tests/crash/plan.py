"""Which trial a seed stands for, so that seeds in a row sweep through everything there is.

A sweep has one trial for each kind of trouble, each scenario and each operation at which it
can come. As many seeds in a row as it has trials, from whatever seed on, hold each of them
once; neighbours lie far apart, so that a short piece is a fair sample. Later rounds try
what the first could not: the stretches of long scenarios, and other second faults.

How many operations a scenario makes varies a little with timing; `OPERATIONS` holds what is
not exceeded, and the suite checks that. A trial beyond the last operation is an undisturbed
run.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tests.crash.scenarios import SCENARIOS


class Sizes(NamedTuple):
    """How many operations a scenario makes at most, by what `faultfs` can number."""

    changes: int  # writes, syncs, truncates and deletes
    reads: int
    locks: int
    facts: int  # lines of the ledger


OPERATIONS = {
    "sequential": Sizes(230, 70, 110, 29),
    "fan": Sizes(290, 70, 120, 47),
    "sleeper": Sizes(210, 80, 90, 11),
    "family": Sizes(350, 70, 140, 47),
    "cancel": Sizes(190, 70, 90, 14),
    "failing": Sizes(260, 80, 120, 27),
    "threaded": Sizes(200, 70, 90, 18),
    "race": Sizes(240, 70, 90, 15),
    "spawner": Sizes(270, 60, 100, 18),
    "tagging": Sizes(300, 70, 120, 52),
    "streaming": Sizes(230, 90, 160, 15),
    "bulky": Sizes(4730, 2530, 110, 73),
    "hooks": Sizes(300, 80, 120, 19),
    "retry": Sizes(210, 80, 100, 19),
    "pause": Sizes(310, 100, 140, 13),
    "chain": Sizes(340, 70, 120, 19),
    "gatherer": Sizes(290, 80, 120, 11),
    "fork": Sizes(250, 80, 120, 24),
}


class Place(NamedTuple):
    """One trial of a sweep.

    Attributes:
        number: from 0, within the kind and the scenario.
        round: how often the sweep has been completed before.
    """

    kind: str
    scenario: str
    number: int
    round: int

    @property
    def at(self) -> int:
        """The operation; long scenarios are done in strides, another stretch in each round."""
        stride = SCENARIOS[self.scenario].stride
        return 1 + self.number * stride + self.round % stride


class Sweep:
    """All trials of some kinds.

    Args:
        kinds: names of what is tried on each scenario.
        size: how many trials a kind has on a scenario.
    """

    def __init__(self, kinds: Iterable[str], size: Callable[[str, str], int]) -> None:
        self._pairs = [*itertools.product(kinds, SCENARIOS)]
        self._ends = [*itertools.accumulate(size(*pair) for pair in self._pairs)]
        self.whole = self._ends[-1]
        step = int(self.whole * 0.618)
        while math.gcd(step, self.whole) != 1:
            step += 1
        self._step = step

    def place(self, seed: int) -> Place:
        """Return the trial that `seed` stands for."""
        number = seed * self._step % self.whole
        part = bisect.bisect_right(self._ends, number)
        before = self._ends[part - 1] if part else 0
        return Place(*self._pairs[part], number - before, seed // self.whole)


def strides(scenario: str, count: int) -> int:
    """Return how many trials try each of `count` operations, or one of each stretch."""
    return math.ceil(count / SCENARIOS[scenario].stride)


def sample(count: int, wanted: int, seed: int) -> list[int]:
    """Return `wanted` of the numbers 1 .. `count`, one from each stretch, chosen by `seed`."""
    draw = random.Random(seed)
    edges = [1 + count * part // wanted for part in range(wanted + 1)]
    return [draw.randrange(low, max(high, low + 1)) for low, high in itertools.pairwise(edges)]
