"""The history of a run that is made from a part of another run's.

`fork` takes what counts of a history up to a place, with the outcomes of steps edited, and
returns the events of the new run, numbered from 1. They end with a `run_rewound`: what
stands before its cut is followed by replay, the outcomes behind it reach the body anew, so
that code which has changed may decide something else about them. Steps without an outcome
are attempted again. Nothing here reads a clock or loads a value.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from durable._replay.events import (
    CANCEL_REQUESTED,
    COMMANDS,
    FAILED_ATTEMPT,
    NOTES,
    PARKED,
    RESUMED,
    STEP_COMPLETED,
    STEP_CREATED,
    STEP_RETRYING,
    TERMINAL,
    WAIT_CREATED,
    Event,
    EventKind,
)
from durable._replay.rewound import FORK, STEP, View, cut_of, effective, mark
from durable.errors import ForkError

OUTCOMES = frozenset({EventKind.STEP_COMPLETED, EventKind.STEP_FAILED})

Place = int | str | None
Edits = Sequence[tuple[int | str, bytes]]


class _Part(NamedTuple):
    """What is followed, and the outcomes that reach the body afterwards."""

    followed: list[Event]
    carried: list[Event]


def fork(
    run_id: str, history: Sequence[Event], at: Place, edits: Edits, now_us: int
) -> list[Event]:
    """Return the history of a new run that shares one up to a place.

    Args:
        run_id: of the run whose history it is, for messages.
        history: whole.
        at: an event, by its number: the last one that is shared; or a step, by its name or
            id: the first one that is attempted again; None for the end of the history.
        edits: encoded results, by the steps that are to have them.
        now_us: the present.

    Raises:
        ForkError: there is no such place, or no such step before it.
    """
    steps = _Steps(run_id, effective(history).events)
    wanted = {steps.find(key): payload for key, payload in edits}
    if at is None:
        part = _whole(history, steps, wanted, now_us)
    elif isinstance(at, int):
        part = _up_to_event(run_id, history, at)
    else:
        part = _up_to_step(history, steps, steps.find(at), wanted)
    part = _edit(steps, part, wanted)
    return _number(_still(part.followed), part.carried, max(now_us, history[-1].at))


class _Steps:
    """The steps of a history, found by number, id or name."""

    def __init__(self, run_id: str, events: Sequence[Event]) -> None:
        self.run_id = run_id
        self._created = {e.seq: e for e in events if e.kind == STEP_CREATED}
        self.outcomes = {e.ref: e for e in events if e.kind in OUTCOMES}
        self.given_up = {e.ref for e in events if e.kind == EventKind.STEP_CANCELLED}

    def shown(self, seq: int) -> str:
        return f"{self._created[seq].name} ({self.run_id}:{seq})"

    def find(self, key: int | str) -> int:
        """Return the number of a step.

        Raises:
            ForkError: there is none, or more than one.
        """
        if isinstance(key, str) and key.startswith(f"{self.run_id}:"):
            number = key.rpartition(":")[2]
            key = int(number) if number.isdecimal() else key
        if isinstance(key, int):
            if key not in self._created:
                raise ForkError(self.run_id, f"event {key} is no step that it has begun")
            return key
        found = [e.seq for e in self._created.values() if e.name == key]
        found = found or [s for s, e in self._created.items() if e.name.endswith(f".{key}")]
        if len(found) != 1:
            several = ", ".join(self.shown(seq) for seq in found[:10])
            known = ", ".join(sorted({event.name for event in self._created.values()})[:10])
            raise ForkError(
                self.run_id,
                f"there are {len(found)} steps named {key!r}: name one by its id: {several}"
                if found
                else f"it has begun no step named {key!r}; those that it has begun: {known}",
            )
        return found[0]


# --- how much is shared -----------------------------------------------------------------------


def _whole(
    history: Sequence[Event], steps: _Steps, edits: Mapping[int, bytes], now_us: int
) -> _Part:
    """Return all of it, set back to the first outcome that is edited, if any is."""
    view, last = effective(history), history[-1]
    cuts = [steps.outcomes[seq].seq for seq in edits if seq in steps.outcomes]
    why = FORK
    if last.kind == EventKind.RUN_FAILED:
        cut, why = cut_of(history)
        cuts.append(cut)
        why = STEP if cuts[:-1] else why
    if not cuts:
        cuts = [_end_of(view, last)]
    shared = effective([*history, mark(last.seq + 1, min(cuts), why, now_us)])
    return _Part(list(shared.events[:-1]), list(shared.carried))


def _end_of(view: View, last: Event) -> int:
    """Return where the history of a run ends that has not failed, by the first event too many."""
    if last.kind not in TERMINAL:
        return last.seq + 1
    if last.kind == EventKind.RUN_CANCELLED:
        asked = [event.seq for event in view.events if event.kind == CANCEL_REQUESTED]
        return asked[0] if asked else last.seq
    # The body is to come to its end once more, by what has led it there.
    inbound = [] if view.carried else [e.seq for e in view.events if _is_inbound(e)]
    return inbound[-1] if inbound else last.seq


def _up_to_event(run_id: str, history: Sequence[Event], at: int) -> _Part:
    events = effective(history).events
    place = bisect_left(events, at, key=lambda event: event.seq)
    if place == len(events) or events[place].seq != at:
        raise ForkError(
            run_id, f"there is no event {at} in what counts of its history: see `run.events()`"
        )
    # Behind an event from outside stands what the body did about it: that is decided anew.
    while place > 0 and not _is_inbound(events[place]):
        place -= 1
    return _Part(list(events[: max(1, place)]), [events[place]] if place else [])


def _up_to_step(
    history: Sequence[Event], steps: _Steps, step: int, edits: Mapping[int, bytes]
) -> _Part:
    if step in steps.given_up:
        raise ForkError(
            steps.run_id,
            f"step {steps.shown(step)} was given up by the body: name the event before that",
        )
    view = effective(history)
    outcome = steps.outcomes.get(step)
    if outcome is None:  # it is in flight: all the rest is shared
        return _whole(history, steps, edits, history[-1].at)
    place = bisect_left(view.events, outcome.seq, key=lambda event: event.seq)
    return _Part(list(view.events[:place]), [])


def _is_inbound(event: Event) -> bool:
    return event.kind not in COMMANDS and event.kind not in NOTES and event.kind not in TERMINAL


# --- results that are edited ------------------------------------------------------------------


def _edit(steps: _Steps, part: _Part, edits: Mapping[int, bytes]) -> _Part:
    begun = {event.seq for event in part.followed}
    for seq in edits:
        if seq not in begun:
            raise ForkError(
                steps.run_id,
                f"step {steps.shown(seq)} had not begun yet at the place of the fork: fork later, "
                "or leave its result out",
            )
    followed = [_with_result(event, edits) for event in part.followed]
    carried = [_with_result(event, edits) for event in part.carried]
    told = {e.ref for e in (*followed, *carried) if e.kind in OUTCOMES}
    new = [
        Event(0, STEP_COMPLETED, seq, "", part.followed[-1].at, None, payload)
        for seq, payload in edits.items()
        if seq not in told
    ]
    return _Part(followed, [*carried, *new])


def _with_result(event: Event, edits: Mapping[int, bytes]) -> Event:
    if event.kind in OUTCOMES and event.ref in edits:
        return event._replace(kind=STEP_COMPLETED, payload=edits[event.ref])
    return event


# --- as a history of its own ------------------------------------------------------------------


def _still(events: Sequence[Event]) -> list[Event]:
    """Return events as they are without the marks among them, which would set back again.

    What the marks did to those before them is done to these once for all.
    """
    found: list[Event] = []
    now_us = events[0].at
    for event in events:
        if event.kind == EventKind.RUN_REWOUND:
            if event.name != RESUMED:
                gap = max(0, event.at - now_us)
                found = [_later(each, gap) for each in found]
            continue
        if event.kind not in NOTES:
            now_us = event.at
        found.append(event)
    return found


def _later(event: Event, gap: int) -> Event:
    is_duration = event.kind == WAIT_CREATED and event.name != "until"
    if event.due is not None and (is_duration or event.kind == CANCEL_REQUESTED):
        return event._replace(due=event.due + gap)
    if event.kind == STEP_RETRYING and event.name == FAILED_ATTEMPT:
        return event._replace(name=PARKED, due=None)  # it counts against no limit any more
    return event


def _number(followed: Sequence[Event], carried: Sequence[Event], now_us: int) -> list[Event]:
    numbers = {event.seq: place for place, event in enumerate(followed, 1)}
    numbers[0] = 0
    events = [
        event._replace(seq=place, ref=0 if place == 1 else numbers.get(event.ref, 0))
        for place, event in enumerate([*followed, *carried], 1)
    ]
    return [*events, mark(len(events) + 1, len(followed) + 1, FORK, now_us)]
