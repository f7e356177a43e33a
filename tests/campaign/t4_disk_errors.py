"""T4: an I/O error or a full disk at every operation of every scenario, once and for a while.

The disk works again after a while, and the same process must come through by itself: nothing
acknowledged is lost, no step is failed, repeated or retried because of the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.campaign.programme import Counts, Programme, Trial
from tests.crash.forkserver import ForkServer
from tests.crash.plan import CHANGES, READS, Sweep, operations
from tests.crash.trials import error_trial

FAULTS: dict[str, dict[str, Any]] = {
    "ioerr": {"action": "ioerr"},
    "ioerr-long": {"action": "ioerr", "times": 6},
    "ioerr-read": {"action": "ioerr", "only": ["read"]},
    "full": {"action": "full", "times": 3},
}


def size(kind: str, scenario: str) -> int:
    """Return at how many operations a kind of fault is tried."""
    return operations(scenario, READS if "read" in FAULTS[kind].get("only", ()) else CHANGES)


SWEEP = Sweep(FAULTS, size)


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share a fork server."""
    with ForkServer() as server:

        def trial(seed: int, place: Path) -> Counts:
            chosen = SWEEP.place(seed)
            fault = FAULTS[chosen.kind]
            outcome = error_trial(server, chosen.scenario, place / "journal", chosen.at, fault)
            return Counter(faults=int(outcome.fired > 0))

        yield trial


PROGRAMME = Programme(
    "T4", "I/O errors and a full disk at operation n", open_trials, whole=lambda: SWEEP.whole
)
