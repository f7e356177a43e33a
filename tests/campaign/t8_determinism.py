"""T8: generated workflows, written by one process and replayed by others that differ.

A trial draws who writes and who replays: the Python, the hash seed, the event loop, the debug
mode. Each trial has workflows of its own.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, FoundError, Programme, Trial
from tests.determinism.matrix import Cell, CellError, loops, other_pythons

WORKFLOWS, READERS = 200, 3


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Find the Pythons once."""
    pythons = [sys.executable, *other_pythons().values()]
    yield lambda seed, place: trial(seed, place, pythons)


def trial(seed: int, place: Path, pythons: list[str]) -> Counts:
    """Write histories, and replay them."""
    chance = random.Random(seed)
    seeds, file = range(seed * WORKFLOWS, (seed + 1) * WORKFLOWS), place / "histories"
    try:
        [written] = _drawn(chance, pythons).run(seeds, "write", file)
        for _ in range(READERS):
            reader = _drawn(chance, pythons)
            [told] = reader.run(seeds, "replay", file)
            if told != written:
                raise FoundError("broken", f"{reader} has read other histories")
    except CellError as error:
        raise FoundError("broken", str(error)) from error
    return Counter(workflows=WORKFLOWS, replays=WORKFLOWS * READERS)


def _drawn(chance: random.Random, pythons: list[str]) -> Cell:
    python = chance.choice(pythons)
    loop = chance.choice(loops() if python == sys.executable else ["asyncio"])
    return Cell(chance.randrange(2**32), loop, chance.random() < 0.5, python)


PROGRAMME = Programme("T8", "histories replayed by processes that differ", open_trials, 600.0)
