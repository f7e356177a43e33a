"""The workflow that the protocol model runs, as a function of its history.

    x = await A()                      # retried, may time out, may fail
    async with hook: y = await first of (hook, timer); after the timer: await hook
    await B(x, y)                      # the effect that shows what the body has observed
    return x, y

A history is a tuple of short texts. `read` says what the body has come to by a history, and
`extended` what it decides when one more event reaches it: always the same, live and replayed.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

History = tuple[str, ...]

BEGINNING: History = ("run_created", "run_started", "A created")
ENDS = ("completed", "cancelled")
ATTEMPTS_MAX = 2
RETRYING, INTERRUPTED, CREATED = "retrying", "interrupted", "created"
NOTES = {RETRYING, INTERRUPTED}
# Told to the body of this process, and never recorded.
UNRECORDED = "~"
PAYLOAD, LOST = "payload", "payload (its waiter is cancelled)"


class Body(NamedTuple):
    """What a body has observed, and where it waits."""

    waits_for: str = "A"  # A, hook or timer, hook, B, nothing
    x: str = ""
    y: str = ""
    attempt: int = 1  # of the step it waits for
    failures: int = 0  # of its attempts; one that was cut off is none
    queued: tuple[str, ...] = ()  # payloads that nobody has taken yet


@cache
def read(history: History) -> Body:
    """Return what the body has come to."""
    body = Body()
    for event in history:
        body = _take(body, event.removeprefix(UNRECORDED))
    return body


def _take(body: Body, event: str) -> Body:
    what, _, value = event.partition(" ")
    if what in {"A", "A_failed"} and value not in {*NOTES, CREATED} and body.waits_for == "A":
        body = body._replace(waits_for="hook or timer", x=value or "failed", attempt=1)
    elif event == "timer fired" and body.waits_for == "hook or timer":
        body = body._replace(waits_for="hook", y="late ")
    elif what == PAYLOAD and event != LOST:
        body = body._replace(queued=(*body.queued, value))
    elif value in NOTES:
        failures = body.failures + (value == RETRYING)
        body = body._replace(attempt=body.attempt + 1, failures=failures)
    elif event.startswith(ENDS):
        body = body._replace(waits_for="nothing")
    if body.queued and body.waits_for.startswith("hook"):
        first, *others = body.queued
        body = body._replace(waits_for="B", y=body.y + first, queued=tuple(others))
    return body


@cache
def extended(history: History, *events: str) -> History:
    """Return the history once the body was given `events` and has decided what follows."""
    for event in events:
        if (before := read(history)).waits_for == "nothing":
            return history  # it has ended: whatever comes is ignored
        history += (event, *_decided(before, read((*history, event)), event))
    return history


def _decided(before: Body, after: Body, event: str) -> list[str]:
    if event == "cancel asked":
        return ["cancelled"]
    if event == "B done":
        return [f"completed ({after.x}, {after.y})"]
    decided: list[str] = []
    if before.waits_for == "A" != after.waits_for:
        decided += ["hook created", "timer created"]
    if after.waits_for == "B" != before.waits_for:
        decided.append(f"B created ({after.x}, {after.y})")
    return decided


def step_in_flight(history: History) -> tuple[str, int] | None:
    """Return the step that is to be running, and the number of its attempt."""
    body = read(history)
    if history and body.waits_for in {"A", "B"}:
        return body.waits_for, body.attempt
    return None


def recorded(history: History) -> History:
    """Return what of a history reaches the disk."""
    return tuple(event for event in history if not event.startswith(UNRECORDED))
