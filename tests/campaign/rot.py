"""ROT: one bit of a journal flips, or its -wal is cut off; no run is told anything else by it.

The seed says which bit of which journal: a small one, a large one, or one that a crash has
left with all that matters in its -wal. See tests/health/rot.py for what is held against what.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, Programme, Trial
from tests.health.rot import Template, cuts_of, flip_of, make_template
from tests.health.rot import trial as flip_trial

KINDS = ("small", "crashed", "large")
CUTS_EVERY = 10  # of the trials with a -wal, one cuts it off instead


@contextmanager
def open_trials(kinds: Sequence[str] = KINDS) -> Iterator[Trial]:
    """Make the journals once."""
    with tempfile.TemporaryDirectory() as name:
        made = {kind: asyncio.run(make_template(Path(name, kind), kind)) for kind in kinds}

        def trial(seed: int, place: Path) -> Counts:
            template = made[kinds[seed % len(kinds)]]
            return asyncio.run(flip_trial(template, place / "journal", damage(template, seed)))

        yield trial


def damage(template: Template, seed: int) -> Callable[[Path], str]:
    """Return what the seed does to a journal."""
    draw = random.Random(seed)
    if "-wal" in template.files and draw.randrange(CUTS_EVERY) == 0:
        return draw.choice(list(cuts_of(template)))
    return flip_of(template, draw)


PROGRAMME = Programme("ROT", "one bit flips, anywhere in a journal", open_trials)
