"""Simulated months of an application, whose process is killed again and again.

Time passes on a virtual clock, so that retention, sleeps of days and retries of hours happen
at their pace while a simulated day takes a fraction of a second. The process is a real one,
on a real file. Judged are: that every run that was acknowledged says in time that it is over,
with the right value; that finished ones are deleted when they may be; and that memory,
descriptors, threads, the WAL and the file do not grow once all have come into balance.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durable.testing import VirtualClock
from tests.campaign.programme import Counts, FoundError
from tests.crash.oracle import Journal, PromiseBrokenError
from tests.soak.dweller import LIFE_DAYS, RETENTION_DAYS

ROOT = Path(__file__).parents[2]
VALUE = 3  # what every run comes to
_DAY_US = 86_400_000_000
_BALANCE_DAYS = LIFE_DAYS + RETENTION_DAYS + 1
_WAL_BYTES_MAX = 32 << 20
_GROWTH_MAX = 1.25  # of a median, from the first half of a time in balance to the second
_MEMORY_GROWTH_MAX = 12 << 20  # of one process, from its first quarters to its last
_SETTLED_QUARTERS = 40  # after which a process has seen everything that it does
_ENVIRONMENT = {"PYTHONPATH": str(ROOT)}


@dataclass
class _Seen:
    """What the ledger tells."""

    wall_us: int = 0
    started: dict[str, int] = field(default_factory=dict)
    over: dict[str, set[int]] = field(default_factory=dict)
    quarters: list[list[dict[str, Any]]] = field(default_factory=list)  # by process

    def read(self, ledger: Path) -> None:
        self.quarters.clear()
        for line in ledger.read_text().splitlines():
            match json.loads(line):
                case ["begin", _, _]:
                    self.quarters.append([])
                case ["started", name, wall_us]:
                    self.started[name] = wall_us
                case ["over", name, value]:
                    self.over.setdefault(name, set()).add(value)
                case ["quarter", wall_us, costs]:
                    self.wall_us = wall_us
                    self.quarters[-1].append(costs)


def soak_trial(
    seed: int, place: Path, days: int = 365, facts: tuple[int, int] = (50, 3000)
) -> Counts:
    """Live through so many simulated days, with a kill after a number of facts drawn.

    Raises:
        FoundError: something was lost, or grows.
    """
    draw = random.Random(seed)
    seen = _Seen(VirtualClock().wall_us())
    begun, kills = seen.wall_us, 0
    ledger = place / "ledger"
    while (left := days - (seen.wall_us - begun) // _DAY_US) > 0:
        words = [place / "app.db", ledger, seen.wall_us, left, draw.randrange(1 << 30)]
        kills += _live(place, list(map(str, words)), draw.randint(*facts))
        seen.read(ledger)
    _judge_runs(seen)
    _judge_growth(seen)
    _judge_journal(place, seen)
    return Counter(days=days, kills=kills, runs=len(seen.started))


def _live(place: Path, words: list[str], facts: int) -> int:
    """Let a process live until so many things have happened; return whether it was killed."""
    with (place / "errors").open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.dweller", *words],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, env=os.environ | _ENVIRONMENT,
        )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as told, process:
        while facts > 0 and (more := told.read1()):  # type: ignore[attr-defined]
            facts -= len(more)
        if facts <= 0:
            process.send_signal(signal.SIGKILL)
        code = process.wait()
    if code not in {0, -signal.SIGKILL}:
        text = (place / "errors").read_text()[-4000:]
        raise FoundError("broken", f"the process ended with {code}: {text}")
    return int(code != 0)


# --- judging --------------------------------------------------------------------------------


def _judge_runs(seen: _Seen) -> None:
    for name, at in seen.started.items():
        values = seen.over.get(name, set())
        if not values and seen.wall_us - at > LIFE_DAYS * _DAY_US:
            raise FoundError(
                "lost", f"{name} was started, and is not over: {len(seen.started)} runs"
            )
        if values - {VALUE}:
            raise FoundError("corrupt", f"{name} came to {values}")


def _judge_journal(place: Path, seen: _Seen) -> None:
    try:
        journal = Journal.read(place)
    except PromiseBrokenError as error:
        raise FoundError("corrupt", str(error)) from error
    for name, at in seen.started.items():
        days = (seen.wall_us - at) / _DAY_US
        if name not in journal.status and days < RETENTION_DAYS:
            raise FoundError("lost", f"{name} is gone after {days:.1f} days")
        if name in journal.status and days > _BALANCE_DAYS:
            raise FoundError(
                "broken", f"{name} is kept for {days:.1f} days: {journal.status[name]}"
            )


def _judge_growth(seen: _Seen) -> None:
    for costs in filter(None, seen.quarters):
        if max(each["wal"] for each in costs) > _WAL_BYTES_MAX:
            raise FoundError("broken", f"a WAL of {max(each['wal'] for each in costs):,} bytes")
        if len(settled := costs[_SETTLED_QUARTERS:]) >= _SETTLED_QUARTERS:
            _judge_process(settled)
    balanced = [each for costs in seen.quarters for each in costs][4 * _BALANCE_DAYS :]
    half = len(balanced) // 2
    if half >= _SETTLED_QUARTERS:
        first, second = _median(balanced[:half], "database"), _median(balanced[half:], "database")
        if second > _GROWTH_MAX * first:
            raise FoundError("broken", f"the file grows: {first:,.0f}, then {second:,.0f} bytes")


def _judge_process(costs: list[dict[str, Any]]) -> None:
    part = len(costs) // 3
    for name, most in (("memory", _MEMORY_GROWTH_MAX), ("files", 0), ("threads", 0)):
        first, last = _median(costs[:part], name), _median(costs[-part:], name)
        if last - first > most:
            raise FoundError(
                "broken", f"{name} grow in one process: {first:,.0f}, then {last:,.0f}"
            )


def _median(costs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(each[name] for each in costs)
