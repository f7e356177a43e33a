"""Order statistics of a list of samples.

Owns the one definition of a percentile that every table here uses (nearest rank:
always a sample that really happened, never an interpolation). Knows nothing of
units; the callers do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The shape of some samples, in the unit of the samples."""

    size: int
    min: float
    p50: float
    p95: float
    p99: float
    max: float
    mean: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest sample that `share` (0..1) of the sorted samples do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(samples: Sequence[float]) -> Spread:
    """Summarise samples; raises ValueError when there are none."""
    if not samples:
        raise ValueError("no samples to summarise: the workload returned an empty list")
    ordered = sorted(samples)
    return Spread(
        size=len(ordered),
        min=ordered[0],
        p50=percentile(ordered, 0.50),
        p95=percentile(ordered, 0.95),
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
        mean=math.fsum(ordered) / len(ordered),
    )
