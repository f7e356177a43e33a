"""What must hold of a journal after a crash, judged with plain `sqlite3`.

`Journal.read` copies the files first, so that looking never recovers, checkpoints or
locks what is looked at. The checks raise `PromiseBrokenError`, whose verdict is the column of
the campaign's table. Nothing here imports `durable`: kinds and columns are spelled out, so
a change of the format is noticed.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.campaign.programme import FoundError, Verdict
from tests.crash import tags
from tests.crash.ledger import Ledger

RUN_ENDED = {3: "completed", 4: "failed", 5: "cancelled", 7: "continued"}
RUN_REWOUND = 8
STEP_CREATED, STEP_RETRYING, STEP_COMPLETED, STEP_FAILED, STEP_CANCELLED = 10, 11, 12, 13, 14
STEP_OUTCOMES = {STEP_COMPLETED, STEP_FAILED, STEP_CANCELLED}
STEP_YIELDED, WAIT_COMPLETED = 15, 21
HOOK_RECEIVED = 31
FINISHED = set(RUN_ENDED.values())


class PromiseBrokenError(FoundError):
    """A promise was broken."""

    def __init__(self, what: str, verdict: Verdict = "broken") -> None:
        super().__init__(verdict, what)


class Row(NamedTuple):
    """One event."""

    seq: int
    kind: int
    ref: int
    name: str
    payload: bytes | None


class Piece(NamedTuple):
    """One row of a stream."""

    idx: int
    kind: int
    step: int
    attempt: int
    payload: bytes | None


@dataclass
class Journal:
    """The content of a journal at one moment."""

    status: dict[str, str] = field(default_factory=dict)  # by run id
    workflow: dict[str, str] = field(default_factory=dict)
    events: dict[str, list[Row]] = field(default_factory=dict)
    chunks: dict[tuple[str, str], list[Piece]] = field(default_factory=dict)

    @classmethod
    def read(cls, place: Path, name: str = "app.db") -> Journal:
        """Read a copy of the journal in `place`; empty when there is none yet."""
        copies = place / "copy"
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()
        for suffix in ("", "-wal", "-journal"):
            if (place / (name + suffix)).exists():
                shutil.copyfile(place / (name + suffix), copies / (name + suffix))
        return cls.read_in_place(copies, name)

    @classmethod
    def read_in_place(cls, place: Path, name: str = "app.db") -> Journal:
        """Read the journal in `place`, which recovers it: for files that nobody needs again."""
        with closing(sqlite3.connect(place / name)) as connection:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # no -shm
            connection.execute("PRAGMA synchronous=OFF")
            try:
                return cls._load(connection)
            except sqlite3.Error as error:
                raise PromiseBrokenError(f"SQLite cannot read it: {error}", "corrupt") from error

    @classmethod
    def _load(cls, connection: sqlite3.Connection) -> Journal:
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise PromiseBrokenError("integrity_check found damage", "corrupt")
        journal = cls()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not {"runs", "events"} <= tables:
            return journal
        names = {}
        query = "SELECT pk, run_id, workflow, status FROM runs ORDER BY pk"
        for pk, run_id, workflow, status in connection.execute(query):
            names[pk] = run_id
            journal.status[run_id], journal.workflow[run_id] = status, workflow
            journal.events[run_id] = []
        query = "SELECT run, seq, kind, ref, name, payload FROM events ORDER BY run, seq"
        for run, *values in connection.execute(query):
            if run not in names:
                raise PromiseBrokenError(f"event {values} belongs to no run", "corrupt")
            journal.events[names[run]].append(Row(*values))
        query = "SELECT run, stream, idx, kind, step, attempt, payload FROM chunks ORDER BY 1, 2, 3"
        for run, stream, *values in connection.execute(query):
            if run not in names:
                raise PromiseBrokenError(f"chunk {values} belongs to no run", "corrupt")
            journal.chunks.setdefault((names[run], stream), []).append(Piece(*values))
        journal.check()
        if wrong := tags.disagreement(connection):
            raise PromiseBrokenError(wrong, "corrupt")
        return journal

    def check(self) -> None:
        """Raise `PromiseBrokenError` unless every history is well formed."""
        for run_id, rows in self.events.items():
            _check_history(run_id, self.status[run_id], rows)

    def steps(self, *kinds: int) -> set[tuple[str, str]]:
        """Return (run, step name) of the steps that have an event of these kinds."""
        found = set()
        for run_id, rows in self.events.items():
            names = {row.seq: row.name for row in rows if row.kind == STEP_CREATED}
            refs = {
                row.seq if row.kind == STEP_CREATED else row.ref
                for row in rows
                if row.kind in kinds
            }
            found |= {(run_id, names[ref]) for ref in refs}
        return found

    def shared_steps(self) -> set[tuple[str, str]]:
        """Return (run, step name) of what forks have begun with: others did it, or nobody."""
        found = set()
        for run_id, rows in self.events.items():
            mark = next((r.seq for r in rows if r.kind == RUN_REWOUND and r.name == "fork"), 0)
            begun = (r.name for r in rows if r.kind == STEP_CREATED and r.seq < mark)
            found |= {(run_id, name) for name in begun}
        return found


def _check_history(run_id: str, status: str, rows: list[Row]) -> None:
    if [row.seq for row in rows] != list(range(1, len(rows) + 1)):
        raise PromiseBrokenError(f"{run_id}: gaps in {[row.seq for row in rows]}", "corrupt")
    marks = [place for place, row in enumerate(rows) if row.kind == RUN_REWOUND]
    parts = [rows[a:b] for a, b in zip([0, *marks], [*marks, len(rows)], strict=True)]
    for part in parts:
        _check_part(run_id, part)
    ends = [RUN_ENDED[row.kind] for row in parts[-1] if row.kind in RUN_ENDED]
    if ends != [status] * (status in FINISHED):
        raise PromiseBrokenError(
            f"{run_id}: status {status}, but its history ends with {ends}", "corrupt"
        )


def _check_part(run_id: str, rows: list[Row]) -> None:
    """Judge a history, or the part of one between two times at which the run was set back."""
    once = STEP_OUTCOMES | {WAIT_COMPLETED}
    answers = Counter(row.ref for row in rows if row.kind in once)
    if any(count > 1 for count in answers.values()):
        raise PromiseBrokenError(f"{run_id}: two outcomes of one command: {rows}", "duplicated")
    keyed = Counter((r.ref, r.name) for r in rows if r.kind == HOOK_RECEIVED and "\n" in r.name)
    if any(count > 1 for count in keyed.values()):
        raise PromiseBrokenError(f"{run_id}: one payload recorded twice: {rows}", "duplicated")
    ends = [RUN_ENDED[row.kind] for row in rows if row.kind in RUN_ENDED]
    if len(ends) > 1 or (ends and rows[-1].kind not in RUN_ENDED):
        raise PromiseBrokenError(f"{run_id}: events after its end: {rows}", "corrupt")


# --- a journal after a crash against the ledger of those who died -------------------------


def check_nothing_acknowledged_is_lost(journal: Journal, ledger: Ledger) -> None:
    """What the program was told, the journal holds; and no step began before it did."""
    for (run_id,) in ledger.of("acked"):
        if run_id not in journal.status:
            raise PromiseBrokenError(f"start of {run_id} was acknowledged and is lost", "lost")
    for run_id, status, _value in ledger.of("result"):
        # The result of a run that was continued is that of the last one of its chain.
        if journal.status.get(run_id) not in {status, "continued"}:
            raise PromiseBrokenError(
                f"{run_id} was seen {status}, the journal says {journal.status.get(run_id)}", "lost"
            )
    for run_id, key in ledger.of("posted"):
        names = [row.name for row in journal.events.get(run_id, []) if row.kind == HOOK_RECEIVED]
        if not any(name.endswith(f"\n{key}") for name in names):
            raise PromiseBrokenError(f"payload {key} was acknowledged and is lost: {names}", "lost")
    payloads = {run: [(e.kind, e.payload) for e in rows] for run, rows in journal.events.items()}
    if lost := tags.lost_tag(ledger, payloads):
        raise PromiseBrokenError(lost, "lost")
    begun = {(attempt.run, attempt.step) for attempt in ledger.attempts("begin")}
    missing = begun - journal.steps(STEP_CREATED)
    if missing:
        raise PromiseBrokenError(f"steps began before they were recorded: {missing}", "lost")


def check_is_continued(before: Journal, after: Journal) -> None:
    """Every history of `after` begins with that of `before`."""
    for run_id, rows in before.events.items():
        if after.events.get(run_id, [])[: len(rows)] != rows:
            raise PromiseBrokenError(
                f"{run_id}: history was rewritten: {rows} -> {after.events.get(run_id)}", "lost"
            )


def check_streams_are_continued(before: Journal, after: Journal) -> None:
    """Every stream of `after` begins with that of `before`."""
    for key, rows in before.chunks.items():
        if after.chunks.get(key, [])[: len(rows)] != rows:
            raise PromiseBrokenError(
                f"stream {key} was rewritten: {rows} -> {after.chunks.get(key)}", "lost"
            )


def check_completed_is_not_repeated(
    before: Journal, later: Ledger, retried: frozenset[str] = frozenset()
) -> None:
    """No step with an outcome in `before` began again in the process that wrote `later`.

    Runs that are `retried` attempt their failed steps again, though never a completed one.
    """
    ended = before.steps(*STEP_OUTCOMES)
    done = {step for step in ended if step[0] not in retried} | before.steps(STEP_COMPLETED)
    again = [attempt for attempt in later.attempts("begin") if attempt[:2] in done]
    if again:
        raise PromiseBrokenError(f"steps with a recorded outcome ran again: {again}", "duplicated")


def check_attempts(ledgers: Iterable[Ledger]) -> None:
    """Attempts of a step keep their idempotency key, and their numbers grow."""
    keys: dict[tuple[str, str], str] = {}
    numbers: dict[tuple[str, str], int] = {}
    for ledger in ledgers:
        for run, name, number, key in ledger.attempts("begin"):
            if keys.setdefault((run, name), key) != key:
                raise PromiseBrokenError(
                    f"{run}/{name}: key {key}, before it was {keys[run, name]}"
                )
            if number <= numbers.get((run, name), 0):
                raise PromiseBrokenError(
                    f"{run}/{name}: attempt {number} began again", "duplicated"
                )
            numbers[run, name] = number
    if len(set(keys.values())) != len(keys):
        raise PromiseBrokenError(f"two steps share an idempotency key: {keys}")


# --- a journal when all is done -----------------------------------------------------------


def check_outcomes_happened(journal: Journal, ledgers: list[Ledger]) -> None:
    """Each step that is recorded as completed was seen to end, in some process."""
    ended = {attempt[:2] for ledger in ledgers for attempt in ledger.attempts("end")}
    recorded = {step for step in journal.steps(STEP_COMPLETED) if step[1].startswith("crash.")}
    invented = recorded - ended - journal.shared_steps()
    if invented:
        raise PromiseBrokenError(f"steps recorded as completed never ended: {invented}")


def check_all_finished(journal: Journal) -> None:
    """No run is left behind."""
    open_runs = {run: status for run, status in journal.status.items() if status not in FINISHED}
    if open_runs:
        raise PromiseBrokenError(f"runs are unfinished: {open_runs}")


def check_results(ledger: Ledger, expected: dict[str, tuple[str, str]]) -> None:
    """The last process saw the results it had to see."""
    seen = {run: (status, value) for run, status, value in ledger.of("result")}
    wrong = {run: seen.get(run) for run, result in expected.items() if seen.get(run) != result}
    if wrong:
        raise PromiseBrokenError(f"wrong results {wrong}, expected {expected}")


def check_batches(journal: Journal, expected: dict[str, int], *, exactly: bool) -> None:
    """As many runs of a workflow as were started; more only where a start was repeated."""
    counts = Counter(journal.workflow.values())
    for workflow, wanted in expected.items():
        if counts[workflow] < wanted or (exactly and counts[workflow] > wanted):
            raise PromiseBrokenError(f"{counts[workflow]} runs of {workflow}, expected {wanted}")


def check_only_planned_failures(journal: Journal, ledger: Ledger, planned: frozenset[str]) -> None:
    """A bad disk never turned into a failed, repeated or retried step."""
    failed = {name for _run, name in journal.steps(STEP_RETRYING, STEP_FAILED)}
    repeated = {a.step for a in ledger.attempts("begin") if a.number > 1}
    if not failed | repeated <= planned:
        raise PromiseBrokenError(
            f"the disk's failure was blamed on steps: {(failed | repeated) - planned}"
        )
