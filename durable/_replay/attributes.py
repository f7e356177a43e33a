"""A run's attributes as its history tells them: what was set, by whom, and what was before.

Owns the payload of `attr_set` (a command of the body) and `attr_noted` (set by a step): a
JSON object ``{"set": {key: value | null}, "was": {key: value | null}}``. The old values are
kept so that replay can begin with the attributes that the run was started with, although
its row holds those of today.

The body's attributes are a dictionary that is changed in place, in the order of the
history, live and on replay alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from durable._replay.events import Event, EventKind
from durable._replay.script import Script

Changes = Mapping[str, str | None]

ATTRIBUTES_MAX = 64
ATTRIBUTE_KINDS = frozenset({EventKind.ATTR_SET, EventKind.ATTR_NOTED})


class Change(NamedTuple):
    """What one event did; None stands for no such attribute."""

    set: dict[str, str | None]
    was: dict[str, str | None]


class Bearer(Protocol):
    """A body, as far as attributes need it."""

    script: Script
    attributes: dict[str, str]
    attributes_changed: bool


def encode_change(attributes: Mapping[str, str], changes: Changes) -> bytes:
    """Return the payload that records `changes` to `attributes`."""
    was = {key: attributes.get(key) for key in changes}
    return json.dumps({"set": dict(changes), "was": was}, ensure_ascii=False).encode()


def decode_change(payload: bytes | None) -> Change:
    """Return what a payload records."""
    found = json.loads(payload or b"{}")
    return Change(found["set"], found["was"])


def check_room(attributes: Mapping[str, str], changes: Changes) -> None:
    """Raise a ValueError if the run would have too many attributes."""
    kept = {key for key in attributes if changes.get(key, "") is not None}
    new = sorted(key for key, value in changes.items() if value is not None and key not in kept)
    if (count := len(kept) + len(new)) > ATTRIBUTES_MAX:
        raise ValueError(
            f"attributes: with {', '.join(map(repr, new[:3]))} the run would have {count}, and "
            f"{ATTRIBUTES_MAX} are the most: set some to None, which removes them"
        )


def first_attributes(attributes: dict[str, str], history: Sequence[Event]) -> dict[str, str]:
    """Return what a run was started with, given what it has after its history."""
    found: dict[str, str | None] = dict(attributes)
    seen: set[str] = set()
    for event in history:
        if event.kind in ATTRIBUTE_KINDS:
            was = decode_change(event.payload).was
            found.update((key, value) for key, value in was.items() if key not in seen)
            seen.update(was)
    return {key: value for key, value in found.items() if value is not None}


def after_changes(attributes: Mapping[str, str], history: Sequence[Event]) -> dict[str, str]:
    """Return what a run has after its history, given what it was started with."""
    found: dict[str, str | None] = dict(attributes)
    for event in history:
        if event.kind in ATTRIBUTE_KINDS:
            found.update(decode_change(event.payload).set)
    return {key: value for key, value in found.items() if value is not None}


def set_in_body(body: Bearer, changes: Changes) -> bool:
    """Issue a change; False when the history holds something else there.

    Raises:
        ValueError: the run would have too many attributes; nothing was issued.
    """
    check_room(body.attributes, changes)
    payload = encode_change(body.attributes, changes)
    event = body.script.issue(EventKind.ATTR_SET, payload=payload)
    if event is not None:
        take_change(body, event, None)
    return event is not None


def take_change(body: Bearer, event: Event, value: object) -> None:
    """Apply a recorded change."""
    for key, new in decode_change(event.payload).set.items():
        if new is None:
            body.attributes.pop(key, None)
        else:
            body.attributes[key] = new
    if not body.script.replaying:
        body.attributes_changed = True
