"""The document of a run: its shape is fixed, and what comes in is checked to the last field."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable._journal.chunks import CHUNK, CLOSED, RESET, Chunk
from durable._journal.portable import pack, parse_document, unpack
from durable._journal.records import RunRow
from durable._journal.whole import WholeRun
from durable._replay.attributes import encode_change
from durable._replay.events import TERMINAL, Event, EventKind
from durable.errors import InvalidExportError
from tests.journal.rig import run_row

K = EventKind
PLAIN = b"\x80\x05K\x07."  # the pickle of 7


def event(seq: int, kind: EventKind, ref: int = 0, **more: Any) -> Event:
    """An event with a payload where one must be."""
    payload = more.pop("payload", PLAIN)
    return Event(seq, kind, ref, more.pop("name", ""), 1_000 + seq, more.pop("due", None), payload)


def whole_history(end: EventKind) -> list[Event]:
    """A history with events of every kind, which ends in one of the ways there are."""
    change = encode_change({"k": "old"}, {"k": "new", "gone": None})
    events = [
        event(1, K.RUN_CREATED, name="w"),
        event(2, K.RUN_STARTED, payload=None),
        event(3, K.STEP_CREATED, name="charge"),
        event(4, K.STEP_RETRYING, 3, name="failed", due=2_000),
        event(5, K.ATTR_NOTED, 3, payload=change),
        event(6, K.STEP_COMPLETED, 3),
        event(7, K.STEP_CREATED, name="ship"),
        event(8, K.STEP_FAILED, 7),
        event(9, K.STEP_CREATED, name="late"),
        event(10, K.STEP_YIELDED, 9),
        event(11, K.STEP_CANCELLED, 9, name="late", payload=None),
        event(12, K.WAIT_CREATED, name="sleep", due=3_000, payload=None),
        event(13, K.WAIT_COMPLETED, 12, name="woken", payload=None),
        event(14, K.HOOK_CREATED, name="order:1"),
        event(15, K.HOOK_CONFLICT, 14, payload=None),
        event(16, K.HOOK_RECEIVED, 14),
        event(17, K.HOOK_DISPOSED, 14, payload=None),
        event(18, K.ATTR_SET, payload=change),
        event(19, K.CANCEL_REQUESTED, name="user", payload=b"why \xc3\xbc", due=9_000),
        event(20, K.RUN_FAILED),
        event(21, K.RUN_REWOUND, 20, name="body", payload=b"again"),
        event(22, K.STEP_STARTED, 3, payload=None),
    ]
    if end == K.RUN_CREATED:
        return events
    is_text = end in {K.RUN_CANCELLED, K.RUN_CONTINUED}
    return [*events, event(23, end, payload=b"why \xc3\xbc" if is_text else PLAIN)]


STREAMS = {
    "": [Chunk(0, CHUNK, 3, 1, PLAIN), Chunk(1, RESET, 3, 2, None), Chunk(2, CHUNK, 3, 2, b"N")],
    "log": [Chunk(0, CHUNK, -5, 1, PLAIN), Chunk(1, CLOSED, 9, 1, None)],
}


ENDS = {
    K.RUN_COMPLETED: "completed",
    K.RUN_FAILED: "failed",
    K.RUN_CANCELLED: "cancelled",
    K.RUN_CONTINUED: "continued",
    K.RUN_CREATED: "running",
}


def row_for(end: EventKind, **changes: Any) -> RunRow:
    """A row that belongs to such a history."""
    ended = None if end == K.RUN_CREATED else 5_000
    facts: dict[str, Any] = {"status": ENDS[end], "completed_at": ended, "started_at": 1_002}
    facts |= {"attributes": '{"k": "new"}', "root_id": "r0", "parent_id": "r0"}
    return run_row(0, "r1", **{**facts, **changes})


def packed(end: EventKind = K.RUN_COMPLETED) -> dict[str, Any]:
    """A document, as it comes from a file."""
    whole = WholeRun(row_for(end), whole_history(end), STREAMS)
    document = pack(whole, {"note": "about"}, lambda each: "shown")
    return json.loads(json.dumps(document))


@pytest.mark.parametrize("end", [end for end in ENDS if end in TERMINAL or end == K.RUN_CREATED])
def test_every_kind_of_event_survives_the_way_out_and_in(end: EventKind) -> None:
    """Row, history and streams are the same, byte for byte."""
    row, events, streams = unpack(packed(end))
    assert streams == STREAMS
    assert row == row_for(end)
    assert events == whole_history(end)
    kinds = {each.kind for each in events} | TERMINAL | {K.RUN_CONTINUED}
    assert kinds == set(EventKind), "a kind of event is not tried here"


GOLDEN = {
    "format": "durable run",
    "version": 1,
    "checksum": "sha256:",
    "about": {"for": "people"},
    "run": {
        "run_id": "r1",
        "workflow": "w",
        "status": "completed",
        "created_at": 1,
        "started_at": None,
        "completed_at": 5000,
        "deadline": None,
        "retention_us": None,
        "parent_id": None,
        "root_id": None,
        "deployment_id": None,
        "attributes": None,
        "blocked": None,
        "behaviour": 0,
    },
    "events": [
        {
            "seq": 1,
            "kind": "run_created",
            "ref": 0,
            "name": "w",
            "at": 1001,
            "due": None,
            "payload": {"as": "pickle", "base64": "gAVLBy4="},
            "shown": [1, "run_created"],
        },
        {
            "seq": 2,
            "kind": "run_started",
            "ref": 0,
            "name": "",
            "at": 1002,
            "due": None,
            "payload": None,
        },
        {
            "seq": 3,
            "kind": "run_completed",
            "ref": 0,
            "name": "",
            "at": 1003,
            "due": None,
            "payload": {"as": "none", "base64": "Tg=="},
            "shown": [3, "run_completed"],
        },
    ],
    "streams": {
        "log": [
            {
                "kind": "chunk",
                "step": 3,
                "attempt": 1,
                "payload": {"as": "pickle", "base64": "gAVLBy4="},
                "shown": "a chunk",
            },
            {"kind": "closed", "step": 3, "attempt": 1, "payload": None},
        ]
    },
}


def shown(each: Event | Chunk) -> object:
    """A preview."""
    return [each.seq, EventKind(each.kind).label] if isinstance(each, Event) else "a chunk"


def test_shape_of_version_1_is_what_it_was() -> None:
    """What one durable writes, every later one reads: a change of this is a new version."""
    events = [
        event(1, K.RUN_CREATED, name="w"),
        event(2, K.RUN_STARTED, payload=None),
        event(3, K.RUN_COMPLETED, payload=b"N"),
    ]
    row = run_row(0, "r1", status="completed", completed_at=5000)
    streams = {"log": [Chunk(0, CHUNK, 3, 1, PLAIN), Chunk(1, CLOSED, 3, 1, None)]}
    made = pack(WholeRun(row, events, streams), {"for": "people"}, shown)
    assert made.pop("checksum").startswith("sha256:")
    # Columns may be added, and are then read as None where they lack.
    made["run"] = {name: made["run"][name] for name in GOLDEN["run"]}
    assert made == {key: value for key, value in GOLDEN.items() if key != "checksum"}
    assert list(GOLDEN) == ["format", "version", "checksum", "about", "run", "events", "streams"]


def test_what_is_meant_for_people_may_be_cut_out() -> None:
    """A document without previews is imported all the same."""
    document = packed()
    document["about"] = {"cut": "out"}
    for each in [*document["events"], *document["streams"][""]]:
        each.pop("shown", None)
    assert unpack(document).events == whole_history(K.RUN_COMPLETED)


# --- bad documents --------------------------------------------------------------------------


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A document with the checksum that fits it, as somebody malicious would make it."""
    from durable._journal.portable import _checksum

    document["checksum"] = _checksum(document)
    return document


def with_event(place: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Change one event."""

    def change(document: dict[str, Any]) -> None:
        document["events"][place - 1].update(changes)

    return change


def with_run(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Change the row."""

    def change(document: dict[str, Any]) -> None:
        document["run"].update(changes)

    return change


def dropping(place: int) -> Callable[[dict[str, Any]], None]:
    """Leave an event out."""

    def change(document: dict[str, Any]) -> None:
        del document["events"][place - 1]

    return change


BAD = [
    (with_event(2, seq=7), "event 7 stands in place 2"),
    (dropping(5), "event 6 stands in place 5"),
    (with_event(3, kind="step_invented"), "unknown kind 'step_invented'"),
    (with_event(3, kind=10), "unknown kind 10"),
    (with_event(6, ref=12), "refers to event 12"),
    (with_event(6, ref=-1), "refers to event -1"),
    (with_event(8, ref=2), "which is no step_created"),
    (with_event(6, ref=0), "refers to no event"),
    (with_event(8, ref=3), "second outcome of 3"),
    (with_event(3, payload=None), "lacks its payload"),
    (with_event(3, payload={"base64": "%%"}), "no base64"),
    (with_event(3, payload="gAVLBy4="), "no base64"),
    (with_event(12, due=None), "lacks its due time"),
    (with_event(12, due=1.5), "event 12 has due"),
    (with_event(1, name="other"), "its run is of 'w'"),
    (with_event(2, kind="run_created", payload={"base64": "Tg=="}), "second run_created"),
    (with_event(5, payload={"base64": "e30="}), "which attributes"),
    (with_event(5, payload={"base64": "eyJzZXQiOiB7ImEiOiAxfSwgIndhcyI6IHt9fQ=="}), "which attrib"),
    (with_event(4, at=1 << 70), "event 4 has at"),
    (with_event(4, at=True), "event 4 has at"),
    (with_event(4, name="\ud800"), "event 4 has name"),
    (with_event(21, kind="wait_completed", ref=12), "after the end"),
    (lambda document: document.update(streams=[]), '"streams" are no lists'),
    (lambda document: document.update(streams={"": [1]}), "no JSON object"),
    (lambda document: document.update(streams={"\ud800": []}), "is no text"),
    (lambda document: document["streams"][""][0].update(kind="piece"), "chunk 0 of stream ''"),
    (lambda document: document["streams"][""][1].update(step=None), "chunk 1 of stream ''"),
    (lambda document: document["streams"]["log"].reverse(), "closes it, and others follow"),
    (lambda document: document["streams"]["log"][0].update(payload=None), "chunk without"),
    (lambda document: document["streams"]["log"][0].update(payload=7), "no base64"),
    (with_run(status="failed"), "ends with run_completed"),
    (with_run(status="running"), "ends with run_completed"),
    (with_run(completed_at=None), "completed at None"),
    (with_run(run_id="a\nb"), "not usable"),
    (with_run(run_id=""), "not usable"),
    (with_run(run_id=7), "run_id = 7"),
    (with_run(created_at=None), "created_at = None"),
    (with_run(attributes="[1]"), "attributes"),
    (with_run(attributes='{"a": 1}'), "attributes that are no texts"),
    (with_run(attributes="{"), "not usable"),
    (with_run(created_at=1 << 62), "created_at = 4611686018427387904, which is no time"),
    (with_run(completed_at=-(1 << 62)), "completed_at = -4611686018427387904, which is no time"),
    (with_event(2, at=1 << 62), "event 2 has at = 4611686018427387904, which is no time"),
    (with_event(12, due=-(1 << 62)), "event 12 has due = -4611686018427387904, which is no time"),
    (with_event(4, kind="cancel_requested", payload={"base64": "/w=="}), "bytes that are no text"),
    (with_run(retention_us=-2), "retention_us = -2"),
    (with_run(retention_us=1 << 62), "retention_us = 4611686018427387904"),
    (with_run(blocked="["), "not usable"),
    (with_run(blocked='{"cause": 1}'), "not usable"),
    (with_run(origin="7"), "not usable"),
    (with_run(colour="red"), "'colour', which this durable does not know"),
    (lambda document: document.update(events=[]), "does not begin with run_created"),
    (dropping(1), "does not begin with run_created"),
    (lambda document: document.update(events=[3]), "no JSON object"),
    (lambda document: document.update(events="x"), 'no "events"'),
    (lambda document: document.pop("run"), 'no "run"'),
    (lambda document: document.update(version=2), "format version 2, and this durable reads up"),
    (lambda document: document.update(version="1"), "format version '1'"),
    (lambda document: document.update(format="other"), '"durable run"'),
]


@pytest.mark.parametrize(("change", "told"), BAD, ids=[told for _, told in BAD])
def test_documents_that_cannot_be_are_refused(
    change: Callable[[dict[str, Any]], None], told: str
) -> None:
    """Also with a checksum that fits: the message tells what is wrong."""
    document = packed()
    change(document)
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        sealed(document)  # where one can be made of it
    with pytest.raises(InvalidExportError) as refused:
        unpack(document)
    assert told in str(refused.value)


def test_every_change_of_what_is_imported_breaks_the_checksum() -> None:
    """A bit that fell over on the way is noticed."""
    document = packed()
    for place, each in enumerate(document["events"]):
        for key in ("at", "name", "payload"):
            changed = copy.deepcopy(document)
            changed["events"][place][key] = "x" if key == "name" else None
            if changed["events"][place][key] != each[key]:
                with pytest.raises(InvalidExportError, match="checksum"):
                    unpack(changed)
    changed = copy.deepcopy(document)
    changed["run"]["deployment_id"] = "v9"
    with pytest.raises(InvalidExportError, match="checksum"):
        unpack(changed)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b"1" * 5000, b'{"format": Infinity}'],
    ids=lambda text: str(text[:12]),
)
def test_text_that_is_no_json_is_refused(text: bytes) -> None:
    """Half files, other files, files made to hurt."""
    with pytest.raises(InvalidExportError):
        unpack(parse_document(text))


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["format", "version", "run", "events", "checksum"])
            | st.tuples(st.just("run"), st.sampled_from(list(RunRow._fields)))
            | st.tuples(
                st.just("events"),
                st.integers(0, 21),
                st.sampled_from(["seq", "kind", "ref", "name", "at", "due", "payload"]),
            ),
            json_data,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_nothing_but_a_refusal_comes_of_odd_documents(
    changes: list[tuple[Any, object]],
) -> None:
    """Whatever stands where, it is refused by name or is a run like any other."""
    document = packed()
    for path, value in changes:
        _put(document, [path] if isinstance(path, str) else list(path), value)
    try:
        sealed(document)
    except Exception:  # not even a checksum can be made of it
        pass
    try:
        row, events, _ = unpack(document)
    except InvalidExportError:
        return
    assert [each.seq for each in events] == list(range(1, len(events) + 1))
    assert isinstance(row, RunRow)


def _put(document: Any, keys: list[Any], value: object) -> None:
    place = document
    for key in keys[:-1]:
        try:
            place = place[key]
        except (LookupError, TypeError):
            return  # an earlier change has taken it away
    if isinstance(place, dict):
        place[keys[-1]] = value
