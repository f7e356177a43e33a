"""The examination of a journal: versions, surroundings, structure, rows, runs in trouble.

Owns which checks are made, and how bad each outcome is:

    ok       as it should be
    note     worth knowing, nothing to be done
    warning  somebody should look after it
    damage   something recorded is lost, changed or contradictory

It looks like `verify` does: at one moment, beside an owner, changing nothing and loading
nothing. `facts` of a check hold numbers and names of our own only, never a payload, a
token, or a text that a user gave, so that they may be sent to somebody else.
"""

from __future__ import annotations

import platform
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

from durable._base.words import counted
from durable._journal.attributes import PAUSED, decode_blocked
from durable._journal.care.judging import Finding, Stored
from durable._journal.care.looking import looking_at
from durable._journal.care.sqlite_bugs import about_sqlite, has_wal_reset_bug
from durable._journal.care.surroundings import (
    filesystem_of,
    free_bytes,
    leftovers,
    modes,
    owner_of,
    size_of,
)
from durable._journal.care.verifying import QUERIES, Look
from durable._journal.files import RESERVE_BYTES, JournalFiles
from durable._journal.heads import split_head
from durable._journal.high_water import lost_event
from durable._journal.migrations import LATEST, version_of
from durable._journal.records import BLOCKED, FINISHED, RunRow
from durable._journal.row_checksums import sound_meta
from durable._journal.swapping import is_there
from durable._replay.events import INTERRUPTED, STEP_OUTCOMES, EventKind
from durable.errors import JournalError, PayloadDecodeError

Level = Literal["ok", "note", "warning", "damage"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "damage")

_WAL_BYTES_MAX = 64 << 20
_FREE_BYTES_MIN = 64 << 20
_AHEAD_US = 60 * 1_000_000  # clocks may differ by as much
_SUSPECT_FROM = 2  # interruptions, as in the engine
_CODE = b"c"  # how payloads with code in them begin
_PACKAGES = ("aiosqlite", "cloudpickle", "uvloop")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and what came of it.

    Attributes:
        name: of the check.
        level: see the module's docstring.
        summary: one sentence.
        details: one line each, for people; they may name runs.
        facts: see the module's docstring.
    """

    name: str
    level: Level
    summary: str
    details: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def examine(
    files: JournalFiles, now_us: int, *, version: str = "", fully: bool = False
) -> list[Check]:
    """Return all checks of a journal; see the module's docstring.

    Args:
        files: the journal's.
        now_us: the present, UTC microseconds.
        version: of durable, to be shown.
        fully: hold the indexes against their tables, too, which takes longer.

    Raises:
        JournalError: there is no such file.
    """
    if not is_there(files):
        raise JournalError(f"there is no journal at {files.path}: check the path")
    checks = [_versions(version), _sqlite(), _filesystem(files), _permissions(files), _owner(files)]
    checks += _sizes(files)
    try:
        with looking_at(files) as conn:
            checks += _inside(conn, files.path, now_us, fully=fully)
    except (sqlite3.Error, JournalError) as error:
        level: Level = "damage" if isinstance(error, sqlite3.Error) else "warning"
        if not size_of(files.path):
            level = "damage"
        checks.append(Check("contents", level, f"the journal cannot be read: {error}"))
    checks.append(_leftovers(files))
    return checks


def worst(checks: list[Check]) -> Level:
    """Return the highest level of some checks."""
    return max((check.level for check in checks), key=LEVELS.index, default="ok")


# --- around the journal -----------------------------------------------------------------------


def _versions(version: str) -> Check:
    found = {"durable": version, **{name: _version(name) for name in _PACKAGES}}
    python = f"{platform.python_implementation()} {platform.python_version()}"
    facts = {"python": python, "system": f"{platform.system()} {platform.release()}", **found}
    summary = ", ".join(
        [python, *(f"{name} {version or 'none'}" for name, version in found.items())]
    )
    return Check("versions", "ok", summary, facts=facts)


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _sqlite() -> Check:
    level: Level = "note" if has_wal_reset_bug() else "ok"
    return Check("sqlite", level, about_sqlite(), facts={"version": sqlite3.sqlite_version})


def _filesystem(files: JournalFiles) -> Check:
    kind, unsafe = filesystem_of(files)
    free = free_bytes(files)
    facts = {"kind": kind, "is_unsafe": unsafe is not None, "free_bytes": free}
    summary = f"{kind}, {free:,} bytes free"
    if unsafe is not None:
        return Check("filesystem", "warning", f"{kind}: {unsafe}", facts=facts)
    level: Level = "ok" if free >= _FREE_BYTES_MIN else "warning"
    return Check("filesystem", level, summary, facts=facts)


def _permissions(files: JournalFiles) -> Check:
    wrong = list(modes(files))
    if not wrong:
        return Check("permissions", "ok", "only their owner may read and write the files")
    return Check("permissions", "warning", wrong[0], wrong[1:], {"wrong": len(wrong)})


def _owner(files: JournalFiles) -> Check:
    alive, info = owner_of(files)
    facts = {"alive": alive, "pid": info.get("pid"), "since_us": info.get("since")}
    if "pid" not in info:
        summary = "some process owns it" if alive else "no process has it open"
        return Check("owner", "ok", summary, facts=facts)
    who = f"process {info['pid']} ({info.get('command', 'unknown command')})"
    if alive:
        return Check("owner", "ok", f"{who} owns it", facts=facts)
    if "ended" in info:
        return Check("owner", "ok", f"{who} owned it, and ended on request", facts=facts)
    return Check("owner", "note", f"{who} owned it, and was cut off", facts=facts)


def _sizes(files: JournalFiles) -> Iterator[Check]:
    wal, reserve = size_of(files.wal), size_of(files.reserve)
    facts = {"bytes": size_of(files.path), "wal_bytes": wal, "reserve_bytes": reserve}
    summary = f"{facts['bytes']:,} bytes, and {wal:,} in the -wal"
    if wal > _WAL_BYTES_MAX:
        what = f"{summary}: a program that keeps reading the file keeps the -wal from being emptied"
        yield Check("size", "warning", what, facts=facts)
    else:
        yield Check("size", "ok", summary, facts=facts)
    if reserve >= RESERVE_BYTES:
        yield Check(
            "reserve", "ok", f"{reserve:,} bytes are kept for the day when the disk is full"
        )
    else:
        what = "there is no reserve for a full disk: there was too little space when it was opened"
        yield Check("reserve", "note", what)


def _leftovers(files: JournalFiles) -> Check:
    found = list(leftovers(files))
    drafts = sum(each.kind == "draft" for each in found)
    facts = {"count": dict(Counter(each.kind for each in found))}
    details = [f"{each.path}: a {each.kind}, {each.bytes:,} bytes" for each in found]
    if drafts:
        copies = counted(drafts, "unfinished copy", "unfinished copies")
        what = f"{copies} of killed programs beside it: to be deleted"
        return Check("leftovers", "warning", what, details, facts)
    if found:
        copies = counted(len(found), "older copy", "older copies")
        what = f"{copies} beside it, which nothing needs"
        return Check("leftovers", "note", what, details, facts)
    return Check("leftovers", "ok", "nothing lies beside it that nobody needs")


# --- inside ------------------------------------------------------------------------------------


def _inside(conn: sqlite3.Connection, path: str, now_us: int, *, fully: bool) -> Iterator[Check]:
    version = version_of(conn, path, LATEST)
    if version != LATEST:
        what = f"schema version {version}: a Runtime brings it to version {LATEST}"
        lost = lost_event(conn, path, {}) if version == 0 else None
        level: Level = "warning" if lost is None else "damage"
        yield Check("contents", level, what if lost is None else f"{what}; {lost.what} was there")
        return
    notes = _Notes(now_us)
    look = Look(conn, notes.take)
    look.at_everything(fully=fully)
    yield _structure([f for f in look.findings if f.table == "file"], fully=fully)
    yield _rows(look, [f for f in look.findings if f.table != "file"])
    yield _tail(conn, path)
    yield notes.runs()
    yield notes.blocked()
    yield notes.poison(sound_meta(conn.execute(QUERIES["meta"]))[0].get("suspect"))
    yield notes.payloads()
    yield notes.clock()


def _structure(findings: list[Finding], *, fully: bool) -> Check:
    pragma = "integrity_check" if fully else "quick_check"
    if not findings:
        return Check("structure", "ok", f"{pragma} finds nothing, and the schema is ours")
    texts = [finding.what for finding in findings]
    more = sum("not ours" in text for text in texts)
    level: Level = "warning" if more == len(texts) else "damage"
    return Check("structure", level, texts[0], texts[1:], {"findings": len(texts)})


def _tail(conn: sqlite3.Connection, path: str) -> Check:
    meta, _ = sound_meta(conn.execute(QUERIES["meta"]))
    lost = lost_event(conn, path, meta)
    if lost is None:
        return Check("tail", "ok", "the newest event that is known of is there")
    if lost.key is not None:
        why = "only this run has lost its end; the next opening, or `durable repair`, parks it"
    else:
        why = "the end was lost, or this is an older copy"
    return Check("tail", "damage", f"{lost.what} was there and is not: {why}")


def _rows(look: Look, findings: list[Finding]) -> Check:
    counts = {"runs": look.runs, "events": look.events, "chunks": look.chunks}
    all_of = ", ".join(counted(count, name[:-1]) for name, count in counts.items())
    if not findings:
        return Check(
            "rows", "ok", f"{all_of}: every checksum and every place is right", facts=counts
        )
    runs = {finding.key for finding in findings} - {None}
    found = f"{counted(len(findings), 'finding')} about {counted(len(runs), 'run')}"
    what = f"{found}, of {all_of}: see `durable repair`"
    facts = {
        **counts,
        "findings": [{"table": f.table, "run": f.key, "seq": f.seq} for f in findings[:1000]],
    }
    return Check("rows", "damage", what, [shown(finding) for finding in findings], facts)


def _foreign_python(payload: bytes) -> str | None:
    """Return which other Python recorded the code in a payload, None for this one."""
    try:
        python = split_head(payload)[0].partition(" cloudpickle ")[0]
    except PayloadDecodeError:
        return "nothing: it is cut off"
    here = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
    return None if python == here else python


def shown(finding: Finding) -> str:
    """Return a finding as a line of text."""
    whose = finding.run_id or (None if finding.key is None else f"key {finding.key}")
    return finding.what if whose is None else f"run {whose}: {finding.what}"


class _Notes:
    """What is noted about sound runs while all rows are looked at."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us
        self._statuses: Counter[str] = Counter()
        self._blocked: list[tuple[RunRow, str, str]] = []
        self._suspects: list[tuple[RunRow, int, str, int]] = []
        self._foreign: list[tuple[RunRow, int, str]] = []
        self._ahead: list[tuple[RunRow, int]] = []

    def take(self, row: RunRow | None, events: list[Stored]) -> None:
        """Look at a run."""
        if row is None:
            return
        self._statuses[row.status] += 1
        if row.status == BLOCKED:
            blocked = decode_blocked(row.blocked)
            self._blocked.append((row, blocked.kind, blocked.reason))
        if events and events[-1][4] > self._now_us + _AHEAD_US:
            self._ahead.append((row, events[-1][4]))
        if row.status not in FINISHED:
            self._look_at_steps(row, events)

    def _look_at_steps(self, row: RunRow, events: list[Stored]) -> None:
        cut_off: Counter[int] = Counter()
        names: dict[int, str] = {}
        for seq, kind, ref, name, _, _, payload, _ in events:
            if kind == EventKind.STEP_CREATED:
                names[seq] = name
            elif kind == EventKind.STEP_RETRYING and name == INTERRUPTED:
                cut_off[ref] += 1
            elif kind in STEP_OUTCOMES:
                cut_off.pop(ref, None)
            if payload and payload[:1] == _CODE and (python := _foreign_python(payload)):
                self._foreign.append((row, seq, python))
        self._suspects += [
            (row, seq, names.get(seq, "?"), count)
            for seq, count in cut_off.items()
            if count >= _SUSPECT_FROM
        ]

    def runs(self) -> Check:
        """Return how many runs there are of each status."""
        counts = dict(sorted(self._statuses.items()))
        summary = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
        return Check("runs", "ok", summary, facts=counts)

    def blocked(self) -> Check:
        """Return which runs are blocked, and why."""
        kinds = Counter(kind for _, kind, _ in self._blocked)
        if not kinds:
            return Check("blocked", "ok", "no run is blocked")
        details = [f"{row.run_id} ({kind}): {reason}" for row, kind, reason in self._blocked]
        level: Level = "note" if set(kinds) == {PAUSED} else "warning"
        what = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return Check("blocked", level, f"runs are blocked: {what}", details, dict(kinds))

    def poison(self, alone: object) -> Check:
        """Return which steps may be killing the process."""
        if not self._suspects and alone is None:
            return Check("suspects", "ok", "no step is suspected of killing the process")
        details = [
            f"{row.run_id}: step {name!r} (event {seq}) was cut off {count} times"
            for row, seq, name, count in self._suspects
        ]
        count = len(self._suspects)
        what = f"{count} steps were running at {_SUSPECT_FROM} or more deaths of the process"
        facts = {"suspects": len(self._suspects), "one_runs_alone": alone is not None}
        return Check("suspects", "warning", f"{what}; they run alone", details, facts)

    def payloads(self) -> Check:
        """Return which unfinished runs hold code of another Python."""
        if not self._foreign:
            return Check("payloads", "ok", "no unfinished run holds code of another Python")
        details = [
            f"{row.run_id}: event {seq} needs {python}" for row, seq, python in self._foreign
        ]
        pythons = Counter(python for _, _, python in self._foreign)
        payloads = counted(len(details), "payload")
        what = f"{payloads} of unfinished runs with code that this Python never loads"
        return Check("payloads", "warning", what, details, dict(pythons))

    def clock(self) -> Check:
        """Return whether anything was recorded later than now."""
        if not self._ahead:
            return Check("clock", "ok", "nothing was recorded later than now")
        most = max(at for _, at in self._ahead) - self._now_us
        details = [row.run_id for row, _ in self._ahead]
        runs = counted(len(details), "run")
        what = (
            f"{runs} recorded up to {most / 1e6:,.0f} s later than now: the "
            "clock was ahead then, or is behind now"
        )
        return Check("clock", "warning", what, details, {"runs": len(details), "ahead_us": most})
