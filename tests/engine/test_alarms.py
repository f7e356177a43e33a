"""The heap of due instants: each alarm goes off at its instant, and once."""

from __future__ import annotations

import asyncio
import random

from durable._engine.timers import Timers
from durable.testing import VirtualClock

# Both are whole microseconds, but as floats their sum is more than the instant they lead to.
START_US, DELAY_US = 6_256_689_938, 73_803_458


async def test_alarm_whose_time_is_no_exact_float_goes_off_at_its_instant(
    virtual_clock: VirtualClock,
) -> None:
    """And advancing a virtual clock past it comes to an end."""
    assert START_US / 1e6 + DELAY_US / 1e6 > (START_US + DELAY_US) / 1e6
    await virtual_clock.advance(START_US / 1e6)
    timers = Timers(virtual_clock, asyncio.get_running_loop())
    due, fired = virtual_clock.wall_us() + DELAY_US, list[int]()
    timers.at(due, lambda: fired.append(virtual_clock.wall_us()))
    async with asyncio.timeout(20):
        await virtual_clock.advance(DELAY_US / 1e6)
    assert fired == [due]


async def test_alarm_that_is_past_goes_off_at_once_beside_another_of_its_instant(
    virtual_clock: VirtualClock,
) -> None:
    """Found by simulation (T5 seed 847410): the first was set before the wall clock was."""
    timers, fired = Timers(virtual_clock, asyncio.get_running_loop()), list[str]()
    due = virtual_clock.wall_us() + 495_000_000
    timers.at(due, lambda: fired.append("first"), absolute=True)
    virtual_clock.set_wall(due + 1)
    timers.at(due, lambda: fired.append("second"), absolute=True)
    await virtual_clock.advance(0)
    assert fired == ["first", "second"]


async def test_alarms_at_any_microsecond_go_off_at_their_instants(
    virtual_clock: VirtualClock, seed: int
) -> None:
    """Whatever the clock shows when they are set."""
    draw = random.Random(seed)
    timers = Timers(virtual_clock, asyncio.get_running_loop())
    late: list[tuple[int, int]] = []

    def set_alarm() -> None:
        due = virtual_clock.wall_us() + draw.randrange(10**9)
        timers.at(due, lambda: check(due))

    def check(due: int) -> None:
        if virtual_clock.wall_us() != due:
            late.append((due, virtual_clock.wall_us()))
        set_alarm()

    set_alarm()
    async with asyncio.timeout(20):
        await virtual_clock.advance(50_000)
    assert late == []
