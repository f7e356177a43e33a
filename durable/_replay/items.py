"""What a generator step has yielded, as the body takes it.

Items reach the body as events, one at a time and in their order, live and on replay alike;
an `ItemQueue` keeps those that the body has not asked for yet. The step's outcome comes
behind its last item: its end, or the exception that the body meets there.
"""

from __future__ import annotations

from collections import deque

from durable._replay.loop import BodyLoop, StepFuture

END = object()


class ItemQueue:
    """See the module's docstring.

    Attributes:
        count: items recorded so far.
    """

    __slots__ = ("_loop", "_outcome", "_waiter", "_waiting", "count")

    def __init__(self, loop: BodyLoop, outcome: StepFuture) -> None:
        self.count = 0
        self._loop = loop
        self._outcome = outcome
        self._waiting: deque[object] = deque()
        self._waiter = loop.create_future()
        outcome.add_done_callback(self._ended)

    @property
    def waiting(self) -> int:
        """How many items the body has not asked for yet."""
        return len(self._waiting)

    def put(self, value: object) -> None:
        """Take in the next item."""
        self.count += 1
        self._waiting.append(value)
        self._wake()

    async def take(self) -> object:
        """Return the next item, `END` behind the last one; raises what the step failed with."""
        while not self._waiting:
            if self._outcome.done():
                self._outcome.result()
                return END
            if self._waiter.done():
                self._waiter = self._loop.create_future()
            await self._waiter
        return self._waiting.popleft()

    def give_up(self) -> None:
        """Note that nobody will ask again: an open step is cancelled."""
        self._outcome.cancel()

    def _wake(self) -> None:
        if not self._waiter.done():
            self._waiter.set_result(None)

    def _ended(self, outcome: object) -> None:
        if not self._outcome.cancelled():
            self._outcome.exception()  # seen: a body that has left the loop does not ask for it
        self._wake()
