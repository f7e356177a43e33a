"""Which figures of a load have a limit, and a trial: a load in a process of its own.

The limits hold on any machine: memory, descriptors and statements do not depend on how fast
it is. They are a few times what was measured, so that they find what grows, not what varies.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.campaign.programme import Counts, FoundError

ROOT = Path(__file__).parents[2]
_SECONDS = 3000.0
# Figure -> limit as (for the load, for each thing of it).
LIMITS: dict[str, dict[str, tuple[float, float]]] = {
    "suspended": {
        "start: MB": (45, 0.0008), "open: MB": (10, 0), "wake: MB": (30, 0.0004),
        "start: files": (0, 0), "wake: files": (0, 0), "open: writes": (60, 0),
        "open: reads": (60, 0),
        "start: writes": (300, 2.5), "wake: writes": (500, 9),
    },
    "finished": {"pages: MB": (10, 0), "pages: files": (0, 0), "pages: reads": (1000, 0)},
    "long_run": {
        "steps: MB": (20, 0.004), "replay: MB": (20, 0.004), "replay: writes": (60, 0),
        "replay: reads": (60, 0),
        "steps: files": (0, 0), "replay: files": (0, 0),
    },
    "payloads": {"payloads: MB": (150, 0), "payloads: files": (0, 0)},
    "hooks": {
        "payloads: MB": (20, 0.004), "payloads: files": (0, 0), "payloads: writes": (100, 4.5),
    },
}  # fmt: skip
FULL = {
    "suspended": 100_000, "finished": 100_000, "long_run": 10_000, "payloads": 30, "hooks": 10_000,
}  # fmt: skip


def load_trial(name: str, count: int, place: Path) -> dict[str, float]:
    """Put a load on a new journal; return its figures.

    Raises:
        FoundError: a figure is over its limit, or the load did not come through.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.load", name, str(count), str(place)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=_SECONDS,
    )  # fmt: skip
    if done.returncode != 0:
        raise FoundError("broken", f"{name} of {count}: {done.stderr[-4000:]}")
    figures: dict[str, float] = json.loads(done.stdout)
    for figure, (base, each) in LIMITS[name].items():
        if (found := figures[figure]) > base + each * count:
            limit = base + each * count
            raise FoundError("broken", f"{name} of {count}: {figure} {found:g} > {limit:g}")
    return figures


def full_trial(seed: int, place: Path) -> Counts:
    """Put one of the loads, in turn, in its full size; print the figures."""
    name = list(FULL)[seed % len(FULL)]
    figures = load_trial(name, FULL[name], place)
    shown = ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
    print(f"{name} of {FULL[name]:,}: {shown}", flush=True)
    return Counter({"loads": 1})
