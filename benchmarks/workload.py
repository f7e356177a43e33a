"""What a workload is, as data: its figures, its bars, its settings.

Owns the vocabulary between a workload file, the process that performs it and the
tables. A workload measures and returns samples; it never prints, never compares
and never knows its floor's value.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from benchmarks.floors import Durability, Samples, run_on

T = TypeVar("T")

Unit = Literal["s", "count", "bytes"]
Statistic = Literal["min", "p50", "p95", "p99", "max", "mean"]
Stage = Literal["bar", "goal"]


@dataclass(frozen=True)
class Settings:
    """How one process performs one workload.

    `directory` is empty and on the measured disk. `loop` is "durable" (what `durable.run`
    takes: uvloop where it is installed), "asyncio" or "uvloop"; `quick` asks for about a
    tenth of the size. A figure of a peer is given `peer_seconds`.
    """

    directory: Path
    durability: Durability
    loop: str = "durable"
    quick: bool = False
    peer_seconds: float = 30.0

    def size(self, full: int) -> int:
        """`full` operations, or a tenth of them in a quick run."""
        return max(1, full // 10) if self.quick else full

    def journal(self, name: str = "journal") -> Path:
        """The path of a journal that does not exist yet."""
        return self.directory / f"{name}.db"

    def run(self, main: Coroutine[object, object, T]) -> T:
        """Run a coroutine on the loop asked for."""
        if self.loop == "durable":
            import durable  # floors and peers, whose processes know nothing of it, use `run_on`

            return durable.run(main)
        return run_on(self.loop, main)


@dataclass(frozen=True)
class Figure:
    """One row of the table: the samples under `key`, compared to a floor by one statistic.

    `statistic` is what is divided by the same statistic of the floor. Means are used
    where the work is one total (its mean is exact), medians where each sample is one
    operation that somebody waits for.
    """

    key: str
    title: str
    floor: str | None = None
    statistic: Statistic = "p50"
    unit: Unit = "s"


@dataclass(frozen=True)
class Bar:
    """An upper limit: on the ratio to the figure's floor, or on the figure where it has none.

    `durability` None means at every durability. A "bar" is due now, a "goal" is where
    this is going. `why` explains a limit that is missed; it is shown where that is so.
    """

    figure: str
    limit: float
    durability: Durability | None = None
    stage: Stage = "bar"
    why: str = ""


@dataclass(frozen=True)
class Workload:
    """One piece of work, measured in a fresh process on a fresh journal.

    `perform(settings)` returns samples per figure key (seconds, counts or bytes).
    `operations` says how many operations the full size does (the profile divides by it).
    `subject` is whose engine does the work: a peer is a workload of the same `name`
    with another subject. `once` = not repeated. A peer `requires` a package, and has the
    `durabilities` that it knows. `module` is the file that it comes from, set by the registry.
    """

    name: str
    title: str
    perform: Callable[[Settings], Samples]
    figures: tuple[Figure, ...]
    bars: tuple[Bar, ...] = ()
    operations: int = 1
    subject: str = "durable"
    once: bool = False
    requires: str = ""
    durabilities: tuple[Durability, ...] = ("full", "process")
    module: str = ""
