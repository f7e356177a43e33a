"""The workloads as other engines do them, in the time that they are given.

A peer opens a `Rival`: two workflows, `chain` (steps one after the other) and `gather`
(steps all at once), and how to start one and to have its result. Everything measured is
made of these here, once for all peers. Most need far longer than we do, so each figure has
a time limit: the work is doubled until the full size or the limit is reached, the largest is
reported, and its size stands in the table. A peer whose cost per step grows with the number
of steps is flattered by that, never harmed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol

from benchmarks.floors import Durability, Samples, run_on
from benchmarks.workload import Figure, Settings, Workload

Shape = Literal["chain", "gather"]

LATENCIES, STEPS, RUNS, STEPS_EACH, STARTS = 100, 1000, 1000, 5, 10_000
FIRST_SIZE = 5


class Rival(Protocol):
    """Somebody else's engine, opened on a fresh store."""

    async def start(self, shape: Shape, steps: int) -> Any:
        """Start a run of so many steps; return a handle."""

    async def result(self, run: Any) -> object:
        """Wait for the run's end."""


@dataclass(frozen=True)
class Peer:
    """An engine at one of its settings.

    `open(settings)` gives the rival; `requires` is the package that must be installed,
    `imports` what a program with workflows imports of it.
    `durabilities` are those that it has something comparable to. `lacks` names workloads
    that it has no equivalent of.
    """

    subject: str
    requires: str
    imports: str
    open: Callable[[Settings], AbstractAsyncContextManager[Rival]]
    durabilities: tuple[Durability, ...]
    lacks: frozenset[str] = frozenset()


async def latency(rival: Rival, seconds: float) -> Samples:
    """Seconds from start to result of one-step runs, one at a time."""
    samples: list[float] = []
    end = perf_counter() + seconds
    while len(samples) < LATENCIES and (perf_counter() < end or not samples):
        begun = perf_counter()
        await rival.result(await rival.start("chain", 1))
        samples.append(perf_counter() - begun)
    return {"latency": samples, "size": [len(samples)]}


async def sequential(rival: Rival, seconds: float) -> Samples:
    """Seconds per step of one run."""

    async def work(steps: int) -> None:
        await rival.result(await rival.start("chain", steps))

    return await doubled(work, STEPS, seconds)


async def concurrent(rival: Rival, seconds: float) -> Samples:
    """Seconds per step of many runs of five steps."""

    async def work(count: int) -> None:
        runs = await asyncio.gather(*(rival.start("chain", STEPS_EACH) for _ in range(count)))
        await asyncio.gather(*(rival.result(run) for run in runs))

    samples = await doubled(work, RUNS, seconds)
    return {"step": [samples["step"][0] / STEPS_EACH], "size": samples["size"]}


async def gathered(rival: Rival, seconds: float) -> Samples:
    """Seconds per step of one run that gathers its steps."""

    async def work(steps: int) -> None:
        await rival.result(await rival.start("gather", steps))

    return await doubled(work, STEPS, seconds)


async def starts(rival: Rival, seconds: float) -> Samples:
    """Seconds of one start, and of each of many at once, all of runs without steps."""
    alone: list[float] = []
    end = perf_counter() + seconds / 2
    while len(alone) < LATENCIES and (perf_counter() < end or not alone):
        begun = perf_counter()
        run = await rival.start("chain", 0)
        alone.append(perf_counter() - begun)
        await rival.result(run)
    spent = 0.0

    async def work(count: int) -> None:
        nonlocal spent
        begun = perf_counter()
        runs = await asyncio.gather(*(rival.start("chain", 0) for _ in range(count)))
        spent = (perf_counter() - begun) / count
        await asyncio.gather(*(rival.result(run) for run in runs))

    samples = await doubled(work, STARTS, seconds / 2)
    return {"start": alone, "gathered": [spent], "size": samples["size"]}


async def doubled(
    work: Callable[[int], Awaitable[None]],
    full: int,
    seconds: float,
    clock: Callable[[], float] = perf_counter,
) -> Samples:
    """Seconds per operation at the largest size that fits, and that size.

    The next size is not begun when it would end beyond the limit if cost were quadratic.
    """
    size, end = min(FIRST_SIZE, full), clock() + seconds
    while True:
        begun = clock()
        await work(size)
        took = clock() - begun
        if size == full or clock() + 4 * took > end:
            return {"step": [took / size], "size": [size]}
        size = min(2 * size, full)


_STEP = Figure("step", "per step", "T", "mean")


def _size(what: str) -> Figure:
    return Figure("size", f"... with so many {what}", unit="count")


WORK: dict[str, tuple[str, Callable[[Rival, float], Awaitable[Samples]], tuple[Figure, ...]]] = {
    "W1": ("one-step run", latency, (Figure("latency", "per run", "F1"), _size("runs"))),
    "W2": (
        "sequential steps",
        sequential,
        (Figure("step", "per step (total / steps)", "F1", "mean"), _size("steps")),
    ),
    "W3": ("runs x 5 steps", concurrent, (_STEP, _size("runs"))),
    "W4": ("gather of steps", gathered, (_STEP, _size("steps"))),
    "W5": (
        "start() latency; many starts",
        starts,
        (
            Figure("start", "start() latency", "F1"),
            Figure("gathered", "each of many gathered", "T", "mean"),
            _size("starts"),
        ),
    ),
}


def workloads(peer: Peer) -> tuple[Workload, ...]:
    """What `peer` does of W1 to W5, W9 and W10."""
    made = [_workload(peer, name) for name in WORK] + [_cold_start(peer), _bytes(peer)]
    return tuple(workload for workload in made if workload.name not in peer.lacks)


def _workload(peer: Peer, name: str) -> Workload:
    title, measure, figures = WORK[name]

    async def work(settings: Settings) -> Samples:
        async with peer.open(settings) as rival:
            await rival.result(await rival.start("chain", 1))  # whatever a first run sets up
            return await measure(rival, _limit(settings))

    return Workload(
        name=name,
        title=title,
        perform=lambda settings: run_on(settings.loop, work(settings)),
        figures=figures,
        subject=peer.subject,
        requires=peer.requires,
        durabilities=peer.durabilities,
        once=True,
    )


def _limit(settings: Settings) -> float:
    return settings.peer_seconds / 10 if settings.quick else settings.peer_seconds


# --- W9 -------------------------------------------------------------------------------

PROCESSES = 3
BARE = "import asyncio, sqlite3"


def _cold_start(peer: Peer) -> Workload:
    """W9: processes that import the engine, and that finish a first run on a fresh store."""

    async def once(settings: Settings) -> None:
        async with peer.open(settings) as rival:
            await rival.result(await rival.start("chain", 1))

    def perform(settings: Settings) -> Samples:
        importing = [sys.executable, "-c", f"import asyncio, sqlite3, {peer.imports}"]
        _lasted(importing)  # the files are in memory from here on
        samples: Samples = {"bare": [], "import": [], "first": []}
        for number in range(2 if settings.quick else PROCESSES):
            place = replace(settings, directory=settings.directory / f"first-{number}")
            place.directory.mkdir()
            samples["bare"].append(_lasted([sys.executable, "-c", BARE]))
            samples["import"].append(_lasted(importing))
            # Forked off before anything is imported: what is left out is the bare process.
            begun = perf_counter()
            _in_child(partial(_run, partial(once, place)))
            samples["first"].append(perf_counter() - begun + samples["bare"][-1])
        return samples

    figures = (
        Figure("import", "process that imports it"),
        Figure("first", "process that finishes a first run"),
    )
    return Workload(
        name="W9",
        title="cold start",
        perform=perform,
        figures=figures,
        subject=peer.subject,
        requires=peer.requires,
        durabilities=peer.durabilities,
        once=True,
    )


def _lasted(command: list[str]) -> float:
    begun = perf_counter()
    subprocess.run(command, check=True)
    return perf_counter() - begun


# --- W10 ------------------------------------------------------------------------------

FEW, MANY = 1, 101


def _bytes(peer: Peer) -> Workload:
    """W10: what a run of 101 steps takes on the disk more than a run of one, closed."""

    async def work(settings: Settings, steps: int) -> None:
        async with peer.open(settings) as rival:
            await rival.result(await rival.start("chain", steps))

    def perform(settings: Settings) -> Samples:
        sizes = []
        for steps in (FEW, MANY):
            place = replace(settings, directory=settings.directory / f"steps-{steps}")
            place.directory.mkdir()
            _in_child(partial(_run, partial(work, place, steps)))
            sizes.append(used(place.directory))
        return {"step": [(sizes[1] - sizes[0]) / (MANY - FEW)]}

    return Workload(
        name="W10",
        title="bytes on the disk",
        perform=perform,
        figures=(Figure("step", "per step", unit="bytes"),),
        subject=peer.subject,
        requires=peer.requires,
        durabilities=peer.durabilities,
        once=True,
    )


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())  # as it comes: that is what these processes are asked about


def _in_child(work: Callable[[], None]) -> None:
    """Do it in a process of its own: many engines can be opened only once in one."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise RuntimeError("the work that was to be weighed has failed")


def used(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
