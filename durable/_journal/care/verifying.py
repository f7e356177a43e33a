"""Verifying a journal: every row of every table is read, and what is wrong is reported.

Owns the order of looking (the file's structure, the schema, runs with their histories,
streams, hooks, requests, attributes, meta) and the report. One moment is looked at, also
beside an owner; nothing is changed, and nothing recorded is loaded. Damage in one place
does not end the looking: what can still be read is read.

What makes a row good is in `judging`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from durable._base.ids import token_hash
from durable._base.words import counted
from durable._journal.care.judging import (
    Finding,
    Stored,
    judge_agreement,
    judge_history,
    judge_row,
    judge_stream,
)
from durable._journal.care.looking import attempt, looking_at
from durable._journal.database import AUTO_VACUUM_INCREMENTAL
from durable._journal.faults import translate
from durable._journal.files import JournalFiles
from durable._journal.migrations import LATEST, schema_differs, version_of
from durable._journal.records import RunRow
from durable._journal.row_checksums import hook_sum, request_sum, sound_meta
from durable._journal.sql import parse, read
from durable._replay.events import EventKind
from durable.errors import JournalVersionError

QUERIES = parse(read("care/examining.sql"))
_STRUCTURE_FINDINGS = 100

_run_of = itemgetter(0)
_stream_of = itemgetter(0, 1)


@dataclass(frozen=True, slots=True)
class Verification:
    """What a journal holds, and what is wrong with it.

    Attributes:
        path: the journal.
        runs, events, chunks: how many rows were read.
        findings: what is wrong; empty for a sound journal.

    Example:
        ``assert not (await verify("app.db")).findings``
    """

    path: str
    runs: int
    events: int
    chunks: int
    findings: list[Finding] = field(repr=False)


# Told of each run's row (None if it is missing or damaged) with its stored events.
Witness = Callable[[RunRow | None, list[Stored]], None]


def verify_journal(files: JournalFiles, *, fully: bool = True) -> Verification:
    """Read all of a journal and report what is wrong; see the module's docstring.

    Args:
        files: the journal's.
        fully: hold the indexes against their tables, too, which takes longer.

    Raises:
        JournalError: there is no such file, or it is of another version or program.
        JournalCorruptError: nothing can be read.
    """
    try:
        return _verified(files, fully=fully)
    except sqlite3.Error as error:
        raise translate(error, files.path, "reading") from error


def _verified(files: JournalFiles, *, fully: bool) -> Verification:
    with looking_at(files) as conn:
        if (version := version_of(conn, files.path, LATEST)) != LATEST:
            raise JournalVersionError(
                f"the journal {files.path} has schema version {version}, and this durable reads "
                f"{LATEST}: open it once with a Runtime that may own it"
            )
        look = Look(conn)
        look.at_everything(fully=fully)
    return Verification(files.path, look.runs, look.events, look.chunks, look.findings)


class Look:
    """One look at all tables; see the module's docstring.

    Attributes:
        findings: so far.
        runs, events, chunks: rows read so far.
        witness: see `Witness`.
    """

    def __init__(self, conn: sqlite3.Connection, witness: Witness | None = None) -> None:
        self.findings: list[Finding] = []
        self.runs = self.events = self.chunks = 0
        self.witness = witness
        self._conn = conn
        self._trash: set[int] = set()
        self._rows: dict[int, str] = {}  # ids of the runs that were seen
        self._histories: set[int] = set()

    def at_everything(self, *, fully: bool) -> None:
        """Look at the file and at all tables."""
        self.at_structure(fully=fully)
        for table, look in (
            ("trash", self._at_trash),
            ("runs", self._at_runs),
            ("events", self._at_events),
            ("chunks", self._at_chunks),
            ("hooks", self._at_hooks),
            ("requests", self._at_requests),
            ("attributes", self._at_attributes),
            ("meta", self._at_meta),
        ):
            attempt(look, lambda how, t=table: self._tell(Finding(t, f"cannot be read: {how}")))  # type: ignore[misc]

    def at_structure(self, *, fully: bool) -> None:
        """Have SQLite look at the pages, and hold the schema against ours."""
        pragma = "integrity_check" if fully else "quick_check"

        def check() -> list[tuple[str]]:
            return self._conn.execute(f"PRAGMA {pragma}({_STRUCTURE_FINDINGS:d})").fetchall()

        verdicts = attempt(check, lambda how: self._tell(Finding("file", how))) or []
        self.findings += [Finding("file", str(each)) for (each,) in verdicts if each != "ok"]
        (vacuum,) = self._conn.execute("PRAGMA auto_vacuum").fetchone()
        if vacuum != AUTO_VACUUM_INCREMENTAL:
            what = f"the header says auto_vacuum {vacuum}, which no journal has"
            self._tell(Finding("file", what))
        changed, more = schema_differs(self._conn)
        self.findings += [
            Finding("file", f"the schema lacks {n}, or has it changed") for n in changed
        ]
        self.findings += [Finding("file", f"the schema holds {n}, which is not ours") for n in more]

    def _tell(self, finding: Finding) -> None:
        self.findings.append(finding)

    def _all(self, name: str, *values: object) -> Iterator[Stored]:
        return iter(self._conn.execute(QUERIES[name], values))

    # --- runs and their histories -----------------------------------------------------------

    def _at_trash(self) -> None:
        self._trash = {run for (run,) in self._all("trash")}

    def _at_runs(self) -> None:
        for stored in self._all("runs", -(1 << 63)):
            self.runs += 1
            self.findings += judge_row(stored)
            self._rows[stored[0]] = str(stored[1])
            if stored[0] in self._trash:
                what = "it is a run, and in the trash as well"
                self._tell(Finding("trash", what, str(stored[1]), stored[0]))

    def _at_events(self) -> None:
        rows = self._all("events", -(1 << 63), 0)
        for key, group in groupby(rows, _run_of):
            events = [row[1:] for row in group]
            if key in self._trash:
                continue
            self.events += len(events)
            if key in self._histories or key not in self._rows:
                self._strays(key, events)
                continue
            self._histories.add(key)
            self._judge(key, events)
        for key in self._rows.keys() - self._histories:
            self._judge(key, [])

    def _strays(self, key: int, events: list[Stored]) -> None:
        why = "in another place" if key in self._rows else "of no run"
        what = f"{counted(len(events), 'event')} from number {events[0][0]} on {why}"
        self._tell(Finding("events", what, self._rows.get(key), key, events[0][0]))

    def _judge(self, key: int, events: list[Stored]) -> None:
        found = list(judge_history(self._rows[key], key, events))
        stored = next(self._all("run", key), None)
        row = None
        if stored is not None and not list(judge_row(stored)):
            row = RunRow._make(stored[: len(RunRow._fields)])
        if row is not None and not found:
            found += judge_agreement(row, events)
        self.findings += found
        if self.witness is not None:
            self.witness(row, [] if found else events)

    # --- what else belongs to runs ------------------------------------------------------------

    def _at_chunks(self) -> None:
        for (key, name), group in groupby(self._all("chunks", -(1 << 63), "", -1), _stream_of):
            chunks = [row[2:] for row in group]
            if key in self._trash:
                continue
            self.chunks += len(chunks)
            run_id = self._rows.get(key)
            if run_id is None:
                what = f"{counted(len(chunks), 'chunk')} of a stream of no run"
                self._tell(Finding("chunks", what, None, key))
                continue
            self.findings += judge_stream(run_id, key, name, chunks)
            self._check_steps(key, run_id, {chunk[2] for chunk in chunks})

    def _check_steps(self, key: int, run_id: str, steps: set[int]) -> None:
        """See that the steps that have written chunks are there."""
        for step in sorted(step for step in steps if isinstance(step, int) and step > 0):
            if self._kind(key, step) != EventKind.STEP_CREATED:
                what = f"chunks were written by event {step}, which is no step"
                self._tell(Finding("chunks", what, run_id, key))

    def _at_hooks(self) -> None:
        for hashed, key, seq, crc in self._all("hooks"):
            run_id = self._rows.get(key)
            if key in self._trash:
                continue
            if not isinstance(hashed, bytes) or hook_sum(hashed, key, seq) != crc:
                self._tell(Finding("hooks", "a row does not match its checksum", run_id, key, seq))
            elif run_id is None:
                self._tell(Finding("hooks", "a token is held by no run", None, key))
            elif seq and not self._holds(key, seq, hashed):
                what = f"a token is held by event {seq}, which is no hook with this token"
                self._tell(Finding("hooks", what, run_id, key, seq))

    def _holds(self, key: int, seq: int, hashed: bytes) -> bool:
        event = next(self._all("event", key, seq), None)
        if event is None or event[2] != EventKind.HOOK_CREATED:
            return False
        return not event[4] or token_hash(event[4]) == hashed  # a made token is in the payload

    def _at_requests(self) -> None:
        for key, kind, seq, payload, crc in self._all("requests"):
            run_id = self._rows.get(key)
            if key in self._trash:
                continue
            if request_sum(key, kind, seq, payload) != crc:
                what = f"a request to {kind} does not match its checksum"
                self._tell(Finding("requests", what, run_id, key))
            elif run_id is None:
                self._tell(Finding("requests", f"a request to {kind} is for no run", None, key))

    def _at_attributes(self) -> None:
        for key, run_id, name in self._all("not_indexed"):
            self._tell(Finding("attributes", f"attribute {name!r} is not indexed", run_id, key))
        for key, run_id, name in self._all("indexed_wrongly"):
            what = f"attribute {name!r} is indexed, and the run has it not"
            self._tell(Finding("attributes", what, run_id, key))

    def _at_meta(self) -> None:
        meta, damaged = sound_meta(self._all("meta"))
        self.findings += [
            Finding("meta", f"row {key} does not match its checksum") for key in damaged
        ]
        lacking = {"journal_id", "created_at"} - set(meta) - set(damaged)
        self.findings += [Finding("meta", f"row {key} is missing") for key in sorted(lacking)]

    def _kind(self, key: int, seq: int) -> int | None:
        event = next(self._all("event", key, seq), None)
        return None if event is None else int(event[2])
