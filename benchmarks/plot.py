"""A picture of the table: one panel per workload, one bar per subject, shorter is better.

Owns the look only. The bars are times per operation on a logarithmic axis, because
subjects lie orders of magnitude apart; the goal and the floor are lines in the same panel.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.outcome import Row

PANELS = 3  # in a row of panels
OURS, PEERS = "#2b7a78", "#b0b7bf"


def require() -> None:
    """Raise SystemExit, before anything is measured, when matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("a picture needs matplotlib: pip install -e '.[bench]'")


def draw(rows: Sequence[Row], facts: Mapping[str, str], path: Path) -> None:
    """Write the picture to `path`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = _groups(rows)
    height = max(1, -(-len(groups) // PANELS))
    figure, axes = plt.subplots(height, PANELS, figsize=(5.5 * PANELS, 3.2 * height))
    panels = list(getattr(axes, "flat", [axes]))
    for panel in panels[len(groups) :]:
        panel.axis("off")
    for panel, (title, members) in zip(panels, groups.items(), strict=False):
        _panel(panel, title, members)
    figure.suptitle(", ".join(facts[name] for name in ("processor", "python", "date")))
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The first timed figure of each workload, by workload and durability; those with peers."""
    groups: dict[str, list[Row]] = {}
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        key = (row.workload.subject, row.workload.name, row.durability)
        if row.ratio is None or key in seen:
            continue
        seen.add(key)
        groups.setdefault(f"{row.workload.name} at {row.durability}", []).append(row)
    beside = {title: members for title, members in groups.items() if len(members) > 1}
    return beside or groups  # a bar without another one tells little


def _panel(panel: Any, title: str, rows: Sequence[Row]) -> None:
    names = [row.workload.subject for row in rows]
    values = [row.ratio.p50 if row.ratio else 0.0 for row in rows]
    bars = panel.barh(
        names, values, color=["#2b7a78" if n == "durable" else "#b0b7bf" for n in names]
    )
    panel.bar_label(bars, labels=[_label(value) for value in values], padding=3)
    panel.set_xscale("log")
    panel.set_xlim(min(values) / 3, max(values) * 8)
    panel.axvline(1.0, color="black", linewidth=0.8)
    panel.invert_yaxis()
    floor = rows[0].ratio.floor if rows[0].ratio else ""
    panel.set_title(f"{title}: {rows[0].figure.title}, in {floor}", fontsize=10)


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
