"""The limits and policies of an engine, as the surface hands them down.

Owns the defaults of an engine that is made without a `Runtime`. Values are checked where users
give them (`_surface.options`), not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits and policies. Times are microseconds unless the name says seconds."""

    retention_us: int = 30 * 86_400 * 1_000_000
    grace_us: int = 30 * 1_000_000
    drain_seconds: float = 5.0
    threads_max: int = 32
    processes_max: int | None = None
    idle_runs_max: int = 1000
    runs_max: int = 10_000
    webhook_base_url: str = ""
