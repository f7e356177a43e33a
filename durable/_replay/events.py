"""The vocabulary of a history: event kinds and the immutable `Event`.

Owns the numbers under which kinds are stored (never renumber, never reuse one)
and which kinds are commands (decided by the body), inbound (they come from
outside and drive the body) or notes (they record facts the body never sees).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class EventKind(IntEnum):
    """What happened. The names are the Workflow SDK's."""

    RUN_CREATED = 1
    RUN_STARTED = 2
    RUN_COMPLETED = 3
    RUN_FAILED = 4
    RUN_CANCELLED = 5
    CANCEL_REQUESTED = 6
    RUN_CONTINUED = 7
    RUN_REWOUND = 8
    STEP_CREATED = 10
    STEP_RETRYING = 11
    STEP_COMPLETED = 12
    STEP_FAILED = 13
    STEP_CANCELLED = 14
    STEP_YIELDED = 15
    STEP_STARTED = 16  # of an attempt that did not begin at once, but when it was due
    WAIT_CREATED = 20
    WAIT_COMPLETED = 21
    HOOK_CREATED = 30
    HOOK_RECEIVED = 31
    HOOK_DISPOSED = 32
    HOOK_CONFLICT = 33
    ATTR_SET = 40
    ATTR_NOTED = 41

    @property
    def label(self) -> str:
        """The public name, such as ``"step_created"``."""
        return self.name.lower()


# Names of events that say why: a wait ended before its time; an attempt was cut off; a run
# goes on after a parking, as opposed to being set back to try something again.
WOKEN = "woken"
INTERRUPTED, PARKED, FAILED_ATTEMPT = "interrupted", "parked", "failed"
RESUMED = "resumed"


class Event(NamedTuple):
    """One immutable fact of one run.

    `seq` is dense per run and starts at 1. `ref` is the `seq` of the event that this
    one answers (0 = none); that of `run_created` is the `origin` of its `RunSpec`. `at`
    and `due` are UTC microseconds; `due` is the resume time of a wait or of the next
    attempt. `payload` is an encoded value.
    """

    seq: int
    kind: int
    ref: int
    name: str
    at: int
    due: int | None
    payload: bytes | None


# The kinds of every step and wait, as plain numbers: members are looked up, compared and
# given to SQLite more slowly.
STEP_CREATED, STEP_COMPLETED = int(EventKind.STEP_CREATED), int(EventKind.STEP_COMPLETED)
STEP_YIELDED = int(EventKind.STEP_YIELDED)
STEP_RETRYING, STEP_STARTED = int(EventKind.STEP_RETRYING), int(EventKind.STEP_STARTED)
CANCEL_REQUESTED = int(EventKind.CANCEL_REQUESTED)
WAIT_CREATED, WAIT_COMPLETED = int(EventKind.WAIT_CREATED), int(EventKind.WAIT_COMPLETED)

TERMINAL = frozenset(
    {
        EventKind.RUN_COMPLETED,
        EventKind.RUN_FAILED,
        EventKind.RUN_CANCELLED,
        EventKind.RUN_CONTINUED,
    }
)

STEP_OUTCOMES = frozenset(
    {EventKind.STEP_COMPLETED, EventKind.STEP_FAILED, EventKind.STEP_CANCELLED}
)

# Decided by the body: on replay the body must decide the same, in the same place.
COMMANDS = frozenset(
    {
        EventKind.STEP_CREATED,
        EventKind.STEP_CANCELLED,
        EventKind.WAIT_CREATED,
        EventKind.HOOK_CREATED,
        EventKind.HOOK_DISPOSED,
        EventKind.ATTR_SET,
    }
)

# Recorded for people and for recovery; replay steps over them.
NOTES = frozenset(
    {
        EventKind.RUN_CREATED,
        EventKind.RUN_REWOUND,
        EventKind.STEP_RETRYING,
        EventKind.STEP_STARTED,
        EventKind.ATTR_NOTED,
    }
)

# What may follow what: an answer kind and the kind of event that it must refer to.
ANSWERS = {
    EventKind.STEP_RETRYING: EventKind.STEP_CREATED,
    EventKind.STEP_COMPLETED: EventKind.STEP_CREATED,
    EventKind.STEP_FAILED: EventKind.STEP_CREATED,
    EventKind.STEP_CANCELLED: EventKind.STEP_CREATED,
    EventKind.STEP_YIELDED: EventKind.STEP_CREATED,
    EventKind.WAIT_COMPLETED: EventKind.WAIT_CREATED,
    EventKind.HOOK_RECEIVED: EventKind.HOOK_CREATED,
    EventKind.HOOK_DISPOSED: EventKind.HOOK_CREATED,
    EventKind.HOOK_CONFLICT: EventKind.HOOK_CREATED,
}
