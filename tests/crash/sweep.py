"""The full sweeps: every operation of every scenario, which takes minutes.

    python -m tests.crash.sweep                       # everything
    python -m tests.crash.sweep kill fan cancel       # one kind, some scenarios
    python -m tests.crash.sweep ioerr --every 3       # every third operation

Kinds: ``kill``, ``kill-half``, ``kill-twice`` (the recovery is killed, too), ``interrupt``
(stopped in an orderly way by SIGINT), ``ioerr`` (once),
``ioerr-long`` (six in a row), ``ioerr-read``, ``full`` and ``power``. Exit code 1, and the
directories of the failed trials, when a promise was broken.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.crash import trials
from tests.crash.faultfs import FOREVER
from tests.crash.forkserver import ForkServer
from tests.crash.oracle import PromiseBrokenError
from tests.crash.scenarios import SCENARIOS

KILLS = {
    "kill": "kill",
    "kill-half": "kill-half",
    "kill-twice": "kill",
    "interrupt": "interrupt",
}
ERRORS: dict[str, dict[str, Any]] = {
    "ioerr": {"action": "ioerr"},
    "ioerr-long": {"action": "ioerr", "times": 6},
    "ioerr-read": {"action": "ioerr", "only": ["read"]},
    "full": {"action": "full", "times": 3},
}
KINDS = (*KILLS, *ERRORS, "power")
GIVE_UP = 20  # broken promises


def sample(count: int, wanted: int, seed: int) -> list[int]:
    """Return `wanted` of the numbers 1 .. `count`, one from each stretch, chosen by `seed`."""
    draw = random.Random(seed)
    edges = [1 + count * part // wanted for part in range(wanted + 1)]
    return [draw.randrange(low, max(high, low + 1)) for low, high in itertools.pairwise(edges)]


class Sweep:
    """Counts what was tried, and what broke a promise."""

    def __init__(self, server: ForkServer, place: Path, every: int) -> None:
        self._server = server
        self._place = place
        self._every = every
        self.tried = 0
        self.broken: list[str] = []

    def run(self, kind: str, scenario: str) -> None:
        """Do one kind of trial on a scenario until its operations are used up."""
        place = self._place / f"{kind}-{scenario}"
        if kind == "power":
            self._power(scenario, place)
            return
        for at in range(1, FOREVER, self._every * SCENARIOS[scenario].stride):
            if not self._one(kind, scenario, place / str(at), at):
                return

    def _one(self, kind: str, scenario: str, place: Path, at: int) -> bool:
        """Do one trial; return whether the scenario had an operation `at`."""
        self.tried += 1
        try:
            if kind in KILLS:
                kills = [at, 1 + at * 7 % 40] if kind == "kill-twice" else [at]
                result = trials.kill_trial(self._server, scenario, place, kills, KILLS[kind])
                return result[0] > 0
            outcome = trials.error_trial(self._server, scenario, place, at, ERRORS[kind])
            return outcome.operations >= at
        except PromiseBrokenError as error:
            self._report(error)
            return len(self.broken) < GIVE_UP

    def _power(self, scenario: str, place: Path) -> None:
        share = 1 / (self._every * SCENARIOS[scenario].stride)
        try:
            self.tried += trials.power_cut_trials(
                self._server, scenario, place, seed=1, share=share, resume_share=0.1
            )
        except PromiseBrokenError as error:
            self._report(error)

    def _report(self, error: PromiseBrokenError) -> None:
        self.broken.append(str(error).splitlines()[0])
        print(f"\n{error}", flush=True)


def main() -> int:
    """Run the sweeps asked for on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.sweep", description=__doc__)
    parser.add_argument("what", nargs="*", help="kinds and scenarios; default all")
    parser.add_argument("--every", type=int, default=1, help="take every k-th operation")
    asked = parser.parse_args()
    kinds = [kind for kind in KINDS if kind in asked.what] or list(KINDS)
    names = [name for name in SCENARIOS if name in asked.what] or list(SCENARIOS)
    if unknown := set(asked.what) - set(KINDS) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join([*KINDS, *SCENARIOS])}")
    with ForkServer() as server:
        sweep = Sweep(
            server, trials.fast_place() or Path(tempfile.mkdtemp(prefix="crash-")), asked.every
        )
        for kind, name in itertools.product(kinds, names):
            before, began = sweep.tried, time.monotonic()
            sweep.run(kind, name)
            tried, seconds = sweep.tried - before, time.monotonic() - began
            print(f"{kind:12}{name:12}{tried:6} trials {seconds:8.1f} s", flush=True)
    print(f"{sweep.tried} trials, {len(sweep.broken)} broken promises", *sweep.broken, sep="\n  ")
    return 1 if sweep.broken else 0


if __name__ == "__main__":
    sys.exit(main())
