"""What a body does when its history was set back at this place: its clocks have stood still.

Failures so far count as attempts but not against `max_retries`; pending durations, and the
time that a cancelled run has for its clean-up, go on with what was left of them. A mark
that only delivers what came while the run was parked changes nothing of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from durable._replay.events import RESUMED, Event
from durable._replay.script import Script


class Tried(Protocol):
    """A step without an outcome."""

    failures: int
    parks: int
    retry_at: int | None


class Pending(Protocol):
    """A wait."""

    name: str
    due: int


class Marked(Protocol):
    """A body."""

    script: Script
    cancel_event: Event | None

    @property
    def steps(self) -> Mapping[int, Tried]:
        """Its open steps."""

    @property
    def waits(self) -> Mapping[int, Pending]:
        """Its open waits."""


def take_mark(body: Marked, event: Event, value: object) -> None:
    """Take in a `run_rewound`."""
    if event.name == RESUMED:
        return
    gap = max(0, event.at - body.script.now_us)
    for step in body.steps.values():
        step.parks += step.failures
        step.failures = 0
        step.retry_at = None
    for wait in body.waits.values():
        if wait.name != "until":
            wait.due += gap
    request = body.cancel_event
    if request is not None and request.due is not None:
        body.cancel_event = request._replace(due=request.due + gap)
