"""What is kept of a run: the folder `benchmarks/results`, and the numbers in `README.md`.

Owns where these lie and the short table. The README has a limit of lines, so the short
table always has the same number of them, whatever was measured: four works, at full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.outcome import FloorRow, Row
from benchmarks.report import best_other, grid, times
from benchmarks.table import seconds
from benchmarks.workloads import OURS

ROOT = Path(__file__).absolute().parent.parent
RESULTS, README = ROOT / "benchmarks" / "results", ROOT / "README.md"
BEGIN, END = "## Numbers\n", "[Design](durable/docs/design.md)"

SHORT = {
    ("W1", "latency"): ("one-step run, start to result (2 COMMITs)", 2, "F1t"),
    ("W2", "step"): ("1000 steps one after the other, each (1 COMMIT)", 1, "F1t"),
    ("W3", "step"): ("1000 runs of 5 steps at once, each", 1, "S"),
    ("W4", "step"): ("gather of 1000 steps, each", 1, "S"),
}
ALL = "[all figures](benchmarks/results/table.md):"
HEAD = ("what", "durable", "in floors", "of it without an engine", "best other engine", "ahead by")


def tell_readme(facts: Mapping[str, str], floors: Sequence[FloorRow], rows: Sequence[Row]) -> None:
    """Replace the numbers in the README."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + "\n" + short(facts, floors, rows) + "\n\n" + END + after)


def short(facts: Mapping[str, str], floors: Sequence[FloorRow], rows: Sequence[Row]) -> str:
    """A sentence and a table of always as many lines."""
    at_full = {row.name: row.samples for row in floors if row.durability == "full"}
    f1, task = seconds(at_full["F1"].p50), seconds(at_full["T"].p50)
    cores = facts["processor"].split(" x ")[0]
    told = (
        f"At `full`, {cores} cores; a raw COMMIT (F1) took {f1}, an asyncio task (T) {task}; {ALL}"
    )
    return f"{told}\n\n{grid(HEAD, [_line(key, at_full, rows) for key in SHORT])}"


def _line(key: tuple[str, str], floors: Mapping[str, object], rows: Sequence[Row]) -> list[str]:
    title, times_least, least = SHORT[key]
    same = [row for row in rows if (row.workload.name, row.figure.key) == key]
    ours = next(r for r in same if r.workload.subject == OURS and r.durability == "full")
    assert ours.ratio is not None
    statistic = ours.figure.statistic
    least_time = times_least * getattr(floors[least], statistic)
    without = least_time / getattr(floors[ours.ratio.floor], statistic)
    other = best_other(same, "full")
    own = getattr(ours.samples, statistic)
    theirs = getattr(other.samples, statistic) if other else 0.0
    return [
        title,
        seconds(own),
        f"{ours.ratio.p50:.1f} {ours.ratio.floor}",
        f"{without:.1f} {ours.ratio.floor}",
        f"{other.workload.subject}: {seconds(theirs)}" if other else "",
        times(theirs / own) if other else "",
    ]
