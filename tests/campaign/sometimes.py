"""T17: marks that say "this really was reached": a fault, a branch of a recovery.

A trial reports a mark among its counts, by `reached`. The last lines of a campaign tell which
marks of the programmes that ran were never reached: then their tests prove less than they
say. How marks are derived is told in `tests.crash.traces`.

How much of the code the suite reaches is measured by `coverage`, in all branches:

    coverage run -m pytest -n0 && coverage combine
    coverage report --include "durable/_replay/*,durable/_journal/*"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.campaign.tally import MARK, Total
from tests.simulation import marks as simulation

_CUTS = (
    "everything written arrived",
    "nothing unsynced arrived",
    "a prefix arrived",
    "all but the last arrived",
    "a random half arrived",
    "a random half arrived torn",
    "the last write is torn",
)
_EVENTS = (
    "run_created", "run_started", "run_completed", "run_failed", "run_cancelled",
    "run_continued", "run_rewound", "cancel_requested", "step_created", "step_retrying",
    "step_completed", "step_failed", "step_cancelled", "step_yielded", "wait_created",
    "wait_completed", "hook_created", "hook_received", "hook_disposed", "hook_conflict",
    "attr_set", "attr_noted",
)  # fmt: skip
_FAILED = (
    "read of app.db", "read of app.db-wal", "write of app.db", "write of app.db-wal",
    "sync of app.db", "sync of app.db-wal", "truncate of app.db-wal", "delete of app.db-wal",
    "lock of app.db",
)  # fmt: skip

_T1, _T2, _T4 = frozenset({"T1"}), frozenset({"T2"}), frozenset({"T4"})
_T2_T3 = frozenset({"T2", "T3"})

# Each mark, and the programmes that ought to reach it.
MARKS: dict[str, frozenset[str]] = {
    **dict.fromkeys(simulation.MARKED.values(), frozenset({"T5"})),
    **{f"cut: {variant}": _T1 for variant in _CUTS},
    "cut while the -wal moves into the database": _T1,
    "cut where the sync of a COMMIT had failed": _T1,
    "cut while an earlier cut is recovered": frozenset({"T1", "T3"}),
    **{f"event {kind}": _T2 for kind in _EVENTS},
    "killed once": _T2,
    "killed twice": _T2,
    "killed four times": _T2,
    "killed twelve times": _T2,
    "an attempt was cut off and made again": _T2_T3,
    "a step had ended, was not on record and ran again": _T2_T3,
    "something acked was asked for again": _T2_T3,
    "something posted was asked for again": _T2_T3,
    "a step was set aside after three deaths, and its run resumed": _T2,
    **{f"failed {what}": _T4 for what in _FAILED},
    "writing was paused and went on by itself": _T4,
    "a process died while writing was paused": _T4,
    "a call was refused because of the disk": _T4,
    "the reserve was released": _T4,
}


def reached(*marks: str) -> Counter[str]:
    """Return the counts of a trial that has reached `marks`.

    Raises:
        KeyError: nobody has declared such a mark.
    """
    return Counter({MARK + mark: 1 for mark in marks if MARKS[mark] is not None})


def reached_by(key: str, marks: Iterable[str]) -> Counter[str]:
    """Return the counts for those of `marks` that the programme `key` ought to reach."""
    return reached(*(mark for mark in marks if key in MARKS.get(mark, ())))


def report(totals: Sequence[Total]) -> list[str]:
    """Return the lines about marks: how many were reached, and which were not."""
    ran = {total.key for total in totals if total.trials}
    wanted = {mark for mark, keys in MARKS.items() if keys & ran}
    if not wanted:
        return []
    hit = {word for total in totals for word in total.counts}
    missing = sorted(mark for mark in wanted if MARK + mark not in hit)
    lines = [f"T17: {len(wanted) - len(missing)} of {len(wanted)} marks were reached"]
    return lines + [f"     never reached: {mark}" for mark in missing]
