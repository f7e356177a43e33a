"""Clocks: the real one moves on its own, the virtual one only when told to."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable._base.clock import Clock, SystemClock, Timer
from durable.testing import VirtualClock, settle


def test_both_clocks_satisfy_the_seam() -> None:
    """The engine may hold either behind the same type."""
    clocks: list[Clock] = [SystemClock(), VirtualClock()]
    assert [clock.tick_seconds_max for clock in clocks] == [1.0, math.inf]


def test_system_clock_counts_utc_microseconds_and_never_goes_back() -> None:
    """The wall is a plausible date in microseconds, the boot clock is monotonic."""
    clock = SystemClock()
    assert 1_700_000_000_000_000 < clock.wall_us() < 10_000_000_000_000_000
    readings = [clock.boot() for _ in range(100)]
    assert readings == sorted(readings)


async def test_system_clock_calls_back_on_the_loop() -> None:
    """A negative delay is due at once; a cancelled timer never fires."""
    loop = asyncio.get_running_loop()
    fired: asyncio.Future[str] = loop.create_future()
    clock = SystemClock()
    clock.call_later(loop, 0, lambda: fired.set_result("cancelled one")).cancel()
    clock.call_later(loop, -5, lambda: fired.set_result("due"))
    assert await fired == "due"


async def test_callbacks_fire_in_deadline_order_at_their_own_time() -> None:
    """Equal deadlines fire in the order they were asked for; both clocks stand at each."""
    clock, seen = VirtualClock(), list[tuple[str, int, float]]()
    start = clock.wall_us()
    loop = asyncio.get_running_loop()

    def note(name: str) -> None:
        seen.append((name, clock.wall_us() - start, clock.boot()))

    for name, delay in [("c", 2.0), ("a", 1.0), ("b", 1.0)]:
        clock.call_later(loop, delay, lambda name=name: note(name))
    await clock.advance(5)
    assert seen == [("a", 1_000_000, 1.0), ("b", 1_000_000, 1.0), ("c", 2_000_000, 2.0)]
    assert (clock.wall_us() - start, clock.boot(), clock.pending) == (5_000_000, 5.0, 0)


async def test_a_timer_set_by_a_callback_fires_in_the_same_advance() -> None:
    """A chain of waits is walked through, each at its own instant."""
    clock, ticks = VirtualClock(), list[float]()
    loop = asyncio.get_running_loop()

    def tick() -> None:
        ticks.append(clock.boot())
        clock.call_later(loop, 1, tick)

    clock.call_later(loop, 1, tick)
    await clock.advance(3.5)
    assert ticks == [1.0, 2.0, 3.0]
    assert clock.pending == 1


async def test_a_cancelled_timer_does_not_fire() -> None:
    """Also when another callback of the same instant cancels it."""
    clock, fired = VirtualClock(), list[str]()
    loop = asyncio.get_running_loop()
    later: list[Timer] = []

    def cancel_later() -> None:
        later[0].cancel()

    clock.call_later(loop, 1, cancel_later)
    later.append(clock.call_later(loop, 1, lambda: fired.append("late")))
    clock.call_later(loop, 1, lambda: fired.append("cancelled")).cancel()
    await clock.advance(2)
    assert fired == []


async def test_suspend_moves_both_clocks_and_fires_only_at_the_next_advance() -> None:
    """As on a laptop whose lid was closed over the deadline."""
    clock, fired = VirtualClock(), list[float]()
    clock.call_later(asyncio.get_running_loop(), 10, lambda: fired.append(clock.boot()))
    clock.suspend(3600)
    await settle()
    assert (fired, clock.boot()) == ([], 3600.0)
    await clock.advance(0)
    assert fired == [3600.0]


async def test_a_jump_of_the_wall_clock_leaves_timers_and_boot_clock_alone() -> None:
    """Only `wall_us` shows it."""
    clock, fired = VirtualClock(), list[int]()
    clock.call_later(asyncio.get_running_loop(), 1, lambda: fired.append(clock.wall_us()))
    clock.set_wall(5)
    assert clock.boot() == 0
    await clock.advance(1)
    assert fired == [1_000_005]


async def test_the_clock_never_moves_backwards() -> None:
    """Negative and endless moves are refused."""
    clock = VirtualClock()
    for seconds in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="forward"):
            await clock.advance(seconds)
    with pytest.raises(ValueError, match="forward"):
        clock.suspend(-1)


async def test_timers_of_a_closed_loop_are_forgotten() -> None:
    """A closed loop never calls back, under the virtual clock as under the real one."""
    clock, other = VirtualClock(), asyncio.new_event_loop()
    clock.call_later(other, 1, lambda: pytest.fail("called on a closed loop"))
    other.close()
    await clock.advance(2)
    assert clock.pending == 0


@given(st.lists(st.floats(0, 1e6), max_size=20), st.floats(0, 1e6))
def test_exactly_what_is_due_fires_and_never_early(delays: list[float], move: float) -> None:
    """Whatever the delays: due means the clock has reached them, to the microsecond."""

    async def body() -> None:
        clock, fired = VirtualClock(), list[tuple[float, float]]()
        loop = asyncio.get_running_loop()
        for delay in delays:
            clock.call_later(loop, delay, lambda d=delay: fired.append((d, clock.boot())))
        await clock.advance(move)
        assert all(at >= delay - 1e-9 for delay, at in fired)
        assert len(fired) + clock.pending == len(delays)
        assert all(delay > move - 1e-5 for delay in set(delays) - {d for d, _ in fired})

    asyncio.run(body())
