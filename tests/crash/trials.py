"""One trial each: a scenario, a fault at one place, and the judgement.

A trial leaves its directory behind when it fails: journal, ledgers, errors of every
process; the message tells how to play it again.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaign.programme import Counts, Trial
from tests.crash import oracle
from tests.crash.faultfs import FOREVER
from tests.crash.forkserver import INTERRUPTED, ForkServer, Outcome, Request
from tests.crash.ledger import Ledger
from tests.crash.oracle import Journal, PromiseBrokenError
from tests.crash.plan import Place, Sweep
from tests.crash.scenarios import SCENARIOS
from tests.crash.smalldisk import SmallDisk
from tests.crash.streaming import check_chunks
from tests.crash.traces import traces

FaultFields = dict[str, Any]  # of a `faultfs.Fault`
GOOD_DISK: FaultFields = {"at": FOREVER, "action": "kill"}


@dataclass(frozen=True)
class Ended:
    """What a trial did.

    Attributes:
        deaths: how many processes died.
        operations: how many operations the last one made.
        fired: how often its fault happened.
        seen: marks of what was really reached; see `traces`.
    """

    deaths: int
    operations: int
    fired: int
    seen: frozenset[str]


def fast_place() -> Path | None:
    """Make a directory on a disk in memory: a killed process loses nothing of it."""
    memory = Path("/dev/shm")
    usable = os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="crash-", dir=memory)) if usable else None


@contextmanager
def trial(place: Path, what: str) -> Iterator[None]:
    """Make the directory of a trial; keep it, and say what was tried, if it fails."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield
    except Exception as error:
        notes = [f"{p.name}:\n{p.read_text()}" for p in sorted(place.glob("[le]*.[0-9]*"))]
        text = "\n".join([f"{what}: {error}", f"kept in {place}", *notes])
        raise PromiseBrokenError(text, getattr(error, "verdict", "broken")) from error
    shutil.rmtree(place)


@contextmanager
def sweeping(sweep: Sweep, do: Callable[[ForkServer, Place, Path, int], Counts]) -> Iterator[Trial]:
    """Yield what does the trial of a seed; all of a sweep share a fork server.

    Args:
        do: does the trial that a place stands for, in a directory, with other draws by a seed.
    """
    with ForkServer() as server:
        yield lambda seed, place: do(server, sweep.place(seed), place / "journal", seed)


def expect_success(outcome: Outcome) -> None:
    """Raise unless the child ended by itself, well."""
    if outcome.code != 0:
        hung = "Timeout" in outcome.errors  # the scenario's own, or that of faulthandler
        raise PromiseBrokenError(
            f"the process ended with {outcome.code}:\n{outcome.errors[-6000:]}",
            "hung" if hung else "broken",
        )


def judge_end(scenario: str, place: Path, phases: int, *, exactly: bool) -> Journal:
    """Judge a journal on which the last of `phases` processes came to its end."""
    return _judge_end(scenario, Journal.read(place), place, phases, exactly=exactly)


def _judge_end(
    scenario: str, journal: Journal, place: Path, phases: int, *, exactly: bool
) -> Journal:
    ledgers = [Ledger.read(place / f"ledger.{phase}") for phase in range(1, phases + 1)]
    plan = SCENARIOS[scenario]
    oracle.check_all_finished(journal)
    oracle.check_results(ledgers[-1], plan.results)
    oracle.check_batches(journal, plan.batch, exactly=exactly)
    oracle.check_outcomes_happened(journal, ledgers)
    oracle.check_attempts(ledgers)
    for ledger in ledgers:
        oracle.check_nothing_acknowledged_is_lost(journal, ledger)
        check_chunks(journal, ledger)
    return journal


def kill_trial(
    server: ForkServer, scenario: str, place: Path, kills: list[int], action: str = "kill"
) -> Ended:
    """Kill one process after the other, each at its operation; then let one come to its end.

    With the action ``interrupt`` they are stopped in an orderly way instead. See `death_trial`.
    """
    faults: list[FaultFields] = [{"at": at, "action": action} for at in kills]
    return death_trial(server, scenario, place, faults)


def death_trial(
    server: ForkServer,
    scenario: str,
    place: Path,
    faults: list[FaultFields],
    *,
    disk: SmallDisk | None = None,
) -> Ended:
    """Let one process after the other die of its fault; then let one come to its end.

    A process that ends before its operation ends the trial.

    Args:
        disk: where the journal lies, if its power is cut by the faults.
    """
    with trial(place, f"{scenario} with {faults}"), _journal_on(disk, place) as lies:
        before, killed = Journal(), 0
        while True:
            fault = [*faults, GOOD_DISK][killed]
            request = Request(
                scenario, str(place), killed + 1, fault, [*before.status], journal=str(lies)
            )
            outcome = server.play(request)
            ledger = Ledger.read(place / f"ledger.{killed + 1}")
            oracle.check_completed_is_not_repeated(before, ledger, SCENARIOS[scenario].retried)
            if outcome.code not in {-signal.SIGKILL, INTERRUPTED}:
                break
            killed += 1
            if disk is not None:
                disk.return_power()
            before = _after_kill(before, Journal.read(lies), ledger)
        expect_success(outcome)
        final = Journal.read(lies)
        _judge_end(scenario, final, place, killed + 1, exactly=not killed)
        oracle.check_is_continued(before, final)
        seen = traces(place, killed + 1, final, outcome)
        return Ended(killed, outcome.operations, outcome.fired, seen)


@contextmanager
def _journal_on(disk: SmallDisk | None, place: Path) -> Iterator[Path]:
    """Return where the journal of a trial lies; what lies elsewhere is kept if it fails."""
    if disk is None:
        yield place
        return
    disk.clear()
    try:
        yield disk.journal
    except Exception:
        shutil.copytree(disk.journal, place / "journal")
        raise


def _after_kill(before: Journal, after: Journal, ledger: Ledger) -> Journal:
    oracle.check_nothing_acknowledged_is_lost(after, ledger)
    check_chunks(after, ledger)
    oracle.check_is_continued(before, after)
    oracle.check_streams_are_continued(before, after)
    return after


def error_trial(server: ForkServer, scenario: str, place: Path, fault: FaultFields) -> Ended:
    """Let the disk fail as `fault` says; the same process must come through."""
    with trial(place, f"{scenario} with {fault}"):
        outcome = server.play(Request(scenario, str(place), 1, fault))
        expect_success(outcome)
        journal = judge_end(scenario, place, 1, exactly=True)
        ledger = Ledger.read(place / "ledger.1")
        oracle.check_only_planned_failures(journal, ledger, SCENARIOS[scenario].failing)
        return Ended(0, outcome.operations, outcome.fired, traces(place, 1, journal, outcome))
