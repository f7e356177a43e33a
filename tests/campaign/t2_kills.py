"""T2: SIGKILL at every operation of every scenario, and again while it recovers.

Also after half of a write, and SIGINT instead, which is an orderly stop. Where the recovery
is killed, too, the first kill sweeps through everything, the second is drawn by the seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, Programme, Trial
from tests.crash.forkserver import ForkServer
from tests.crash.plan import OPERATIONS, Place, Sweep, strides
from tests.crash.trials import kill_trial

KINDS = ("kill", "kill-half", "kill-twice", "interrupt")
RECOVERY = 60  # operations within which a recovery has begun to work

SWEEP = Sweep(KINDS, lambda _kind, scenario: strides(scenario, OPERATIONS[scenario].changes))


def kills(place: Place, seed: int) -> list[int]:
    """Return at which operation each process is killed."""
    if place.kind != "kill-twice":
        return [place.at]
    draw = random.Random(seed)
    last = draw.choice([RECOVERY, OPERATIONS[place.scenario].changes])
    return [place.at, draw.randint(1, last)]


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share a fork server."""
    with ForkServer() as server:

        def trial(seed: int, place: Path) -> Counts:
            chosen = SWEEP.place(seed)
            action = "kill" if chosen.kind == "kill-twice" else chosen.kind
            killed, _ = kill_trial(
                server, chosen.scenario, place / "journal", kills(chosen, seed), action
            )
            return Counter({"interrupts" if action == "interrupt" else "kills": killed})

        yield trial


PROGRAMME = Programme(
    "T2",
    "kill -9 at operation n, and again in the recovery",
    open_trials,
    whole=lambda: SWEEP.whole,
)
