"""Clocks that are set, and machines that sleep: any order of them, on a clock under control.

Sleeps for a time are measured by what really passed, suspends included; sleeps until an
instant by the wall clock. None ends early, and all that are due end at the next look, a
second later at most.

The process is killed now and then. A run that is not in memory any more is woken by the wall
clock, as the documentation says, so from there on its sleep is held against that.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from durable import sleep, workflow
from durable.testing import VirtualClock
from tests.campaign.programme import Counts, FoundError
from tests.engine.rig import crash, make, quiet
from tests.fuzz.aside import quiet as quiet_log

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVENTS = 25
HOUR = 3600
_SPANS = (0.3, 1, 59, HOUR, 8 * HOUR, 30 * 86400)
_JUMPS = (-10 * 365 * 86400, -8 * HOUR, -HOUR, -1, 1, HOUR, 8 * HOUR, 10 * 365 * 86400)


@dataclass
class _Sleep:
    """One sleep: when it is due on its clock, and whether it has ended."""

    due: float
    absolute: bool
    recorded: float  # when it is due on the wall clock, as the journal has it
    ended: bool = False


class _World:
    """The sleeps of a trial, by name, and the clock that they live under."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.clock.tick_seconds_max = 1.0  # jumps are noticed as the system's clock notices them
        self.sleeps: dict[str, _Sleep] = {}
        self.early: list[str] = []

    def present(self, one: _Sleep) -> float:
        return self.clock.wall_us() / 1e6 if one.absolute else self.clock.boot()

    def restart(self) -> None:
        """Note that the sleeps are in no process's memory any more."""
        for one in self.sleeps.values():
            if not one.absolute:
                one.due, one.absolute = one.recorded, True

    def end(self, name: str) -> None:
        one = self.sleeps[name]
        one.ended = True
        if self.present(one) < one.due - 1e-5:
            self.early.append(f"{name}: {one}, and it is {self.present(one)}")


world = _World()


@workflow(name="clocks.sleeper")
async def sleeper(name: str, until: float | None, seconds: float) -> None:
    """Sleep, and say so."""
    await sleep(seconds if until is None else EPOCH + timedelta(seconds=until))
    world.end(name)


def jump_trial(seed: int, place: Path) -> Counts:
    """Set clocks and suspend the machine in an order drawn by the seed.

    Raises:
        FoundError: a sleep ended early, or did not end when it was due.
    """
    global world
    world = _World()
    with quiet_log():
        counts = asyncio.run(_live(random.Random(seed), place / "app.db"))
    if world.early:
        raise FoundError("corrupt", f"ended early: {world.early}")
    return counts


async def _live(draw: random.Random, path: Path) -> Counts:
    rt = make(path, world.clock)
    await rt.open()
    counts: Counter[str] = Counter()
    try:
        for number in range(EVENTS):
            match draw.choice(("nap", "nap", "until", "jump", "suspend", "pass", "pass", "kill")):
                case "nap" | "until" as kind:
                    await _begin(rt, draw, f"{kind} {number}", absolute=kind == "until")
                case "jump":
                    counts["jumps"] += 1
                    world.clock.set_wall(world.clock.wall_us() + draw.choice(_JUMPS) * 1_000_000)
                    await _move(rt, 0.5)
                case "suspend":
                    counts["suspends"] += 1
                    world.clock.suspend(draw.choice(_SPANS))
                case "pass":
                    await _move(rt, draw.choice(_SPANS[:4]))
                case "kill":
                    counts["kills"] += 1
                    await crash(rt)
                    world.restart()
                    rt = make(path, world.clock)
                    await rt.open()
            await _judge(rt)
        counts["sleeps"] = len(world.sleeps)
        return counts
    finally:
        await rt.close()


async def _begin(rt: object, draw: random.Random, name: str, *, absolute: bool) -> None:
    seconds = draw.choice(_SPANS)
    recorded = world.clock.wall_us() / 1e6 + seconds
    due = recorded if absolute else world.clock.boot() + seconds
    world.sleeps[name] = _Sleep(due, absolute, recorded)
    until = due if absolute else None
    await rt.start(sleeper.options(run_id=name), name, until, seconds)  # type: ignore[attr-defined]
    await quiet(rt)  # type: ignore[arg-type]


async def _move(rt: object, seconds: float) -> None:
    """Let time pass in a few strides, as far as something may be due in them."""
    for _ in range(3):
        world.clock.suspend(seconds / 3)
        await world.clock.advance(0)
        await quiet(rt)  # type: ignore[arg-type]


async def _judge(rt: object) -> None:
    """Look a second later: all that was due has ended."""
    due = [name for name, one in world.sleeps.items() if world.present(one) >= one.due]
    for _ in range(3):
        await world.clock.advance(0.5)
        await quiet(rt)  # type: ignore[arg-type]
    late = [name for name in due if not world.sleeps[name].ended]
    if late:
        raise FoundError("hung", f"{[(n, world.sleeps[n]) for n in late]} are due, and sleep")
