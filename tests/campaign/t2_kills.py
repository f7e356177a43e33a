"""T2: SIGKILL at every operation of every scenario, and again while it recovers.

Also after half of a write, and at every fact: just when the program has been told something,
or a step has begun or ended; and SIGINT instead, which is an orderly stop. Where recoveries
are killed, too, the first kill sweeps through everything, the others are drawn by the seed:
up to a dozen processes die one after the other, most of them while they recover. After three
deaths steps may be set aside; then their runs are resumed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.campaign.programme import Counts, Programme
from tests.campaign.sometimes import reached_by
from tests.crash.faultfs import Action
from tests.crash.forkserver import ForkServer
from tests.crash.plan import OPERATIONS, Place, Sweep, strides
from tests.crash.trials import FaultFields, death_trial, sweeping

RECOVERY = 60  # operations within which a recovery has begun to work
OPENING = 30  # operations within which a journal was opened and something has begun
SOON = 4  # facts after which attempts that were cut off have begun again
LOOP = 12  # processes that die before one comes to its end


@dataclass(frozen=True)
class Kind:
    """One way to die.

    Attributes:
        at_facts: dies at facts instead of operations.
        deaths: how many processes die, one after the other.
        within: operations within which most processes after the first one die.
        anywhere: of how many of them one may die at any operation.
        draws: how often each place is tried in a sweep, each time with other later deaths.
    """

    action: Action = "kill"
    at_facts: bool = False
    deaths: int = 1
    within: int = RECOVERY
    anywhere: int = 2
    draws: int = 1

    def size(self, scenario: str) -> int:
        """Return how many trials it has on a scenario."""
        sizes = OPERATIONS[scenario]
        places = sizes.facts if self.at_facts else strides(scenario, sizes.changes)
        return places * self.draws

    def faults(self, chosen: Place, seed: int) -> list[FaultFields]:
        """Return what each process dies of."""
        draw, chosen = random.Random(seed), chosen._replace(number=chosen.number // self.draws)
        places = [1 + chosen.number if self.at_facts else chosen.at]
        limits = [self.within] * (self.anywhere - 1) + [OPERATIONS[chosen.scenario].changes]
        while len(places) < self.deaths:
            last = SOON if self.at_facts else draw.choice(limits)
            places.append(draw.randint(1, last))
        only = {"only": ["mark"]} if self.at_facts else {}
        return [{"at": at, "action": self.action, **only} for at in places]


KINDS = {
    "kill": Kind(),
    "kill after half a write": Kind("kill-half"),
    "kill at a fact": Kind(at_facts=True),
    "interrupt": Kind("interrupt"),
    "interrupt at a fact": Kind("interrupt", at_facts=True),
    "kill twice": Kind(deaths=2),
    "kill twice at facts": Kind(at_facts=True, deaths=2),
    "kill four times": Kind(deaths=4),
    "kill four times at facts": Kind(at_facts=True, deaths=4),
    "kill twelve times": Kind(deaths=LOOP, within=OPENING, anywhere=LOOP, draws=4),
    "kill twelve times at facts": Kind(at_facts=True, deaths=LOOP, draws=4),
}
SWEEP = Sweep(KINDS, lambda kind, scenario: KINDS[kind].size(scenario))


def kill(server: ForkServer, chosen: Place, place: Path, seed: int) -> Counts:
    """Do the trial that `chosen` stands for."""
    kind = KINDS[chosen.kind]
    ended = death_trial(server, chosen.scenario, place, kind.faults(chosen, seed))
    what = "interrupts" if kind.action == "interrupt" else "kills"
    times = {1: "once", 2: "twice", 4: "four times", LOOP: "twelve times"}
    marks = [*ended.seen, f"killed {times.get(ended.deaths, ended.deaths)}"]
    return Counter({what: ended.deaths}) + reached_by("T2", marks)


PROGRAMME = Programme(
    "T2",
    "kill -9 at operation n, and again in the recovery",
    partial(sweeping, SWEEP, kill),
    whole=lambda: SWEEP.whole,
)
