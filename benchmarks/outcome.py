"""From passes to the rows of the table: pooled spreads, ratios, bars.

Owns every comparison. A ratio is taken per pass, against the samples of the two
floors that surround that pass; what is reported is the median of these ratios with
the smallest and the largest. Pure: no I/O, no printing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.floors import LABELS, Durability
from benchmarks.runner import Pass
from benchmarks.spread import Spread, percentile, spread
from benchmarks.workload import Bar, Figure, Workload


@dataclass(frozen=True)
class Ratio:
    """The ratios of all passes to a floor: the median, the smallest, the largest."""

    floor: str
    p50: float
    min: float
    max: float


@dataclass(frozen=True)
class Verdict:
    """A bar, and what was reached: the ratio where the figure has a floor."""

    bar: Bar
    reached: float
    met: bool


@dataclass(frozen=True)
class Row:
    """One figure of one workload at one durability, over all passes."""

    workload: Workload
    figure: Figure
    durability: Durability
    samples: Spread
    per_pass: list[float]
    ratio: Ratio | None
    verdicts: list[Verdict]


@dataclass(frozen=True)
class FloorRow:
    """One floor at one durability, over the whole session."""

    name: str
    title: str
    durability: Durability
    samples: Spread


def rows(passes: Sequence[Pass]) -> list[Row]:
    """All rows, in the order in which the figures were first measured."""
    made: dict[tuple[str, str, str, str], Row] = {}
    for one in passes:
        same = [other for other in passes if _key(other) == _key(one)]
        for figure in one.workload.figures:
            row = _row(figure, [other for other in same if figure.key in other.samples])
            if row is not None:
                made[(*_key(one), figure.key)] = row
    return list(made.values())


def floor_rows(passes: Sequence[Pass]) -> list[FloorRow]:
    """The floors as they were over the whole session."""
    return [
        FloorRow(name, title, durability, spread(list(_pooled_floor(passes, durability, name))))
        for name, title in LABELS.items()
        for durability in dict.fromkeys(one.durability for one in passes)
    ]


def failures(passes: Iterable[Pass]) -> list[Pass]:
    """The passes that gave no samples."""
    return [one for one in passes if one.error is not None]


def _key(one: Pass) -> tuple[str, str, str]:
    return one.workload.subject, one.workload.name, one.durability


def _pooled_floor(passes: Iterable[Pass], durability: Durability, name: str) -> Iterable[float]:
    for one in passes:
        if one.durability == durability:
            yield from one.before[name]
            yield from one.after[name]


def _row(figure: Figure, passes: Sequence[Pass]) -> Row | None:
    if not passes:
        return None
    workload, durability = passes[0].workload, passes[0].durability
    pooled = spread([sample for one in passes for sample in one.samples[figure.key]])
    per_pass = [_statistic(figure, one.samples[figure.key]) for one in passes]
    ratio = _ratio(figure, passes)
    # Without a floor: the worst pass.
    reached = max(per_pass) if ratio is None else ratio.p50
    verdicts = [
        Verdict(bar, reached, reached <= bar.limit)
        for bar in workload.bars
        if bar.figure == figure.key and bar.durability in (None, durability)
    ]
    return Row(workload, figure, durability, pooled, per_pass, ratio, verdicts)


def _statistic(figure: Figure, samples: Sequence[float]) -> float:
    value: float = getattr(spread(samples), figure.statistic)
    return value


def _ratio(figure: Figure, passes: Sequence[Pass]) -> Ratio | None:
    if figure.floor is None:
        return None
    ratios = sorted(_against(figure, figure.floor, one) for one in passes)
    return Ratio(figure.floor, percentile(ratios, 0.5), ratios[0], ratios[-1])


def _against(figure: Figure, floor: str, one: Pass) -> float:
    around = [*one.before[floor], *one.after[floor]]
    return _statistic(figure, one.samples[figure.key]) / _statistic(figure, around)
