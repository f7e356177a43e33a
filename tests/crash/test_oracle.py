"""The oracle of the crash tests accuses: each broken promise, made by hand, is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.crash import oracle
from tests.crash.ledger import Ledger
from tests.crash.oracle import Journal, PromiseBrokenError, Row

CREATED, STARTED, COMPLETED = 1, 2, 3
STEP, STEP_DONE, STEP_RETRIED = 10, 12, 11


def history(*kinds: tuple[int, int]) -> list[Row]:
    """Return rows of (kind, ref), numbered from 1; every step is called ``crash.a``."""
    return [Row(seq, kind, ref, "crash.a", None) for seq, (kind, ref) in enumerate(kinds, 1)]


def journal(*kinds: tuple[int, int], status: str = "running") -> Journal:
    """Return a journal with the one run ``r``."""
    return Journal({"r": status}, {"r": "flow"}, {"r": history(*kinds)})


def ledger(*facts: list[object]) -> Ledger:
    """Return a ledger with these facts."""
    return Ledger.from_lines([json.dumps([str(value) for value in fact]) for fact in facts])


BEGUN = ["begin", "r", "crash.a", 1, "key"]
ENDED = ["end", "r", "crash.a", 1, "key"]
GOING = journal((CREATED, 0), (STARTED, 0), (STEP, 0))
DONE = journal((CREATED, 0), (STARTED, 0), (STEP, 0), (STEP_DONE, 3))
RETRIED = journal((CREATED, 0), (STARTED, 0), (STEP, 0), (STEP_RETRIED, 3))

BROKEN: dict[str, Callable[[], object]] = {
    "a gap": Journal({"r": "running"}, {}, {"r": [Row(2, STEP, 0, "crash.a", None)]}).check,
    "two outcomes": journal((STEP, 0), (STEP_DONE, 1), (STEP_DONE, 1)).check,
    "two ends": journal((COMPLETED, 0), (COMPLETED, 0), status="completed").check,
    "life after the end": journal((COMPLETED, 0), (STEP, 0), status="completed").check,
    "status without end": journal((CREATED, 0), status="completed").check,
    "end without status": journal((COMPLETED, 0)).check,
    "a lost start": lambda: oracle.check_nothing_acknowledged_is_lost(
        Journal(), ledger(["acked", "r"])
    ),
    "a lost result": lambda: oracle.check_nothing_acknowledged_is_lost(
        GOING, ledger(["result", "r", "completed", 1])
    ),
    "a lost payload": lambda: oracle.check_nothing_acknowledged_is_lost(
        GOING, ledger(["posted", "r", "k"])
    ),
    "a payload twice": Journal(
        {"r": "running"}, {}, {"r": [Row(n, 31, 0, "in\nk", None) for n in (1, 2)]}
    ).check,
    "a step before its record": lambda: oracle.check_nothing_acknowledged_is_lost(
        journal((CREATED, 0)), ledger(BEGUN)
    ),
    "lost attributes": lambda: oracle.check_nothing_acknowledged_is_lost(
        GOING, ledger(["tagged", "r", "key", "value"])
    ),
    "a rewritten history": lambda: oracle.check_is_continued(RETRIED, DONE),
    "a shortened history": lambda: oracle.check_is_continued(DONE, GOING),
    "a repeated step": lambda: oracle.check_completed_is_not_repeated(DONE, ledger(BEGUN)),
    "a changed key": lambda: oracle.check_attempts(
        [ledger(BEGUN), ledger(["begin", "r", "crash.a", 2, "another"])]
    ),
    "a shared key": lambda: oracle.check_attempts([ledger(BEGUN, ["begin", "r", "b", 1, "key"])]),
    "a repeated attempt": lambda: oracle.check_attempts([ledger(BEGUN), ledger(BEGUN)]),
    "an invented outcome": lambda: oracle.check_outcomes_happened(DONE, [ledger(BEGUN)]),
    "a run left behind": lambda: oracle.check_all_finished(GOING),
    "a wrong result": lambda: oracle.check_results(
        ledger(["result", "r", "completed", 1]), {"r": ("completed", "2")}
    ),
    "a missing run": lambda: oracle.check_batches(GOING, {"flow": 2}, exactly=False),
    "a run too many": lambda: oracle.check_batches(GOING, {"flow": 0}, exactly=True),
    "a blamed step": lambda: oracle.check_only_planned_failures(
        RETRIED, ledger(BEGUN), frozenset()
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_oracle_notices(what: str) -> None:
    """Each kind of damage raises."""
    with pytest.raises(PromiseBrokenError):
        BROKEN[what]()


def test_the_oracle_accepts_an_honest_crash() -> None:
    """A step interrupted before its outcome may run again, under the next number."""
    first, second = (
        ledger(["acked", "r"], BEGUN),
        ledger(["begin", "r", "crash.a", 2, "key"], ENDED),
    )
    GOING.check()
    oracle.check_nothing_acknowledged_is_lost(GOING, first)
    oracle.check_completed_is_not_repeated(GOING, second)
    oracle.check_attempts([first, second])
    oracle.check_is_continued(GOING, DONE)
    oracle.check_outcomes_happened(DONE, [first, second])
