"""The table as Markdown, to be kept: what was reached, and what others reach.

Owns the wording and the order of columns. Every figure that has a limit is in the first
table, met or not; every workload that a peer does too is in the second one, whoever is
faster. Times are medians or means, as the figure's statistic says, of all passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.floors import Durability
from benchmarks.outcome import FloorRow, Row, Verdict
from benchmarks.spread import Spread
from benchmarks.table import amount, seconds
from benchmarks.workloads import OURS


def markdown(
    facts: Mapping[str, str], floors: Sequence[FloorRow], rows: Sequence[Row], command: str
) -> str:
    """The whole report."""
    parts = [f"`{command}`", _facts(facts), "### Floors", _floors(floors)]
    parts += ["### Goals", _goals(rows)]
    if missed := _missed(rows):
        parts += ["### What is missed, and why", missed]
    if any(row.workload.subject != OURS for row in rows):
        parts += ["### Beside the best other engine", _ahead(rows)]
        parts += ["### Beside all others", _peers(rows)]
    return "\n\n".join(parts) + "\n"


def grid(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all but the first column are aligned right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


def _facts(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def _floors(floors: Sequence[FloorRow]) -> str:
    body = [
        (f"{row.name}, {row.title}", row.durability, *(seconds(v) for v in _middle(row.samples)))
        for row in floors
    ]
    return grid(("floor", "at", "median", "mean", "95 %"), body)


def _middle(samples: Spread) -> tuple[float, float, float]:
    return samples.p50, samples.mean, samples.p95


# --- goals ------------------------------------------------------------------------------


def _goals(rows: Sequence[Row]) -> str:
    body = [
        (
            f"{row.workload.name} {row.workload.title}: {row.figure.title}",
            row.durability,
            _value(row),
            _reached(row, verdict),
            _limit(row, verdict),
            "met" if verdict.met else "**missed**",
        )
        for row in rows
        for verdict in row.verdicts
        if verdict.bar.stage == "goal"
    ]
    return grid(("work", "at", "time", "reached", "goal", ""), body)


def _missed(rows: Sequence[Row]) -> str:
    """One line per reason, with all figures that it is the reason of."""
    figures: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for verdict in row.verdicts:
            if verdict.bar.stage == "goal" and not verdict.met:
                why = verdict.bar.why or "not explained yet"
                figures.setdefault((row.workload.name, why), {})[row.figure.title] = None
    return "\n".join(
        f"- {name}, {'; '.join(titles)}: {why}" for (name, why), titles in figures.items()
    )


def _value(row: Row) -> str:
    return amount(_own(row), row.figure.unit)


def _reached(row: Row, verdict: Verdict) -> str:
    if row.ratio is None:
        return amount(verdict.reached, row.figure.unit)
    spread = f" ({row.ratio.min:.2f}..{row.ratio.max:.2f})" if row.ratio.min < row.ratio.max else ""
    return f"{row.ratio.p50:.2f} {row.ratio.floor}{spread}"


def _limit(row: Row, verdict: Verdict) -> str:
    floor = f" {row.ratio.floor}" if row.ratio is not None else ""
    limit = verdict.bar.limit
    return f"{limit:g}{floor}" if floor or row.figure.unit != "s" else seconds(limit)


# --- peers ------------------------------------------------------------------------------


class Lead(NamedTuple):
    """How many times better than the best other engine this is to be, and why it is not."""

    full: float
    process: float
    why: str


_BEHIND_ITS_GOAL = (
    "nothing but the distance to the goal of the same work above: who reached that one would "
    "reach this one too. The reason given there is the reason here"
)
LEADS: dict[tuple[str, str], Lead] = {
    ("W1", "latency"): Lead(6, 6, _BEHIND_ITS_GOAL),
    ("W2", "step"): Lead(8, 20, _BEHIND_ITS_GOAL),
    ("W3", "step"): Lead(250, 250, _BEHIND_ITS_GOAL),
    ("W4", "step"): Lead(200, 200, _BEHIND_ITS_GOAL),
    ("W5", "gathered"): Lead(50, 50, _BEHIND_ITS_GOAL),
    ("W9", "first"): Lead(
        3,
        3,
        "two fifths of our process are Python itself with asyncio and sqlite3, which nobody is "
        "spared; the goal against that bare process is the one that we can work on",
    ),
    ("W10", "step"): Lead(
        1,
        1,
        "python-durable keeps what a step returned and nothing else; we also keep its arguments, "
        "names, order, times, attempts and checksums, which replay is checked against",
    ),
}


def _peers(rows: Sequence[Row]) -> str:
    """One line per figure of a peer, with what we need for the same at the same durability."""
    ours = {_what(row): row for row in rows if row.workload.subject == OURS}
    sizes = {_who(row): f"{row.samples.p50:,.0f}" for row in rows if row.figure.key == "size"}
    body = []
    for row in rows:
        same = ours.get(_what(row))
        if row.workload.subject != OURS and same is not None and row.figure.key != "size":
            name = f"{row.workload.name} {row.workload.title}: {row.figure.title}"
            faster = times(_own(row) / _own(same))
            size = sizes.get(_who(row), "")
            who = row.workload.subject
            body.append((name, row.durability, who, _value(row), size, _value(same), faster))
    return grid(("work", "at", "who", "theirs", "n", "durable", "ahead by"), body)


def _ahead(rows: Sequence[Row]) -> str:
    """Beside the fastest of the other engines, which is whoever keeps histories."""
    body, missed = [], dict[str, dict[str, None]]()
    for row, lead in _led(rows):
        name = row.workload.name
        best = best_other([each for each in rows if _figure(each) == _figure(row)], row.durability)
        if best is None:
            continue
        ahead = _own(best) / _own(row)
        limit = lead.full if row.durability == "full" else lead.process
        told = f"{best.workload.subject}, {best.durability}"
        verdict = "met" if ahead >= limit else "**missed**"
        body.append((name, row.durability, told, times(ahead), f"{limit:g} x", verdict))
        if ahead < limit:
            missed.setdefault(lead.why, {})[name] = None
    table = grid(("work", "at", "the best other", "ahead by", "goal", ""), body)
    reasons = (f"- {', '.join(names)}: {why}." for why, names in missed.items())
    return "\n".join([table, "", *reasons]) if missed else table


def _led(rows: Sequence[Row]) -> list[tuple[Row, Lead]]:
    """Our rows that are to lead, work by work."""
    ours = [row for row in rows if row.workload.subject == OURS]
    return [(row, LEADS[what]) for what in LEADS for row in ours if _figure(row) == what]


def best_other(rows: Iterable[Row], durability: Durability) -> Row | None:
    """The best of the engines that promise as much; Huey, a queue, keeps no histories."""
    enough = ("full",) if durability == "full" else ("full", "process")
    others = (row for row in rows if row.workload.subject not in (OURS, "huey"))
    return min((row for row in others if row.durability in enough), key=_own, default=None)


def times(ratio: float) -> str:
    """A ratio of times."""
    return f"{ratio:,.0f} x" if ratio >= 10 else f"{ratio:.2g} x"


def _who(row: Row) -> tuple[str, str, str]:
    return row.workload.subject, row.workload.name, row.durability


def _figure(row: Row) -> tuple[str, str]:
    return row.workload.name, row.figure.key


def _what(row: Row) -> tuple[str, str, str]:
    return row.workload.name, row.durability, row.figure.key


def _own(row: Row) -> float:
    value: float = getattr(row.samples, row.figure.statistic)
    return value
