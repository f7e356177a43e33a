"""What a campaign has done so far: counts and findings of each programme, as table and as JSON.

Totals of several campaigns can be added up: counts and findings are sums, nothing is an
average. What a trial reports under a word that begins with ``sometimes:`` is a mark (see
`sometimes`), and is told apart from the counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaign import registry

WORDS = ("states", "kills", "cuts", "faults", "seeds")  # columns that come first
VERDICTS = {
    "lost": "lost acknowledged",
    "duplicated": "duplicated outcomes",
    "corrupt": "corrupt",
    "hung": "hung",
    "broken": "broken",
}
MARK = "sometimes:"


@dataclass(frozen=True)
class Finding:
    """One failing seed.

    Attributes:
        seed: None when the worker failed before its first trial.
        directory: where the trial's files were kept, or None.
    """

    programme: str
    seed: int | None
    verdict: str
    summary: str
    text: str
    directory: str | None = None

    @property
    def command(self) -> str:
        """What does the same trial again."""
        again = "" if self.seed is None else f" --seed {self.seed}"
        return f"python -m tests.campaign {self.programme}{again} --trials 1 --workers 1"

    def as_json(self) -> dict[str, Any]:
        """Return what is written to the file of failing seeds."""
        return {**self.__dict__, "command": self.command}


@dataclass
class Total:
    """What one programme has done.

    Attributes:
        seconds: by the clock on the wall, with all workers at it.
        whole: see `Programme.whole`.
        note: why it was not run, or not run to its end.
    """

    key: str
    trials: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    whole: int | None = None
    note: str = ""

    def add(self, counts: dict[str, int]) -> None:
        """Take in what one trial did."""
        self.trials += 1
        self.counts.update(counts)

    @property
    def rate(self) -> float:
        """Trials per second."""
        return self.trials / self.seconds if self.seconds else 0.0

    @property
    def sweep(self) -> str:
        """How much of one sweep through everything has been done."""
        return f"{self.trials / self.whole:.0%} of {self.whole:,}" if self.whole else ""

    def line(self) -> str:
        """Return what a minute's line says."""
        words = [f"{n:,} {word}" for word, n in self.counts.items() if not word.startswith(MARK)]
        found = sum(self.found.values())
        return ", ".join([
            f"{self.trials:,} trials", *words, f"{found} found", f"{self.rate:.1f} trials/s",
            *[f"sweep {self.sweep}"] * bool(self.whole),
        ])  # fmt: skip

    def plus(self, other: Total) -> Total:
        """Return both together."""
        return Total(
            self.key,
            self.trials + other.trials,
            self.seconds + other.seconds,
            self.counts + other.counts,
            self.found + other.found,
            self.whole or other.whole,
            self.note or other.note,
        )


def table(totals: Sequence[Total]) -> str:
    """Return the final table, with a row for each programme and one for their sum."""
    other = sorted({word for total in totals for word in total.counts} - set(WORDS))
    words = [*WORDS, *(word for word in other if not word.startswith(MARK))]
    words = [word for word in words if any(total.counts[word] for total in totals)]
    head = ["", "trials", *words, *VERDICTS.values(), "trials/s", "sweep", ""]
    rows = [_row(total, words) for total in totals]
    if len(totals) > 1:
        whole = Total("all")
        for total in totals:
            whole = whole.plus(total)
        whole.whole, whole.note = None, ""
        rows.append(_row(whole, words))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    )


def _row(total: Total, words: Iterable[str]) -> list[str]:
    counts = [f"{total.counts[word]:,}" for word in words]
    found = [f"{total.found[verdict]:,}" for verdict in VERDICTS]
    rate = f"{total.rate:.1f}" if total.trials else ""
    return [total.key, f"{total.trials:,}", *counts, *found, rate, total.sweep, total.note]


def dump(totals: Iterable[Total], path: Path, **about: object) -> None:
    """Write the totals to `path`."""
    programmes = {total.key: {**total.__dict__} for total in totals}
    path.write_text(json.dumps({**about, "programmes": programmes}, indent=1) + "\n")


def load(path: Path) -> list[Total]:
    """Read what `dump` wrote."""
    programmes = json.loads(path.read_text())["programmes"].values()
    return [
        Total(**row | {"counts": Counter(row["counts"]), "found": Counter(row["found"])})
        for row in programmes
    ]


def add_up(paths: Iterable[Path]) -> list[Total]:
    """Return the totals of several campaigns together, by programme."""
    sums: dict[str, Total] = {}
    for path in paths:
        for total in load(path):
            sums[total.key] = sums[total.key].plus(total) if total.key in sums else total
    order = [*registry.MODULES, *sums]
    return sorted(sums.values(), key=lambda total: order.index(total.key))
