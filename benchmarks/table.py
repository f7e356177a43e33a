"""The report: text for people, plain data for JSON.

Owns units and alignment, nothing else. Rows that miss their bar are printed like the
others; nothing is left out because it looks bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.outcome import FloorRow, Ratio, Row, Verdict
from benchmarks.spread import Spread
from benchmarks.workload import Unit

Cells = Sequence[str]

SPREAD_HEADS = ("min", "p50", "p95", "max")


def seconds(value: float) -> str:
    """A duration with three significant digits and its unit."""
    for limit, scale, unit in ((0.9995e-3, 1e6, "us"), (0.9995, 1e3, "ms")):
        if value < limit:
            return f"{value * scale:.3g} {unit}"
    return f"{value:.3g} s"


def amount(value: float, unit: Unit) -> str:
    """A sample in its unit."""
    return seconds(value) if unit == "s" else f"{value:,.4g}"


def aligned(head: Cells, body: Iterable[Cells], *, text_columns: int) -> str:
    """A table in columns; the first `text_columns` are flush left, the others right."""
    table = [head, *body]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    lines = []
    for line in table:
        cells = [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def pairs(facts: Mapping[str, str]) -> str:
    """Facts, one per line."""
    width = max(map(len, facts))
    return "\n".join(f"{name.ljust(width)}  {fact}" for name, fact in facts.items())


def floor_table(floors: Sequence[FloorRow]) -> str:
    """The yardsticks."""
    body = [
        (row.name, row.title, row.durability, *_spread(row.samples, "s"), _rate(row.samples, "s"))
        for row in floors
    ]
    head = ("", "floor", "durability", *SPREAD_HEADS, "per s")
    return aligned(head, body, text_columns=3)


def result_table(rows: Sequence[Row]) -> str:
    """All figures with their spread and their ratio to the floor next to them."""
    body = [
        (
            row.workload.name,
            row.workload.subject,
            row.durability,
            row.figure.title,
            *_spread(row.samples, row.figure.unit),
            _rate(row.samples, row.figure.unit),
            _ratio(row.ratio),
        )
        for row in rows
    ]
    head = ("", "subject", "durability", "figure", *SPREAD_HEADS, "per s", "ratio (min..max)")
    return aligned(head, body, text_columns=4)


def verdict_table(rows: Sequence[Row]) -> str:
    """The bars that are due and the goals, met or not, with what was reached."""
    body = [_verdict(row, verdict) for row in rows for verdict in row.verdicts]
    head = ("", "durability", "figure", "kind", "verdict", "reached", "limit")
    return aligned(head, sorted(body, key=lambda line: line[3]), text_columns=5)


def as_data(floors: Sequence[FloorRow], rows: Sequence[Row]) -> dict[str, object]:
    """The same as plain data; durations in seconds."""
    return {"floors": [_floor_data(row) for row in floors], "rows": [_row_data(r) for r in rows]}


def _spread(samples: Spread, unit: Unit) -> list[str]:
    return [amount(getattr(samples, name), unit) for name in SPREAD_HEADS]


def _rate(samples: Spread, unit: Unit) -> str:
    return f"{1 / samples.p50:,.0f}" if unit == "s" and samples.p50 > 0 else ""


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio.p50:.2f} {ratio.floor} ({ratio.min:.2f}..{ratio.max:.2f})"


def _verdict(row: Row, verdict: Verdict) -> Cells:
    unit = f" {row.figure.floor}" if row.figure.floor else ""
    return (
        row.workload.name,
        row.durability,
        row.figure.title,
        verdict.bar.stage,
        "met" if verdict.met else "NOT MET",
        f"{verdict.reached:.4g}{unit}",
        f"{verdict.bar.limit:g}{unit}",
    )


def _floor_data(row: FloorRow) -> dict[str, object]:
    return {"name": row.name, "durability": row.durability, "samples": row.samples._asdict()}


def _row_data(row: Row) -> dict[str, object]:
    ratio = row.ratio
    return {
        "workload": row.workload.name,
        "subject": row.workload.subject,
        "durability": row.durability,
        "figure": row.figure.key,
        "unit": row.figure.unit,
        "statistic": row.figure.statistic,
        "samples": row.samples._asdict(),
        "per_pass": row.per_pass,
        "floor": ratio.floor if ratio else None,
        "ratio": {"p50": ratio.p50, "min": ratio.min, "max": ratio.max} if ratio else None,
        "verdicts": [
            {"stage": v.bar.stage, "limit": v.bar.limit, "reached": v.reached, "met": v.met}
            for v in row.verdicts
        ],
    }
