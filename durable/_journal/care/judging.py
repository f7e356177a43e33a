"""What can be told of rows by looking at them: are they sound, complete, and do they agree?

Owns the judgement of one run's row, history and streams, which `verify` reports and
`repair` acts on. Rows come as they are stored, checksums included; nothing is read here,
and nothing of a payload is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from durable._journal.attributes import decode_blocked, decode_origin
from durable._journal.checksum import checksum_of_run, matches
from durable._journal.chunks import CHUNK, CLOSED, RESET, is_sound
from durable._journal.history_rules import check_history
from durable._journal.records import BLOCKED, RunRow
from durable._journal.row_checksums import StoredRun, soundness
from durable._journal.seals import without_signature
from durable._replay.events import Event, EventKind
from durable.errors import InvalidExportError

Stored = tuple[Any, ...]

_KINDS = frozenset(map(int, EventKind))
_CHUNK_KINDS = frozenset({CHUNK, RESET, CLOSED})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in a journal.

    Attributes:
        table: where it was found; "file" for the file as a whole.
        what: one sentence.
        run_id: the run it belongs to, None where that cannot be told.
        key: the run's key in the file, None where no run is concerned.
        seq: number of the event, or index of the chunk; None where none is concerned.

    Example:
        ``[finding.what for finding in (await verify("app.db")).findings]``
    """

    table: str
    what: str
    run_id: str | None = None
    key: int | None = None
    seq: int | None = None


def judge_row(stored: StoredRun) -> Iterator[Finding]:
    """Yield what is wrong with a run's row in itself."""
    key, run_id = _key(stored), str(stored[1])
    sound = soundness(stored)
    parts = {
        "what was said at its creation": sound.fixed,
        "its state": sound.state,
        "its attributes": sound.attributes,
    }
    if bad := [part for part, is_good in parts.items() if not is_good]:
        what = f"the row is damaged: {' and '.join(bad)} do not match the checksum"
        yield Finding("runs", what, run_id, key)
        return
    row = RunRow._make(stored[: len(RunRow._fields)])
    if (row.blocked is not None) != (row.status == BLOCKED):
        yield Finding("runs", f"it is {row.status}, and its reason is {row.blocked!r}", run_id, key)
    try:
        decode_blocked(row.blocked)
        decode_origin(row.origin)
        json.loads(row.attributes or "{}")
    except (ValueError, TypeError):
        yield Finding("runs", "a column of the row is no JSON of ours", run_id, key)


def judge_history(run_id: str, key: int, events: Sequence[Stored]) -> Iterator[Finding]:
    """Yield what is wrong with the events of a run, each in itself and in its place."""
    if not events:
        yield Finding("events", "the history is missing", run_id, key)
    seed, wanted = checksum_of_run(run_id), 1
    for event in events:
        seq = event[0]
        if seq != wanted:
            lacking = str(wanted) if seq == wanted + 1 else f"{wanted} to {_before(seq)}"
            what = f"event {lacking} is missing" if seq > wanted else f"event {seq} is out of place"
            yield Finding("events", what, run_id, key, min(wanted, seq))
        if not matches(seed, event):
            yield Finding("events", f"event {seq} does not match its checksum", run_id, key, seq)
        elif event[1] not in _KINDS:
            what = f"event {seq} is of the unknown kind {event[1]}"
            yield Finding("events", what, run_id, key, seq)
        wanted = seq + 1


def judge_agreement(row: RunRow, events: Sequence[Stored]) -> Iterator[Finding]:
    """Yield where a sound row and a sound history break the rules or contradict each other."""
    history = [without_signature(Event._make(event[:7])) for event in events]
    try:
        check_history(row, history)
    except InvalidExportError as error:
        yield Finding("events", str(error), row.run_id, row.pk)
        return
    if history[0].at != row.created_at and row.origin is None:
        what = f"the row was made at {row.created_at}, and the history at {history[0].at}"
        yield Finding("runs", what, row.run_id, row.pk)


def judge_stream(
    run_id: str, key: int, name: str, chunks: Sequence[Stored], first: int = 0
) -> Iterator[Finding]:
    """Yield what is wrong with rows of a stream, which begin at the index `first`."""
    of = f"of stream {name!r}" if name else "of the default stream"
    wanted = first
    for chunk in chunks:
        index = chunk[0]
        if index != wanted:
            what = f"chunk {wanted} {of} is missing: the next one is {index}"
            yield Finding("chunks", what, run_id, key, wanted)
        if not is_sound(run_id, name, chunk):
            what = f"chunk {index} {of} does not match its checksum"
            yield Finding("chunks", what, run_id, key, index)
        elif chunk[1] not in _CHUNK_KINDS:
            what = f"chunk {index} {of} is of the unknown kind {chunk[1]}"
            yield Finding("chunks", what, run_id, key, index)
        wanted = index + 1


def _before(seq: object) -> object:
    return seq - 1 if isinstance(seq, int) else seq


def _key(stored: StoredRun) -> int:
    return stored[0] if isinstance(stored[0], int) else 0
