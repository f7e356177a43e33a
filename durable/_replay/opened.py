"""Steps and waits without an outcome: what a body has asked for and still waits for.

A body owns them and forgets each with its outcome. The engine keeps notes on them that are
of this process alone: whether an attempt runs, when something ends by its boot clock. It
is none of theirs what a body does with an outcome.
"""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

from durable._replay.events import INTERRUPTED, PARKED, STEP_STARTED, Event
from durable._replay.items import ItemQueue
from durable._replay.loop import BodyFuture, Timer
from durable._replay.ports import Named


class OpenStep:
    """A step without an outcome. `payload` holds its encoded arguments.

    `args` are the arguments themselves where they are at hand, immutable and all there are.
    `items` takes what a generator step yields, while the body iterates it.
    """

    # In the class, because most steps never have more than one attempt.
    failures = 0
    interruptions = 0  # by a crash; a step that causes crashes is told by them
    parks = 0  # by an orderly stop
    retry_at: int | None = None
    retry_ends: float | None = None  # the same by the boot clock, if it failed in this process
    running = False  # kept by the engine: an attempt is under way
    items: ItemQueue | None = None

    def __init__(
        self,
        seq: int,
        step: Named,
        future: BodyFuture,
        payload: bytes,
        args: tuple[Any, ...] | None = None,
    ) -> None:
        self.seq = seq
        self.step = step
        self.future = future
        self.payload = payload
        self.args = args
        self.context = copy_context()

    @property
    def attempt(self) -> int:
        """Number of the attempt that is due or running, from 1."""
        return self.failures + self.interruptions + self.parks + 1

    def note(self, event: Event) -> None:
        """Take in a `step_retrying` or `step_started` event."""
        if event.kind == STEP_STARTED:
            self.retry_at = None
            return
        if event.name == INTERRUPTED:
            self.interruptions += 1
        elif event.name == PARKED:
            self.parks += 1
        else:
            self.failures += 1
        # What is due at once begins with this very event.
        self.retry_at = None if event.due is None or event.due <= event.at else event.due


class OpenWait:
    """A wait that has not been completed. `name` is sleep, until or timer.

    `ends` is when a duration is over by the boot clock, if it was asked for in this process.
    """

    __slots__ = ("due", "ends", "handle", "name", "seq")

    def __init__(self, seq: int, due: int, name: str, handle: Timer, ends: float | None) -> None:
        self.seq = seq
        self.ends = ends
        self.due = due
        self.name = name
        self.handle = handle
