"""Long work on an event loop, in slices, so that the loop's other work is not starved.

Owns how long a slice may be. It knows nothing about what is done in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from durable._base.clock import Clock

S = TypeVar("S")
T = TypeVar("T")

SLICE_SECONDS = 0.005
_ITEMS_PER_LOOK = 16  # at the clock


async def in_slices(do: Callable[[S], T], items: Iterable[S], clock: Clock) -> list[T]:
    """Return ``[do(item) for item in items]``, giving the loop a turn every few milliseconds.

    Example:
        ``rows = await in_slices(encode, values, clock)``
    """
    done: list[T] = []
    end = clock.boot() + SLICE_SECONDS
    for number, item in enumerate(items, 1):
        done.append(do(item))
        if number % _ITEMS_PER_LOOK == 0 and clock.boot() >= end:
            await asyncio.sleep(0)
            end = clock.boot() + SLICE_SECONDS
    return done
