"""A turnstile before calls that a program may make a thousand of in one turn of its loop.

`asyncio.gather` of a thousand starts would run the first part of all of them before the
loop does anything else. Past the turnstile go a few in each turn, and those who queue in
the order in which they came; a call that comes alone passes at once. It knows nothing
about what they do then. All callers are of one loop; who owns it sees to that.
"""

from __future__ import annotations

import asyncio
from collections import deque

STARTS_PER_TURN = 32  # two or three milliseconds


class Turnstile:
    """Lets `per_turn` callers pass in one turn of the running loop.

    Example:
        ``if not turnstile.passes(): await turnstile.queue()``
    """

    def __init__(self, per_turn: int = STARTS_PER_TURN) -> None:
        self._per_turn = self._left = per_turn
        self._queue: deque[asyncio.Future[None]] = deque()
        self._is_counting = False

    def passes(self) -> bool:
        """Tell whether the caller may go on at once; otherwise it must `queue`."""
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    async def queue(self) -> None:
        """Wait for a later turn; cancelled, the place goes to the next in the queue."""
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        await place

    def _next_turn(self) -> None:
        self._left = self._per_turn
        while self._queue and self._left:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                self._left -= 1
        self._is_counting = self._left < self._per_turn
        if self._is_counting:
            asyncio.get_running_loop().call_soon(self._next_turn)
