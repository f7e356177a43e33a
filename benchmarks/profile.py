"""``python -m benchmarks profile [W2 ...]``: where the time of workloads goes, by room.

Without names, or with several, it prints one Markdown table, which `--keep` writes to `results/`
with a picture of it; with one name, its hottest functions and its calls too.

Two looks at the same work. A sampler interrupts the loop's thread every millisecond
of wall time and notes where it is: this splits the real time, waiting included, and
hardly disturbs. Then cProfile counts calls: exact, and the same on every machine, but
its times are distorted in favour of code that calls little, so only calls are shown.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import shlex
import signal
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Self, TypeVar

from benchmarks import machine, plot, report, results, rooms, table
from benchmarks.floors import Durability
from benchmarks.workload import Settings, Workload
from benchmarks.workloads import find

K = TypeVar("K")
Columns = Mapping[str, Mapping[str, float]]  # seconds per operation, by workload and by room

INTERVAL_SECONDS = 0.001
WITHOUT_NAMES = ("W2", "W3", "W4")
FACTS = ("processor", "python", "date")


class Sampler:
    """Seconds of wall time per room and per place, while it is entered (main thread only)."""

    def __init__(self) -> None:
        self.by_room: Counter[str] = Counter()
        self.by_place: Counter[tuple[str, str]] = Counter()
        self._last = 0.0
        self._collecting = False

    def __enter__(self) -> Self:
        self._last = perf_counter()
        gc.callbacks.append(self._collect)
        signal.signal(signal.SIGALRM, self._sample)
        signal.setitimer(signal.ITIMER_REAL, INTERVAL_SECONDS)
        return self

    def __exit__(self, *raised: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.callbacks.remove(self._collect)

    def _collect(self, phase: str, details: object) -> None:
        self._collecting = phase == "start"

    def _sample(self, number: int, frame: FrameType | None) -> None:
        now = perf_counter()
        # Weighted, because a signal is late while another thread holds the interpreter.
        passed, self._last = now - self._last, now
        if self._collecting:
            room, where = rooms.COLLECTING, "the collector"
        else:
            room, where = rooms.room_of_frame(frame), rooms.place(frame)
        self.by_room[room] += passed  # type: ignore[assignment]  # Counter of seconds
        self.by_place[room, where] += passed  # type: ignore[assignment]
        # Armed anew each time: a timer that repeats would interrupt this very function.
        signal.setitimer(signal.ITIMER_REAL, INTERVAL_SECONDS)


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.keep:
        plot.require()
    if len(options.workloads) != 1:
        columns = _columns(options.workloads or WITHOUT_NAMES, options.durability, options.seconds)
        print(_together(columns))
        if options.keep:
            _keep(columns, shlex.join(["python", "-m", "benchmarks", "profile", *arguments]))
        return 0
    workload = find(options.workloads[0])
    sampler, done = _sampled(workload, options.durability, options.seconds)
    print(f"{workload.name}, {workload.title}, {options.durability}: {done} operations\n")
    print(_split(sampler, done))
    print(f"\nHottest functions (own time)\n\n{_hottest(sampler, done, options.top)}")
    statistics = _counted(workload, options.durability)
    print(f"\nCalls per operation\n\n{_calls(statistics, workload.operations, options.top)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks profile")
    parser.add_argument("workloads", nargs="*", metavar="W", help="default: W2 W3 W4, in a table")
    parser.add_argument("--durability", choices=("full", "process"), default="full")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to sample")
    parser.add_argument(
        "--keep", action="store_true", help="the table and its picture, in results/"
    )
    parser.add_argument("--top", type=int, default=25, help="how many functions to list")
    return parser


def _perform(workload: Workload, durability: Durability) -> None:
    with tempfile.TemporaryDirectory(dir=machine.scratch_directory()) as directory:
        # On uvloop waiting has no frame of its own, and could not be told from work.
        workload.perform(Settings(Path(directory), durability, "asyncio"))


def _sampled(workload: Workload, durability: Durability, seconds: float) -> tuple[Sampler, int]:
    """Repeat the workload for about `seconds`; the sampler and the operations done."""
    sampler, done, begun = Sampler(), 0, perf_counter()
    while done == 0 or perf_counter() - begun < seconds:
        with sampler:
            _perform(workload, durability)
        done += workload.operations
    return sampler, done


def _columns(names: Iterable[str], durability: Durability, seconds: float) -> Columns:
    """Seconds per operation and room, by workload; rooms in the order of their weight."""
    spent: dict[str, Counter[str]] = {}
    for name in names:
        sampler, done = _sampled(find(name), durability, seconds)
        by_room = {room: took / done for room, took in sampler.by_room.items()}
        spent[f"{name} at {durability}"] = Counter(by_room)  # type: ignore[arg-type]
    weights = sum(spent.values(), Counter[str]())
    order = [room for room, _ in _by_time(weights)]
    return {title: {room: by_room[room] for room in order} for title, by_room in spent.items()}


def _together(columns: Columns) -> str:
    """One column per workload, one line per room: time per operation, and its share."""
    totals = {title: sum(by_room.values()) for title, by_room in columns.items()}
    body = [
        (room, *(_cell(by_room[room], totals[title]) for title, by_room in columns.items()))
        for room in next(iter(columns.values()))
    ]
    return report.grid(("room", *columns), [*body, ("all", *map(table.seconds, totals.values()))])


def _cell(spent: float, total: float) -> str:
    return f"{table.seconds(spent)} ({100 * spent / total:.0f} %)"


def _keep(columns: Columns, command: str) -> None:
    """Write the table and its picture to `benchmarks/results`."""
    facts = machine.describe(machine.scratch_directory())
    told = ", ".join([*(facts[name] for name in FACTS), f"load before {facts['load before']}"])
    text = f"`{command}`, {told}:\n\n{_together(columns)}\n"
    (results.RESULTS / "profile.md").write_text(text)
    plot.draw_rooms(columns, told, results.RESULTS / "profile.png")


def _counted(workload: Workload, durability: Durability) -> pstats.Stats:
    profiler = cProfile.Profile()
    profiler.runcall(_perform, workload, durability)
    return pstats.Stats(profiler)


def _split(sampler: Sampler, operations: int) -> str:
    total = sum(sampler.by_room.values())
    body = [_share(spent, total, operations, room) for room, spent in _by_time(sampler.by_room)]
    body.append(_share(total, total, operations, "all"))
    return table.aligned(("room", "share", "per operation"), body, text_columns=1)


def _hottest(sampler: Sampler, operations: int, top: int) -> str:
    total = sum(sampler.by_room.values())
    body = [
        (*_share(spent, total, operations, where), room)
        for (room, where), spent in _by_time(sampler.by_place)[:top]
    ]
    return table.aligned(("function", "share", "per operation", "room"), body, text_columns=1)


def _share(spent: float, total: float, operations: int, name: str) -> tuple[str, str, str]:
    return name, f"{100 * spent / total:.1f} %", table.seconds(spent / operations)


def _by_time(counter: Mapping[K, float]) -> list[tuple[K, float]]:
    return sorted(counter.items(), key=lambda item: -item[1])


def _calls(statistics: pstats.Stats, operations: int, top: int) -> str:
    """Python calls per operation: by room, then the functions called most."""
    counted = sorted(_python_calls(statistics), key=lambda item: -item[2])
    per_room: Counter[str] = Counter()
    for room, _, calls in counted:
        per_room[room] += calls
    body = [("all rooms", "", f"{sum(per_room.values()) / operations:.2f}")]
    body += [(room, "", f"{calls / operations:.2f}") for room, calls in per_room.most_common()]
    body += [(room, name, f"{calls / operations:.2f}") for room, name, calls in counted[:top]]
    return table.aligned(("room", "function", "calls"), body, text_columns=2)


def _python_calls(statistics: pstats.Stats) -> Iterator[tuple[str, str, int]]:
    """Room, function and number of calls of every function written in Python."""
    entries: dict[tuple[str, int, str], tuple[int, int]] = statistics.stats  # type: ignore[attr-defined]
    for (filename, line, name), entry in entries.items():
        if filename != "~":
            room = rooms.room_of_file(filename) or "standard library"
            yield room, f"{rooms.short(filename)}:{line} {name}", entry[1]
