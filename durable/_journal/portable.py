"""One run as one JSON document: for a bug report, or to be taken to another journal.

Owns the format, its version, its checksum, and the checks of a document that comes in:
everything is looked at before anything of it is recorded, and nothing of it is loaded.
Payloads travel as the bytes that they are (base64), beside a preview for people.

    {"format": "durable run", "version": 1, "checksum": "sha256:...",
     "about": {...},                  readable facts; not read by an import
     "run": {"run_id": ..., ...},     the columns of its row; times in UTC microseconds
     "events": [{"seq": 1, "kind": "run_created", ..., "shown": ...,
                 "payload": {"as": "pickle", "base64": ...}}]}

The checksum covers what an import reads, so `about` and `shown` may be cut out by hand.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn, get_args, get_type_hints

from durable._journal.codec import form_of
from durable._journal.history_rules import check_history
from durable._journal.records import RunRow
from durable._replay.attributes import ATTRIBUTE_KINDS
from durable._replay.events import Event, EventKind
from durable.errors import InvalidExportError

FORMAT, VERSION = "durable run", 1
_KINDS = {kind.label: kind for kind in EventKind}
_TEXTS = ATTRIBUTE_KINDS | {
    EventKind.RUN_CANCELLED, EventKind.CANCEL_REQUESTED, EventKind.RUN_REWOUND,
}  # fmt: skip
_INT_MAX = 1 << 63
# The types that each column of a run may have.
_COLUMNS: dict[str, tuple[type, ...]] = {
    name: get_args(hint) or (hint,) for name, hint in get_type_hints(RunRow).items()
}
_DEPTH = "it is nested too deeply"
# What belongs to a row in one journal only.
_OWN_COLUMNS = ("pk", "wake_at", "expires_at")
_EVENT_KEYS = frozenset({"seq", "kind", "ref", "name", "at", "due", "payload"})


class Packed(NamedTuple):
    """A run from a document: its row (with key 0) and its events."""

    row: RunRow
    events: list[Event]


# --- out ------------------------------------------------------------------------------------


def pack(
    row: RunRow,
    events: Sequence[Event],
    about: Mapping[str, object],
    shown: Callable[[Event], object],
) -> dict[str, Any]:
    """Return the document of a run.

    Args:
        about: facts about it for people, as JSON data.
        shown: gives the preview of an event's payload, as JSON data.
    """
    run = {name: value for name, value in row._asdict().items() if name not in _OWN_COLUMNS}
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "checksum": "",
        "about": dict(about),
        "run": run,
        "events": [_packed_event(event, shown(event)) for event in events],
    }
    document["checksum"] = _checksum(document)
    return document


def _packed_event(event: Event, shown: object) -> dict[str, Any]:
    packed: dict[str, Any] = {**event._asdict(), "kind": EventKind(event.kind).label}
    if event.payload is not None:
        encoded = b64encode(event.payload).decode()
        form = "text" if event.kind in _TEXTS else form_of(event.payload)
        packed["payload"] = {"as": form, "base64": encoded}
        packed["shown"] = shown
    return packed


def _checksum(document: Mapping[str, Any]) -> str:
    events = [{key: event.get(key) for key in _EVENT_KEYS} for event in document["events"]]
    covered = [document["format"], document["version"], document["run"], events]
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    return f"sha256:{sha256(text.encode()).hexdigest()}"


# --- in -------------------------------------------------------------------------------------


def parse_document(text: str | bytes) -> object:
    """Return the JSON data of a file's text.

    Raises:
        InvalidExportError: it is no JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidExportError(_DEPTH) from None
    except ValueError as error:  # also of bytes that are no UTF-8, and of endless digits
        raise InvalidExportError(f"it is no JSON: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def unpack(document: object) -> Packed:
    """Return the run of a document, checked; executes and loads nothing.

    Raises:
        InvalidExportError: it is none, is damaged, was written by a newer `durable`, or holds a
            history that cannot be.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidExportError('it has no "format": "durable run"')
    version = document.get("version")
    if type(version) is not int or version > VERSION or version < 1:
        raise InvalidExportError(
            f"it has format version {version!r}, and this durable reads up to {VERSION}: "
            "import it with the durable that wrote it, or a newer one"
        )
    run, events = document.get("run"), document.get("events")
    if not isinstance(run, dict) or not isinstance(events, list):
        raise InvalidExportError('it has no "run" or no "events"')
    if not all(isinstance(event, dict) for event in events):
        raise InvalidExportError("an event is no JSON object")
    _check_sum(document)
    row = _row(run)
    history = [_event(place, event) for place, event in enumerate(events, 1)]
    check_history(row, history)
    return Packed(row, history)


def _check_sum(document: Mapping[str, Any]) -> None:
    try:
        found = _checksum(document)
    except RecursionError:
        raise InvalidExportError(_DEPTH) from None
    if document.get("checksum") != found:
        raise InvalidExportError(
            "its checksum does not match: it was changed or cut short; export the run again"
        )


def _row(run: dict[str, Any]) -> RunRow:
    given = {"pk": 0, "wake_at": None, "expires_at": None, **run}
    if unknown := sorted(set(given) - set(RunRow._fields)):
        raise InvalidExportError(f"its run has {unknown[0]!r}, which this durable does not know")
    values: dict[str, Any] = {}
    for name, kinds in _COLUMNS.items():
        values[name] = value = given.get(name)
        if not any(_is_a(kind, value) for kind in kinds):
            raise InvalidExportError(f"its run has {name} = {value!r:.60}, which cannot be")
    return RunRow(**values)


def _event(place: int, event: dict[str, Any]) -> Event:
    kind = _KINDS.get(str(event.get("kind")))
    if kind is None:
        raise InvalidExportError(f"event {place} is of the unknown kind {event.get('kind')!r:.60}")
    for name, wanted in (("seq", int), ("ref", int), ("name", str), ("at", int)):
        if not _is_a(wanted, event.get(name)):
            raise InvalidExportError(f"event {place} has {name} = {event.get(name)!r:.60}")
    due = event.get("due")
    if due is not None and not _is_a(int, due):
        raise InvalidExportError(f"event {place} has due = {due!r:.60}")
    return Event(
        event["seq"], kind, event["ref"], event["name"], event["at"], due,
        _payload(place, event.get("payload")),
    )  # fmt: skip


def _payload(place: int, packed: object) -> bytes | None:
    if packed is None:
        return None
    encoded = packed.get("base64") if isinstance(packed, dict) else None
    try:
        if isinstance(encoded, str):
            return b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidExportError(f"event {place} has a payload that is no base64")


def _is_a(kind: type, value: object) -> bool:
    if type(value) is not kind:
        return False
    if isinstance(value, int):
        return -_INT_MAX <= value < _INT_MAX
    return not isinstance(value, str) or ("\0" not in value and _is_unicode(value))


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)
