"""Pictures: of the table, one panel per workload, one bar per subject, shorter is better;
and of a profile, one bar per workload, made of its rooms.

Owns the look only. Subjects lie orders of magnitude apart, so the axis of their times per
operation is logarithmic; the floor is a line in the same panel.
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


def draw_rooms(columns: Mapping[str, Mapping[str, float]], told: str, path: Path) -> None:
    """Write a picture of the share that each room has of each workload's time to `path`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(14, 1.6 + 0.9 * len(columns)))
    colors = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    totals = [sum(by_room.values()) for by_room in columns.values()]
    ends = [0.0] * len(columns)
    for number, room in enumerate(next(iter(columns.values()))):
        shares = [
            100 * by_room[room] / total
            for by_room, total in zip(columns.values(), totals, strict=True)
        ]
        bars = panel.barh(
            list(columns), shares, left=ends, label=room, color=colors[number % len(colors)]
        )
        panel.bar_label(
            bars, [f"{share:.0f}" if share >= 2 else "" for share in shares], label_type="center"
        )
        ends = [end + share for end, share in zip(ends, shares, strict=True)]
    panel.set_xlim(0, 100)
    panel.set_xlabel("percent of the time per operation")
    panel.invert_yaxis()
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    panel.set_title(told, fontsize=9)
    figure.tight_layout()
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
    bars = panel.barh(names, values, color=[OURS if name == "durable" else PEERS for name in names])
    panel.bar_label(bars, labels=[_label(value) for value in values], padding=3)
    panel.set_xscale("log")
    panel.set_xlim(min(values) / 3, max(values) * 8)
    panel.axvline(1.0, color="black", linewidth=0.8)
    panel.invert_yaxis()
    floor = rows[0].ratio.floor if rows[0].ratio else ""
    panel.set_title(f"{title}: {rows[0].figure.title}, in {floor}", fontsize=10)


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
