"""The only place of the benchmarks that reaches into the library's inside.

Owns opening a runtime as a user would (all defaults except the durability) and
reading the journal writer's own counters. Everything else uses the public names.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.workload import Settings
from durable import Runtime


class Counters(NamedTuple):
    """What the journal's writer has done since it was opened."""

    commits: int
    statements: int


def open_runtime(settings: Settings, name: str = "journal") -> Runtime:
    """A runtime on a fresh journal, with default settings."""
    return Runtime(settings.journal(name), durability=settings.durability)


def counters(runtime: Runtime) -> Counters:
    """Read the counters of the journal that `runtime` owns; costs no statement."""
    writer = runtime.journal.writer
    if writer is None:
        raise LookupError("this runtime does not own its journal: nothing is counted here")
    return Counters(writer.commits, writer.statements)
