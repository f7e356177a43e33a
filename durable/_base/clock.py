"""The only door to time: wall clock, boot clock and timers.

Owns the `Clock` seam and the real clock behind it. No other module reads a clock,
so a test that swaps the clock controls all time that the library sees.

Two clocks on purpose. The *wall* clock is what people and journals agree on; it may
jump. The *boot* clock never jumps and, where the system offers it, keeps counting
while the machine is suspended: comparing the two reveals a jump, comparing the boot
clock with a loop's timer reveals a suspend.

Does not know what anybody waits for: due times and heaps belong to the engine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Timer(Protocol):
    """What `Clock.call_later` returns: something that can be called off."""

    def cancel(self) -> None:
        """Call the callback off; harmless when it has run already."""


class Clock(Protocol):
    """Where time comes from. `SystemClock` in production, `VirtualClock` in tests."""

    @property
    def tick_seconds_max(self) -> float:
        """Longest single timer to arm, in seconds, so that jumps and suspends are noticed."""

    def wall_us(self) -> int:
        """UTC microseconds since 1970. May jump in either direction."""

    def boot(self) -> float:
        """Seconds since an arbitrary start; never jumps, counts suspended time if possible."""

    def call_later(
        self, loop: asyncio.AbstractEventLoop, delay_seconds: float, callback: Callable[[], object]
    ) -> Timer:
        """Run `callback` on `loop` after `delay_seconds` (not below 0)."""


class SystemClock:
    """The real clocks of this machine.

    `tick_seconds_max` is 1 second: loop timers stand still during a suspend and know
    nothing of wall-clock jumps, so whoever waits for a wall time looks again each second.
    """

    tick_seconds_max: float = 1.0

    def wall_us(self) -> int:
        """UTC microseconds since 1970."""
        return time.time_ns() // 1000

    def boot(self) -> float:
        """Seconds since boot, suspended time included where the system can tell."""
        return _read_boot()

    def call_later(
        self, loop: asyncio.AbstractEventLoop, delay_seconds: float, callback: Callable[[], object]
    ) -> Timer:
        """`loop.call_later`, with negative delays taken as 0."""
        return loop.call_later(max(0.0, delay_seconds), callback)


def _pick_boot() -> Callable[[], float]:
    # Linux names the suspend-counting clock BOOTTIME. Darwin's MONOTONIC counts
    # suspended time, but Python's time.monotonic() reads another clock there.
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None and sys.platform == "darwin":
        boottime = getattr(time, "CLOCK_MONOTONIC", None)
    if boottime is None:
        return time.monotonic
    clock_id = boottime
    try:
        time.clock_gettime(clock_id)
    except OSError:  # known to the C library, unknown to the kernel
        return time.monotonic
    return partial(time.clock_gettime, clock_id)


_read_boot = _pick_boot()
