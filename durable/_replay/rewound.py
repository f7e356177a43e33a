"""The history that counts, of a run that was set back.

A `run_rewound` event says: go on from before the event `ref`. Nothing is deleted; what
replay follows is computed from the whole history by `effective`, which keeps

- all events before the cut;
- notes about attempts made since, so that attempts are counted on;
- outcomes that have come since for what existed at the cut: a completed step never runs
  again. They are `carried`: the body is to be given them anew, because what it did about
  them belongs to what was dropped;

and drops what the body decided from the cut on, and the run's end. Carried outcomes are
recorded a second time when the body takes them, and then count like any other event.
Nothing here runs code or reads a clock: the same history has the same effect for ever.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from durable._replay.events import (
    CANCEL_REQUESTED,
    COMMANDS,
    FAILED_ATTEMPT,
    NOTES,
    PARKED,
    RESUMED,
    STEP_RETRYING,
    TERMINAL,
    Event,
    EventKind,
)
from durable._replay.hooks import CLAIMED
from durable._replay.script import Inbound

# Why a run was set back, as the name of the event: to attempt the step that failed it, to
# take its body up again where it raised, to forget its deadline, or because it was made
# from a part of another run's history. The fifth is RESUMED: it goes on after a parking.
STEP, BODY, DEADLINE, FORK = "step", "body", "deadline", "fork"

_DROPPED = TERMINAL | {EventKind.RUN_STARTED}


class View(NamedTuple):
    """What replay follows, and the outcomes that the body is to be given afterwards."""

    events: Sequence[Event]
    carried: Sequence[Event] = ()

    @property
    def started(self) -> bool:
        """Tell whether the body's code has begun."""
        return any(event.kind == EventKind.RUN_STARTED for event in self.events)

    def inbox(self) -> list[Inbound]:
        """Return the carried outcomes as they are given to the body."""
        return [
            Inbound(EventKind(event.kind), event.ref, event.name, event.due, event.payload)
            for event in self.carried
        ]


def effective(history: Sequence[Event]) -> View:
    """Return what counts of a run's whole history; all of it unless it was set back."""
    marks = [place for place, e in enumerate(history) if e.kind == EventKind.RUN_REWOUND]
    if not marks:
        return View(history)
    kept: list[Event] = []
    carried: list[Event] = []
    start = 0
    for place in marks:
        _follow(kept, carried, history[start:place])
        kept, carried = _rewind(kept, carried, history[place])
        start = place + 1
    _follow(kept, carried, history[start:])
    return View(kept, carried)


def _follow(kept: list[Event], carried: list[Event], events: Iterable[Event]) -> None:
    """Take further events in; one that records a carried outcome again stands for it."""
    for event in events:
        kept.append(event)
        same = next((c for c in carried if _says_the_same(c, event)), None)
        if same is not None:
            carried.remove(same)


def _says_the_same(one: Event, other: Event) -> bool:
    return (
        one.kind == other.kind
        and one.ref == other.ref
        and one.name == other.name
        and one.payload == other.payload
    )


def _rewind(
    kept: list[Event], carried: list[Event], mark: Event
) -> tuple[list[Event], list[Event]]:
    place = bisect_left(kept, mark.ref, key=_seq)
    before = kept[:place]
    existing = {event.seq for event in before if event.kind in COMMANDS} | {0}
    notes: list[Event] = []
    outcomes: list[Event] = []
    for event in kept[place:]:
        if event.kind == EventKind.RUN_REWOUND:
            notes.append(event)
        elif event.ref in existing and event.kind not in _DROPPED:
            _sort_in(_read_anew(event, mark), notes, outcomes)
    outcomes += [event for event in carried if event.ref in existing]
    return [*before, *notes, mark], outcomes


def _sort_in(event: Event | None, notes: list[Event], outcomes: list[Event]) -> None:
    if event is None or event.kind in COMMANDS:
        return
    (notes if event.kind in NOTES else outcomes).append(event)


def _read_anew(event: Event, mark: Event) -> Event | None:
    """Return what an event from the cut on means now; None for nothing any more."""
    if event.kind == EventKind.STEP_CANCELLED:
        return event._replace(kind=STEP_RETRYING, name=PARKED)  # an attempt that was cut off
    if event.kind == EventKind.STEP_FAILED and mark.name in (STEP, DEADLINE):
        return event._replace(kind=STEP_RETRYING, name=FAILED_ATTEMPT)
    if event.kind == CANCEL_REQUESTED:
        if event.name == DEADLINE or mark.name == FORK:
            return None
        # Whoever cleans up again has as much time for it again.
        return event._replace(due=None if event.due is None else event.due + mark.at - event.at)
    return event


def cut_of(history: Sequence[Event]) -> tuple[int, str]:
    """Return where a failed run is to be taken up again, and why there.

    Args:
        history: whole, ending with `run_failed`.

    Returns:
        The number of the first event that counts no more: the failure of the step that
        the run failed with; the request that its deadline made; or else the last thing
        that reached its body, which is then given to it again.
    """
    failed, events = history[-1], effective(history).events
    for event in events:
        if event.kind == CANCEL_REQUESTED and event.name == DEADLINE:
            return event.seq, DEADLINE
    for event in events:
        if event.kind == EventKind.STEP_FAILED and failed.ref == event.ref:
            return event.seq, STEP
    last = last_inbound(events)
    return (failed.seq if last is None else last.seq), BODY


def last_inbound(events: Sequence[Event]) -> Event | None:
    """Return the last event that reached the body from outside, None when none has."""
    inner = COMMANDS | NOTES | TERMINAL
    return next((event for event in reversed(events) if event.kind not in inner), None)


def open_hooks(events: Sequence[Event]) -> list[Event]:
    """Return the `hook_created` events of the hooks whose tokens a run wants to hold."""
    found = {event.seq: event for event in events if event.kind == EventKind.HOOK_CREATED}
    for event in events:
        lost = event.kind == EventKind.HOOK_CONFLICT and event.name != CLAIMED
        if lost or event.kind == EventKind.HOOK_DISPOSED:
            found.pop(event.ref, None)
    return list(found.values())


def resumption(history_ends: int, seen: int | None) -> int | None:
    """Return the cut for a run that goes on after a parking, None when none is needed.

    Args:
        history_ends: number of the last event.
        seen: number of the last event that the body has seen, None when that is all.
    """
    return None if seen is None or seen >= history_ends else seen + 1


def mark(seq: int, cut: int, why: str, at: int, payload: bytes | None = None) -> Event:
    """Return the event that sets a run back to before its event `cut`."""
    return Event(seq, EventKind.RUN_REWOUND, cut, why, at, None, payload)


def is_resumption(event: Event) -> bool:
    """Tell whether a `run_rewound` only delivers what came while the run was parked."""
    return event.name == RESUMED


def _seq(event: Event) -> int:
    return event.seq
