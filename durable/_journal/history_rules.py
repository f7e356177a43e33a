"""What every history obeys: the rules that an imported one is held against.

Owns what can be told of events and their row without any code: places, kinds, references,
ends. Whether the workflow's code agrees with a history is found out by replay alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

from durable._base.duration import MAX_US
from durable._base.ids import valid_run_id
from durable._journal.attributes import decode_attributes, decode_blocked, decode_origin
from durable._journal.records import FINISHED, RunRow
from durable._replay.attributes import ATTRIBUTE_KINDS, decode_change
from durable._replay.events import ANSWERS, TERMINAL, Event, EventKind
from durable.errors import InvalidExportError

_ENDS = {
    EventKind.RUN_COMPLETED: "completed",
    EventKind.RUN_FAILED: "failed",
    EventKind.RUN_CANCELLED: "cancelled",
    EventKind.RUN_CONTINUED: "continued",
}
# Without what they hold, the run could not be gone on with or read.
_WITH_PAYLOAD = ATTRIBUTE_KINDS | {
    EventKind.RUN_CREATED,
    EventKind.RUN_COMPLETED,
    EventKind.RUN_FAILED,
    EventKind.STEP_CREATED,
    EventKind.STEP_COMPLETED,
    EventKind.STEP_FAILED,
    EventKind.HOOK_CREATED,
    EventKind.HOOK_RECEIVED,
}
# Payloads that are plain text, as opposed to encoded values.
_TEXTS = frozenset(
    {
        EventKind.RUN_CANCELLED,
        EventKind.RUN_CONTINUED,
        EventKind.RUN_REWOUND,
        EventKind.CANCEL_REQUESTED,
    }
)
# What a datetime can hold, in UTC microseconds: the years 1 to 9999.
_EARLIEST, _LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999
_ONCE = frozenset(
    {
        EventKind.STEP_COMPLETED,
        EventKind.STEP_FAILED,
        EventKind.STEP_CANCELLED,
        EventKind.WAIT_COMPLETED,
        EventKind.HOOK_DISPOSED,
    }
)


def check_history(row: RunRow, history: Sequence[Event]) -> None:
    """Raise an `InvalidExportError` for a row or a history that cannot be."""
    _check_row(row)
    if not history or history[0].kind != EventKind.RUN_CREATED:
        raise InvalidExportError("its history does not begin with run_created")
    if history[0].name != row.workflow:
        raise InvalidExportError(
            f"its run is of {row.workflow!r}, and its history of {history[0].name!r}"
        )
    for place, event in enumerate(history, 1):
        if event.seq != place:
            raise InvalidExportError(f"event {event.seq} stands in place {place}")
        _check_event(event, history)
    _check_order(history)
    _check_end(row, history[-1])


def _check_row(row: RunRow) -> None:
    try:
        valid_run_id(row.run_id)
        attributes = decode_attributes(row.attributes)
        decode_blocked(row.blocked)
        decode_origin(row.origin)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidExportError(f"its run is not usable: {error}") from None
    for name in ("created_at", "started_at", "completed_at", "deadline"):
        _check_time(f"its run has {name} =", getattr(row, name))
    if row.retention_us is not None and not -1 <= row.retention_us <= MAX_US:
        raise InvalidExportError(f"its run has retention_us = {row.retention_us}")
    if not isinstance(attributes, dict) or not all(
        isinstance(text, str) for text in attributes.values()
    ):
        raise InvalidExportError("its run has attributes that are no texts")


def _check_time(what: str, at: int | None) -> None:
    if at is not None and not _EARLIEST <= at <= _LATEST:
        raise InvalidExportError(f"{what} {at}, which is no time")


def _check_event(event: Event, history: Sequence[Event]) -> None:
    label = EventKind(event.kind).label
    if event.kind == EventKind.RUN_CREATED and event.seq != 1:
        raise InvalidExportError(f"event {event.seq} is a second run_created")
    last = event.seq if event.kind == EventKind.RUN_REWOUND else event.seq - 1  # a fork's: itself
    if event.seq > 1 and not 0 <= event.ref <= last:
        raise InvalidExportError(f"event {event.seq} ({label}) refers to event {event.ref}")
    wanted = ANSWERS.get(EventKind(event.kind))
    if wanted is not None and event.ref and history[event.ref - 1].kind != wanted:
        raise InvalidExportError(
            f"event {event.seq} ({label}) refers to event {event.ref}, which is no {wanted.label}"
        )
    if event.kind in _ONCE and not event.ref:
        raise InvalidExportError(f"event {event.seq} ({label}) refers to no event")
    if event.kind in _WITH_PAYLOAD and event.payload is None:
        raise InvalidExportError(f"event {event.seq} ({label}) lacks its payload")
    if event.kind == EventKind.WAIT_CREATED and event.due is None:
        raise InvalidExportError(f"event {event.seq} ({label}) lacks its due time")
    _check_time(f"event {event.seq} has at =", event.at)
    _check_time(f"event {event.seq} has due =", event.due)
    if event.kind in _TEXTS and not _is_utf8(event.payload or b""):
        raise InvalidExportError(f"event {event.seq} ({label}) holds bytes that are no text")
    if event.kind in ATTRIBUTE_KINDS:
        _check_change(event)


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_change(event: Event) -> None:
    try:
        change = decode_change(event.payload)
        texts = [*change.set.items(), *change.was.items()]
        good = all(isinstance(k, str) and isinstance(v, str | None) for k, v in texts)
    except (ValueError, KeyError, TypeError, AttributeError, json.JSONDecodeError):
        good = False
    if not good:
        raise InvalidExportError(f"event {event.seq} does not tell which attributes it sets")


def _check_order(history: Sequence[Event]) -> None:
    """An ended run goes on only when it is set back, and each command has one outcome."""
    answered: set[int] = set()
    for before, event in pairwise(history):
        if before.kind in TERMINAL and event.kind != EventKind.RUN_REWOUND:
            raise InvalidExportError(f"event {event.seq} comes after the end of the run")
        if event.kind == EventKind.RUN_REWOUND:
            answered.clear()  # what counts from here on is up to replay
        elif event.kind in _ONCE:
            if event.ref in answered:
                raise InvalidExportError(f"event {event.seq} is a second outcome of {event.ref}")
            answered.add(event.ref)


def _check_end(row: RunRow, last: Event) -> None:
    ended = _ENDS.get(EventKind(last.kind))
    if (row.status in FINISHED) != (last.kind in TERMINAL) or ended not in {None, row.status}:
        raise InvalidExportError(
            f"its run is {row.status}, and its history ends with {EventKind(last.kind).label}"
        )
    if (row.completed_at is None) != (row.status not in FINISHED):
        raise InvalidExportError(f"its run is {row.status}, completed at {row.completed_at}")
