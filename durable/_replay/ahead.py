"""Replays the outcomes of steps without leaving the body's loop in between.

Most of a history is steps that were completed, and much of what it takes to replay one is
to enter the loop and to leave it. So the outcomes that come next are decoded in advance,
outside, because a value may run code of its class, which is not the body's. Then each is
given to the body when its loop has come to rest. That is when it would have got it anyhow:
the body cannot tell the difference.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from durable._replay.events import Event
from durable._replay.ports import Payloads
from durable._replay.script import Script
from durable.errors import PayloadDecodeError


class Replayed(Protocol):
    """A body."""

    script: Script
    main: asyncio.Task[Any] | None

    @property
    def steps(self) -> dict[int, Any]:
        """Its open steps: what the body awaits as `future`, unless it iterates `items`."""

    @property
    def payloads(self) -> Payloads:
        """How its values become bytes."""


class Ahead:
    """The outcomes behind the next event of a body's history, for a slice of its replay.

    Attributes:
        left: how many events may be applied before the slice ends.
    """

    def __init__(self, body: Replayed, events_max: int) -> None:
        self.left = events_max
        self._body = body
        self._script = body.script
        self._steps = body.steps
        self._outcomes = _decoded(body, events_max)

    def give(self) -> bool:
        """Give the body the next event of its history, if that can be done; tell whether."""
        script, outcomes = self._script, self._outcomes
        if not self.left or not outcomes or outcomes[0][0] != script.cursor:
            return False
        _, event, value = outcomes.popleft()
        step, main = self._steps.get(event.ref), self._body.main
        if step is None or step.items is not None or script.divergence is not None:
            return False
        if main is None or main.done():
            return False
        del self._steps[event.ref]
        script.cursor += 1
        script.now_us = event.at
        self.left -= 1
        step.future.set_result(value)
        return True


def _decoded(body: Replayed, outcomes_max: int) -> deque[tuple[int, Event, object]]:
    """Return outcomes with their places and values, up to one that cannot be decoded."""
    decode, found = body.payloads.decode, deque[tuple[int, Event, object]]()
    for place, event in body.script.outcomes_ahead(outcomes_max):
        assert event.payload is not None
        try:
            found.append((place, event, decode(event.payload)))
        except PayloadDecodeError:
            break  # it is met in its turn
    return found
