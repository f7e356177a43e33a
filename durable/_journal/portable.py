"""One run as one JSON document: for a bug report, or to be taken to another journal.

Owns the format, its version, its checksum, and the checks of a document that comes in:
everything is looked at before anything of it is recorded, and nothing of it is loaded.
Payloads travel as the bytes that they are (base64), beside a preview for people.

    {"format": "durable run", "version": 1, "checksum": "sha256:...",
     "sealed_in": "3f0c...",          only if its payloads are sealed: the journal's id
     "about": {...},                  readable facts; not read by an import
     "run": {"run_id": ..., ...},     the columns of its row; times in UTC microseconds
     "events": [{"seq": 1, "kind": "run_created", ..., "shown": ...,
                 "payload": {"as": "pickle", "base64": ...}}],
     "streams": {"": [{"kind": "chunk", "step": 4, "attempt": 1, "payload": ..., ...}]}}

The checksum covers what an import reads, so `about` and `shown` may be cut out by hand.
Sealed payloads travel sealed. Who imports them needs their key; the seals tell what was
forged, or taken from another place.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from typing import Any, NoReturn, get_args, get_type_hints

from durable._journal.chunks import CHUNK, CLOSED, RESET, Chunk
from durable._journal.codec import form_of
from durable._journal.history_rules import check_history
from durable._journal.keys import KeyRing
from durable._journal.records import RunRow
from durable._journal.seals import Seals, is_sealed
from durable._journal.whole import WholeRun, opened
from durable._replay.attributes import ATTRIBUTE_KINDS
from durable._replay.events import Event, EventKind
from durable.errors import InvalidExportError, JournalCorruptError, PayloadDecodeError

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
_CHUNK_KINDS = {CHUNK: "chunk", RESET: "reset", CLOSED: "closed"}
_CHUNK_NUMBERS = {name: kind for kind, name in _CHUNK_KINDS.items()}


# --- out ------------------------------------------------------------------------------------


def pack(
    whole: WholeRun,
    about: Mapping[str, object],
    shown: Callable[[Event | Chunk], object],
    sealed_in: str | None = None,
) -> dict[str, Any]:
    """Return the document of a run.

    Args:
        whole: the run.
        about: facts about it for people, as JSON data.
        shown: gives the preview of what an event or a chunk holds, as JSON data.
        sealed_in: the id of the journal for which the payloads are sealed, None if they are not.
    """
    columns = whole.row._asdict().items()
    run = {name: value for name, value in columns if name not in _OWN_COLUMNS}
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "checksum": "",
        **({} if sealed_in is None else {"sealed_in": sealed_in}),
        "about": dict(about),
        "run": run,
        "events": [_packed_event(event, shown) for event in whole.events],
        "streams": {
            name: [_packed_chunk(chunk, shown) for chunk in chunks]
            for name, chunks in whole.streams.items()
        },
    }
    document["checksum"] = _checksum(document)
    return document


def _packed_event(event: Event, shown: Callable[[Event | Chunk], object]) -> dict[str, Any]:
    packed: dict[str, Any] = {**event._asdict(), "kind": EventKind(event.kind).label}
    if event.payload is not None:
        form = form_of(event.payload)
        form = "text" if event.kind in _TEXTS and not is_sealed(event.payload) else form
        packed["payload"] = _packed_payload(event.payload, form)
        packed["shown"] = shown(event)
    return packed


def _packed_chunk(chunk: Chunk, shown: Callable[[Event | Chunk], object]) -> dict[str, Any]:
    packed: dict[str, Any] = {"kind": _CHUNK_KINDS[chunk.kind], "step": chunk.step}
    packed |= {"attempt": chunk.attempt, "payload": None}
    if chunk.payload is not None:
        packed["payload"] = _packed_payload(chunk.payload, form_of(chunk.payload))
        packed["shown"] = shown(chunk)
    return packed


def _packed_payload(payload: bytes, form: str) -> dict[str, str]:
    return {"as": form, "base64": b64encode(payload).decode()}


def _checksum(document: Mapping[str, Any]) -> str:
    bare: list[object] = [document["format"], document["version"], document["run"]]
    bare += [document[key] for key in ("sealed_in",) if key in document]
    bare.append([_without_preview(event) for event in document["events"]])
    streams = document.get("streams", {})
    bare.append({name: [_without_preview(row) for row in rows] for name, rows in streams.items()})
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def _without_preview(packed: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in packed.items() if key != "shown"}


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


def unpack(document: object, seals_of: Callable[[str], Seals] | None = None) -> WholeRun:
    """Return the run of a document, checked, with the key 0; executes and loads nothing.

    Args:
        document: JSON data.
        seals_of: gives the seals of the journal with an id, from the keys that are at hand.

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
    streams = document.get("streams", {})
    if not isinstance(streams, dict) or not all(isinstance(s, list) for s in streams.values()):
        raise InvalidExportError('its "streams" are no lists')
    if not all(isinstance(each, dict) for each in chain(events, *streams.values())):
        raise InvalidExportError("an event or a chunk is no JSON object")
    _check_sum(document)
    row = _row(run)
    history = [_event(place, event) for place, event in enumerate(events, 1)]
    sealed_in = document.get("sealed_in")
    is_open = sealed_in is None
    chunks = {name: _stream(name, rows, is_open=is_open) for name, rows in streams.items()}
    whole = WholeRun(row, history, chunks)
    if not is_open:
        whole = _unsealed(whole, sealed_in, seals_of)
    check_history(row, whole.events)
    return whole


def _unsealed(
    whole: WholeRun, journal_id: object, seals_of: Callable[[str], Seals] | None
) -> WholeRun:
    if not _is_a(str, journal_id):
        raise InvalidExportError(f'it has "sealed_in": {journal_id!r:.60}, which is no id')
    seals = (seals_of or _no_seals)(str(journal_id))
    try:
        whole = opened(whole, seals)
    except (JournalCorruptError, PayloadDecodeError) as error:
        raise InvalidExportError(str(error)) from None
    for name, chunks in whole.streams.items():
        for chunk in chunks:
            _check_chunk(f"chunk {chunk.place} of stream {name!r:.60}", chunk)
    return whole


def _no_seals(journal_id: str) -> Seals:
    return Seals(KeyRing(), journal_id)


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
        _payload(f"event {place}", event.get("payload")),
    )  # fmt: skip


def _stream(name: str, rows: Sequence[dict[str, Any]], *, is_open: bool) -> list[Chunk]:
    if not _is_a(str, name):
        raise InvalidExportError(f"the name of stream {name!r:.60} is no text")
    chunks: list[Chunk] = []
    for place in range(len(rows)):
        what = f"chunk {place} of stream {name!r:.60}"
        chunks.append(_chunk(what, place, rows))
        if is_open:
            _check_chunk(what, chunks[-1])
    return chunks


def _chunk(what: str, place: int, rows: Sequence[dict[str, Any]]) -> Chunk:
    row = rows[place]
    kind = _CHUNK_NUMBERS.get(str(row.get("kind")))
    if kind is None or not _is_a(int, row.get("step")) or not _is_a(int, row.get("attempt")):
        raise InvalidExportError(f"{what} is none: {row!r:.80}")
    if kind == CLOSED and place != len(rows) - 1:
        raise InvalidExportError(f"{what} closes it, and others follow")
    payload = _payload(what, row.get("payload"))
    return Chunk(place, kind, row["step"], row["attempt"], payload)


def _check_chunk(what: str, chunk: Chunk) -> None:
    if (chunk.payload is None) == (chunk.kind == CHUNK):
        raise InvalidExportError(
            f"{what} is a {_CHUNK_KINDS[chunk.kind]} with a payload, or a chunk without"
        )


def _payload(what: str, packed: object) -> bytes | None:
    if packed is None:
        return None
    encoded = packed.get("base64") if isinstance(packed, dict) else None
    try:
        if isinstance(encoded, str):
            return b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidExportError(f"{what} has a payload that is no base64")


def _is_a(kind: type, value: object) -> bool:
    if type(value) is not kind:
        return False
    if isinstance(value, int):
        return -_INT_MAX <= value < _INT_MAX
    return not isinstance(value, str) or ("\0" not in value and _is_unicode(value))


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)
