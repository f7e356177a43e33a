"""Outcomes of steps that replay decodes before their turn."""

from __future__ import annotations

import asyncio
import pickle
from itertools import pairwise
from typing import Any

import pytest

from durable._replay.body import Body
from durable._replay.events import Event, EventKind
from durable._replay.loop import BodyLoop
from durable.errors import PayloadDecodeError
from tests.replay.rig import Pickled, Recording, perform
from tests.replay.zoo_steps import fetch

seen: list[object] = []


class Loaded:
    """Notes on which loop it is loaded."""

    def __reduce__(self) -> Any:
        return _load, ()


def _load() -> str:
    seen.append(asyncio._get_running_loop())
    return "loaded"


class Broken(Pickled):
    """Cannot decode the payload that it is told."""

    bad: bytes | None = None

    def decode(self, payload: bytes) -> object:
        """Decode, or refuse."""
        if payload == self.bad:
            raise PayloadDecodeError("it is damaged")
        return super().decode(payload)


async def three_steps() -> list[object]:
    """Each waits for the one before."""
    return [await fetch(n) for n in range(3)]


def body_of(recording: Recording, history: list[Event], payloads: Pickled) -> Body:
    """Return a body that is to follow `history`."""
    return Body(recording.run_id, three_steps, history, payloads, lambda: 0)


def with_payloads(history: list[Event], payloads: list[bytes]) -> list[Event]:
    """Return a history whose steps came to something else, up to the last step's outcome."""
    given, changed = iter(payloads), []
    for event in history:
        done = event.kind == EventKind.STEP_COMPLETED
        changed.append(event._replace(payload=next(given)) if done else event)
    return [event for event in changed if event.kind != EventKind.RUN_COMPLETED]


def test_values_are_loaded_outside_of_the_bodys_loop() -> None:
    """What a class does when it is loaded is no business of the guard's, on replay either."""
    recording = perform(three_steps)
    history = with_payloads(recording.history, [pickle.dumps(Loaded())] * 3)
    body = body_of(recording, history, Pickled())
    seen.clear()
    body.replay(10)
    assert len(seen) == 3 and not any(isinstance(loop, BodyLoop) for loop in seen)
    body.abandon()


@pytest.mark.parametrize("place", range(3))
def test_value_that_cannot_be_loaded_is_met_where_it_is_recorded(place: int) -> None:
    """The body has taken everything before it, and nothing behind it."""
    recording = perform(three_steps)
    values = [pickle.dumps(n) for n in range(3)]
    payloads = Broken()
    payloads.bad = values[place]
    body = body_of(recording, with_payloads(recording.history, values), payloads)
    with pytest.raises(PayloadDecodeError):
        body.replay(10)
    assert len(payloads.calls) == place + 1
    body.abandon()


def test_replay_applies_as_many_events_as_it_may() -> None:
    """However many were decoded: between slices the host's loop gets its turn."""

    async def many() -> None:
        for n in range(50):
            await fetch(n)
        await asyncio.Event().wait()

    recording = perform(many)
    payloads = Pickled()
    body = Body(recording.run_id, many, recording.history, payloads, lambda: 0)
    steps_seen = []
    while not body.replay(7):
        steps_seen.append(len(payloads.calls))
    retried = sum(event.kind == EventKind.STEP_RETRYING for event in recording.history)
    assert len(payloads.calls) == 50
    assert len(steps_seen) == (1 + 50 + retried) // 7
    assert all(later - earlier <= 7 for earlier, later in pairwise(steps_seen))
    body.abandon()
