"""What becomes of each run of a damaged journal: kept, mended, set aside, or lost.

Owns the decisions, made from what could be read and from nothing else:

    kept       row, history and streams are whole
    mended     its state was damaged, and its history tells it
    set aside  something of it is damaged: the sound beginning of its history is kept, and
               it is blocked, because going on from there repeats what was recorded behind
    lost       not even its id is known

A run that had ended is set aside without its end: otherwise it would seem whole. Whoever
resumes it has it replayed, and ended again, from what is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from durable._journal.attributes import Blocked, decode_blocked, decode_origin, encode_blocked
from durable._journal.care.judging import (
    Finding,
    Stored,
    judge_agreement,
    judge_history,
    judge_row,
    judge_stream,
)
from durable._journal.care.salvage import Wreck
from durable._journal.checksum import checksum, checksum_of_run, matches
from durable._journal.records import BLOCKED, FINISHED, PENDING, RUNNING, RunRow
from durable._journal.row_checksums import soundness
from durable._replay.events import TERMINAL, Event, EventKind
from durable._replay.rewound import effective

Fate = Literal["kept", "mended", "set aside", "lost"]

_ENDS = {
    EventKind.RUN_COMPLETED: "completed",
    EventKind.RUN_FAILED: "failed",
    EventKind.RUN_CANCELLED: "cancelled",
    EventKind.RUN_CONTINUED: "continued",
}
_TYPES: dict[str, tuple[type, ...]] = {
    name: get_args(hint) or (hint,) for name, hint in get_type_hints(RunRow).items()
}
_COLUMNS = len(RunRow._fields)
_NOTHING = b"N"  # the payload of None


@dataclass(slots=True)
class Mended:
    """One run as it is to be in the mended journal.

    Attributes:
        key: the run's.
        fate: see the module's docstring.
        run_id: None if it is not known.
        row: to be written, None for a lost run.
        events, chunks: to be written, as they were stored.
        why: what is wrong with it.
        left_out: how many events and chunks that could be read are not kept.
    """

    key: int
    fate: Fate
    run_id: str | None
    row: RunRow | None = None
    events: list[Stored] = field(default_factory=list)
    chunks: list[Stored] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    left_out: int = 0


def mend(wreck: Wreck, key: int) -> Mended:
    """Decide what becomes of a run."""
    stored, events = wreck.rows.get(key), list(wreck.events.get(key, ()))
    run_id = _id_of(wreck, key, stored, events)
    if run_id is None:
        why = (
            "neither its row nor its history can be read"
            if not events
            else ("its row is gone or damaged, and its events do not tell which run it is")
        )
        count = len(events) + len(wreck.chunks.get(key, ()))
        return Mended(key, "lost", None, why=[why], left_out=count)
    mended = Mended(key, "kept", run_id)
    found = _judge(mended, wreck, stored, events)
    mended.why = [finding.what for finding in found]
    if key in wreck.torn:
        mended.why.append("a part of it lies in a page that cannot be read")
    if key in wreck.short:
        mended.why.append(wreck.short[key])
    if not mended.why and stored is not None:
        mended.row = RunRow._make(stored[:_COLUMNS])
    elif stored is not None and not _is_torn(mended, wreck, found) and _state_is_told(stored):
        mended.fate, mended.row = "mended", _from_history(stored, mended.events)
    else:
        _set_aside(mended, stored)
    mended.left_out = max(0, len(events) - len(mended.events))
    mended.left_out += len(wreck.chunks.get(key, ())) - len(mended.chunks)
    return mended


def _id_of(wreck: Wreck, key: int, stored: Stored | None, events: list[Stored]) -> str | None:
    """Return the id that the first event, or the row, was recorded under."""
    known = [] if stored is None else [str(stored[1])]
    known += [wreck.ids[key]] if key in wreck.ids else []
    for run_id in known:
        try:
            seed = checksum_of_run(run_id)
        except ValueError:
            continue  # it is no text any more
        if any(matches(seed, event) for event in events):
            return run_id
    if stored is not None and soundness(stored).fixed:
        return known[0]
    return None


def _judge(
    mended: Mended, wreck: Wreck, stored: Stored | None, events: list[Stored]
) -> list[Finding]:
    """Fill in what of the run is sound, and return what is not."""
    assert mended.run_id is not None
    key, run_id = mended.key, mended.run_id
    missing = Finding("runs", "its row is gone", run_id, key)
    found = [missing] if stored is None else list(judge_row(stored))
    bad = list(judge_history(run_id, key, events))
    mended.events = _prefix(run_id, events)
    if not found and not bad and stored is not None:
        bad = list(judge_agreement(RunRow._make(stored[:_COLUMNS]), events))
    found += bad
    streams: dict[str, list[Stored]] = {}
    for chunk in wreck.chunks.get(key, ()):
        streams.setdefault(chunk[0], []).append(chunk)
    for name, chunks in streams.items():
        sound = 0
        while sound < len(chunks) and not list(
            judge_stream(run_id, key, name, [chunks[sound][1:]], sound)
        ):
            sound += 1
        mended.chunks += chunks[:sound]
        found += judge_stream(run_id, key, name, [chunk[1:] for chunk in chunks])
    return found


def _prefix(run_id: str, events: list[Stored]) -> list[Stored]:
    """Return the sound beginning of a history."""
    seed = checksum_of_run(run_id)
    for place, event in enumerate(events, 1):
        if event[0] != place or not matches(seed, event):
            return events[: place - 1]
    return events


def _is_torn(mended: Mended, wreck: Wreck, found: list[Finding]) -> bool:
    """Tell whether more than the state of the row is damaged."""
    is_short = mended.key in wreck.torn or mended.key in wreck.short
    if is_short or any(finding.table != "runs" for finding in found):
        return True
    stored = wreck.rows[mended.key]
    sound = soundness(stored)
    return not (sound.fixed and sound.attributes) or not mended.events


def _state_is_told(stored: Stored) -> bool:
    """Tell whether a history tells the state: not of a run that may have been blocked."""
    return stored[3] in {PENDING, RUNNING, *FINISHED} and stored[15] is None


def _from_history(stored: Stored, events: list[Stored]) -> RunRow:
    row = RunRow._make(stored[:_COLUMNS])
    history = [Event._make(event[:7]) for event in events]
    view, last = effective(history), history[-1]
    started = next((e.at for e in view.events if e.kind == EventKind.RUN_STARTED), None)
    if last.kind in TERMINAL:
        kept = row.retention_us
        return row._replace(
            status=_ENDS[EventKind(last.kind)],
            started_at=started,
            completed_at=last.at,
            wake_at=None,
            expires_at=last.at + kept if kept is not None and kept >= 0 else None,
            blocked=None,
        )
    begins = row.created_at if history[0].due is None else history[0].due
    return row._replace(
        status=PENDING if started is None else RUNNING,
        started_at=started,
        completed_at=None,
        wake_at=begins if started is None else 0,
        expires_at=None,
        blocked=None,
    )


def _set_aside(mended: Mended, stored: Stored | None) -> None:
    if not mended.events:
        mended.events = [_stub(mended, stored)]
    while len(mended.events) > 1 and mended.events[-1][1] in TERMINAL:
        mended.events = mended.events[:-1]
    mended.chunks = _of_known_steps(mended)
    first = Event._make(mended.events[0][:7])
    reason = (
        f"`durable repair` has set it aside: {'; '.join(mended.why[:5])}. Its history is kept up "
        f"to event {len(mended.events)}. To have it go on from there, doing again what came "
        "behind: resume it; else cancel it"
    )
    values: dict[str, Any] = dict.fromkeys(RunRow._fields)
    if stored is not None:
        columns = zip(RunRow._fields, stored, strict=False)
        values |= {name: value for name, value in columns if _is_usable(name, value)}
    started = next((e[4] for e in mended.events if e[1] == EventKind.RUN_STARTED), None)
    blocked = Blocked("corrupt", reason, None, _seen(values, len(mended.events)))
    values |= {
        "pk": mended.key, "run_id": mended.run_id, "workflow": first.name, "status": BLOCKED,
        "created_at": first.at, "started_at": started, "completed_at": None, "wake_at": None,
        "expires_at": None, "blocked": encode_blocked(blocked),
        "behaviour": values["behaviour"] or 0,
    }  # fmt: skip
    if stored is None or not soundness(stored).attributes:
        values["attributes"] = None
    mended.fate, mended.row = "set aside", RunRow(**values)


def _of_known_steps(mended: Mended) -> list[Stored]:
    """Return the chunks of each stream up to the first one whose step is not kept."""
    steps = {event[0] for event in mended.events if event[1] == EventKind.STEP_CREATED}
    kept: list[Stored] = []
    ended: set[str] = set()
    for chunk in mended.chunks:
        name, step = chunk[0], chunk[3]
        if step > 0 and step not in steps:
            ended.add(name)
        if name not in ended:
            kept.append(chunk)
    return kept


def _stub(mended: Mended, stored: Stored | None) -> Stored:
    """Return a first event for a run that has none: so its id is not taken for a free one.

    It holds no arguments, so that the run cannot go on; it can be cancelled.
    """
    assert mended.run_id is not None
    mended.why.append("nothing of its history is left, so that it cannot go on")
    name, at = ("unknown", 0) if stored is None else (stored[2], stored[4])
    name = name if _is_usable("workflow", name) else "unknown"
    at = at if isinstance(at, int) else 0
    event = (1, int(EventKind.RUN_CREATED), 0, name, at, None, _NOTHING)
    return (*event, checksum(checksum_of_run(mended.run_id), event))


def _is_usable(column: str, value: object) -> bool:
    """Tell whether a column of a row that may be damaged can be written again."""
    try:
        if isinstance(value, str):
            value.encode()
        if column == "origin" and isinstance(value, str):
            decode_origin(value)
    except (ValueError, TypeError):
        return False
    return isinstance(value, _TYPES[column])


def _seen(values: dict[str, Any], last: int) -> int | None:
    """Return what the body of a run that was blocked had seen, as far as it is still there."""
    if values["status"] != BLOCKED:
        return None
    try:
        seq = decode_blocked(values["blocked"]).seq
    except (ValueError, TypeError):
        return None
    return None if seq is None or seq >= last else seq
