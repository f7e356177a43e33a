"""T4: an I/O error, a full disk, a held lock at every operation of every scenario.

Once, after half of the work, and for a while: then the disk works again, and the same process
must come through by itself, with nothing acknowledged lost and no step failed, repeated or
retried because of the disk. Or the process is killed while the disk still fails, and the next
one finds a good disk: then what holds after a kill must hold.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tests.campaign.programme import Counts, Programme
from tests.campaign.sometimes import reached_by
from tests.crash.faultfs import Action
from tests.crash.forkserver import ForkServer
from tests.crash.plan import OPERATIONS, Place, Sweep, strides
from tests.crash.trials import FaultFields, death_trial, error_trial, sweeping

LONGEST_BEFORE_A_KILL = 8


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        on: which operations are counted and fail.
        times: how many fail; see `Fault`.
        kills: the process is killed at one of them, drawn by the seed.
        every: try it only at every so many operations, because it takes long.
    """

    action: Action = "ioerr"
    on: Literal["changes", "reads", "locks"] = "changes"
    times: int = 1
    keep: float = 0.0
    kills: bool = False
    every: int = 1

    def fault(self, at: int) -> FaultFields:
        """Return the fields of the fault that comes at operation `at`."""
        fields = {"at": at, "action": self.action, "times": self.times, "keep": self.keep}
        only = {"reads": ["read"], "locks": ["lock"]}
        return fields | ({"only": only[self.on]} if self.on in only else {})

    def size(self, scenario: str) -> int:
        """Return how many trials it has on a scenario."""
        return strides(scenario, getattr(OPERATIONS[scenario], self.on)) // self.every


KINDS = {
    "error": Kind(),
    "error after half": Kind(keep=0.5),
    "errors": Kind(times=6),
    "errors until killed": Kind(times=LONGEST_BEFORE_A_KILL, kills=True),
    "read error": Kind(on="reads"),
    "read error after half": Kind(on="reads", keep=0.5),
    "read errors": Kind(on="reads", times=6),
    "full": Kind("full", times=3),
    "full for long": Kind("full", times=12),
    "full until killed": Kind("full", times=LONGEST_BEFORE_A_KILL, kills=True),
    "lock held": Kind(on="locks"),
    "lock held for a while": Kind(on="locks", times=12),
    "lock held past the time limit": Kind(on="locks", times=70, every=20),
}
SWEEP = Sweep(KINDS, lambda kind, scenario: KINDS[kind].size(scenario))


def disk_error(server: ForkServer, chosen: Place, place: Path, seed: int) -> Counts:
    """Do the trial that `chosen` stands for."""
    kind = KINDS[chosen.kind]
    fault = kind.fault(1 + (chosen.at - 1) * kind.every)
    if kind.kills:
        fault |= {"kill_then": True, "times": random.Random(seed).randint(1, kind.times)}
        ended = death_trial(server, chosen.scenario, place, [fault])
        counts = Counter(faults=ended.deaths, kills=ended.deaths)
    else:
        ended = error_trial(server, chosen.scenario, place, fault)
        counts = Counter(faults=int(ended.fired > 0))
    return counts + reached_by("T4", ended.seen)


PROGRAMME = Programme(
    "T4",
    "I/O errors, a full disk and held locks at operation n",
    partial(sweeping, SWEEP, disk_error),
    whole=lambda: SWEEP.whole,
)
