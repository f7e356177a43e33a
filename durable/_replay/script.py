"""The history as a script: followed while it lasts, written further afterwards.

One `Script` belongs to one body. While replaying, each command that the code issues is
held against the recorded one (kind, name, the event it refers to) at the same position;
the first difference becomes `divergence` and nothing is followed any more. Past the end
of the history, commands and inbound events are appended to `out`, in the order in which
they happened: that order is the history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from durable._replay.events import COMMANDS, NOTES, STEP_COMPLETED, TERMINAL, Event, EventKind
from durable._replay.source import UNKNOWN
from durable.errors import InternalError, NondeterminismError

UNDECODED = object()

# What a named tuple's constructor does, without its Python frame: events are many.
_make = tuple.__new__


class Inbound(NamedTuple):
    """Something that reached a run from outside and is not in its history yet.

    `value` is the decoded payload where the sender has it at hand and it is immutable.
    """

    kind: int
    ref: int = 0
    name: str = ""
    due: int | None = None
    payload: bytes | None = None
    value: object = UNDECODED


# The same from a tuple of all fields, without a Python frame.
inbound: Callable[[tuple[int, int, str, int | None, bytes | None, object]], Inbound] = partial(
    tuple.__new__, Inbound
)


class Script:
    """See the module's docstring. `where` names the line at which the body stands.

    Attributes:
        cursor: place of the next event of the history to be followed.
        seq: number of the last event there is.
        now_us: journal time.
    """

    def __init__(self, history: Sequence[Event], where: Callable[[], str]) -> None:
        if not history or history[0].kind != EventKind.RUN_CREATED:
            raise InternalError("a history must begin with run_created")
        self._history = history
        self._where = where
        self.cursor = 1  # behind run_created, which the body does not see
        self.replaying = True
        self.seq = history[-1].seq
        self.now_us = history[0].at
        self._latest = history[-1].at  # no event is earlier than what stands before it
        self.out: list[Event] = []
        self.divergence: NondeterminismError | None = None

    @property
    def recorded_seq(self) -> int:
        """Number of the last event that was taken to be recorded, or came from the record."""
        return self.seq - len(self.out)

    # --- following -------------------------------------------------------------------

    def next_inbound(self) -> Event | None:
        """Return the next recorded event to apply.

        None means that the history is used up; or, when `replaying` is still set, that a
        recorded command or end comes next, which the code did not come to.
        """
        if self.cursor == len(self._history):
            self.replaying = False
            self._history = ()
            self._latest = max(self._latest, self.now_us)
            return None
        event = self._history[self.cursor]
        if event.kind in COMMANDS or event.kind in TERMINAL:
            return None
        self.cursor += 1
        if event.kind not in NOTES:
            self.now_us = event.at
        return event

    def outcomes_ahead(self, count: int) -> list[tuple[int, Event]]:
        """Return places and events of the completions of steps among the `2 * count` events
        behind the next one, at most `count`.
        """
        place = self.cursor + 1
        some = enumerate(self._history[place : place + 2 * count], place)
        return [found for found in some if found[1].kind == STEP_COMPLETED][:count]

    def recorded_end(self) -> Event | None:
        """Return the run's recorded end if nothing but closing events precede it."""
        rest = self._history[self.cursor :]
        closing = NOTES | TERMINAL | {EventKind.STEP_CANCELLED}
        ended = rest and rest[-1].kind in TERMINAL and all(e.kind in closing for e in rest)
        return rest[-1] if ended else None

    def diverge(self, got: str) -> None:
        """Note the first difference between the code and the history."""
        if self.divergence is None:
            position, expected = self.seq + 1, "no further event"
            if self.cursor < len(self._history):
                event = self._history[self.cursor]
                position, expected = event.seq, describe(event.kind, event.name, event.ref)
            self.divergence = NondeterminismError(position, expected, got, self._where())

    def missing_name(self) -> str | None:
        """Return the name of the recorded step that the code did not call, if that is the case."""
        if self.cursor < len(self._history):
            event = self._history[self.cursor]
            return event.name if event.kind == EventKind.STEP_CREATED else None
        return None

    def skip(self) -> None:
        """Pass over the whole history unread, to append to it without the body."""
        self.replaying = False
        self._history = ()

    # --- both ------------------------------------------------------------------------

    def issue(
        self,
        kind: int,
        name: str = "",
        ref: int = 0,
        due: int | None = None,
        payload: bytes | None = None,
    ) -> Event | None:
        """Follow or append one command; None when it differs from the recorded one."""
        if not self.replaying:
            self.seq += 1
            event = _make(Event, (self.seq, kind, ref, name, self._latest, due, payload))
            self.out.append(event)
            return event
        if self.divergence is None and self.cursor < len(self._history):
            event = self._history[self.cursor]
            if event.kind == kind and event.name == name and event.ref == ref:
                self.cursor += 1
                return event
        self.diverge(f"issued {describe(kind, name, ref)}")
        return None

    # --- writing further -------------------------------------------------------------

    def record(self, item: Inbound, at: int) -> Event:
        """Append an inbound event that happened at `at`; journal time never decreases.

        Nor do the times in a history: a note is not earlier than what stands before it.
        """
        kind, ref, name, due, payload, _ = item
        self._latest = at = max(at, self._latest)
        if kind not in NOTES:
            self.now_us = at
        self.seq += 1
        event = _make(Event, (self.seq, kind, ref, name, at, due, payload))
        self.out.append(event)
        return event

    def let_go(self) -> None:
        """Forget the body, so that no reference cycle keeps it."""
        self._where = _nowhere

    def take(self) -> list[Event]:
        """Return and forget what was appended since the last call."""
        out, self.out = self.out, []
        return out


def describe(kind: int, name: str, ref: int) -> str:
    """Return an event in words, such as ``step_created 'charge'``."""
    label = EventKind(kind).label
    return label + (f" {name!r}" if name else "") + (f" of event {ref}" if ref else "")


def _nowhere() -> str:
    return UNKNOWN
