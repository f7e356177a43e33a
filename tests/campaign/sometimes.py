"""T17: marks that say "this really was reached": a fault, a branch of a recovery.

A trial reports a mark among its counts, by `reached`. The last lines of a campaign tell which
marks of the programmes that ran were never reached: then their tests prove less than they say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.campaign.tally import MARK, Total
from tests.simulation import marks as simulation

# Each mark, and the programmes that ought to reach it.
MARKS: dict[str, frozenset[str]] = {
    **dict.fromkeys(simulation.MARKED.values(), frozenset({"T5"})),
}


def reached(*marks: str) -> Counter[str]:
    """Return the counts of a trial that has reached `marks`.

    Raises:
        KeyError: nobody has declared such a mark.
    """
    return Counter({MARK + mark: 1 for mark in marks if MARKS[mark] is not None})


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
