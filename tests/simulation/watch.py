"""What the journal must obey after every COMMIT, read from its tables as they are then.

A `Witness` keeps what it has seen of each run, and reads after a COMMIT only the runs that
may have changed: rows that are open, and the events behind the last one known. When a
journal is opened again everything is read and compared. Messages begin with the number of
the invariant: 1 numbers are dense, 2 one end, 3 one result per step, 4 a result has a
beginning, 5 waits are not early, 6 payloads belong to open hooks and come once, 7 time does not
run back, 8 checksums, 9 nothing is lost, 10 replay, 11 everything ends.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Protocol

from durable._journal.checksum import checksum_of_run, matches
from durable._journal.records import RunRow as Row
from durable._replay.events import ANSWERS, TERMINAL, Event, EventKind
from tests.campaign.programme import FoundError

K = EventKind
ENDS = {
    K.RUN_COMPLETED: "completed", K.RUN_FAILED: "failed", K.RUN_CANCELLED: "cancelled",
    K.RUN_CONTINUED: "continued",
}  # fmt: skip
FINISHED = set(ENDS.values())
OUTCOMES = {K.STEP_COMPLETED, K.STEP_FAILED, K.STEP_CANCELLED}
ONCE = OUTCOMES | {K.WAIT_COMPLETED, K.HOOK_DISPOSED}

_COLUMNS = ", ".join(Row._fields)
_OPEN = f"SELECT {_COLUMNS} FROM runs WHERE completed_at IS NULL OR pk > ? ORDER BY pk"
_ROW = f"SELECT {_COLUMNS} FROM runs WHERE pk = ?"
_COUNT = "SELECT count(*) FROM runs"
_KEYS = "SELECT pk FROM runs"
_EVENTS = (
    "SELECT seq, kind, ref, name, at, due, payload, crc FROM events "
    "WHERE run = ? AND seq > ? ORDER BY seq"
)
_CRCS = "SELECT seq, crc FROM events WHERE run = ? ORDER BY seq"
_CHUNKS = (
    "SELECT idx, kind, step, attempt, payload FROM chunks "
    "WHERE run = ? AND stream = ? AND idx >= ? ORDER BY idx"
)
_STREAMS = "SELECT stream, max(idx), count(*) FROM chunks WHERE run = ? GROUP BY stream"
_fetch = sqlite3.Connection.execute


class Seen:
    """What is known of one run."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.events: list[Event] = []
        self.crcs: list[int] = []
        self.crc_seed = checksum_of_run(row.run_id)
        self.outcome: dict[int, Event] = {}  # by what it answers
        self.dropped: set[int] = set()  # what was created and does not count any more
        self.carried: set[int] = set()  # outcomes that may be recorded once more
        self.retries: dict[int, int] = {}
        self.received: dict[tuple[int, str], list[Event]] = {}
        self.keys: set[tuple[int, str, str]] = set()
        # Of waits: life, time and upsets at their COMMIT.
        self.born: dict[int, tuple[int, float, int]] = {}
        self.chunks: dict[str, list[tuple[Any, ...]]] = {}
        self.was_set_back = False
        self.cancel_asked = False
        self.was_blocked = False  # what comes in meanwhile has the time of the wall clock
        self.is_copy = '"forked"' in (row.origin or "")

    @property
    def ended(self) -> bool:
        """Whether the last event is an end."""
        return bool(self.events) and self.events[-1].kind in TERMINAL


class Judge(Protocol):
    """The world, as far as a journal is judged by it.

    Attributes:
        stay_in_memory: no run leaves memory before its end.
        upsets: how often the wall clock was set so far.
        upset_at: when that was, in seconds since the machine was switched on.
    """

    stay_in_memory: bool
    upsets: int
    upset_at: float

    def now(self) -> tuple[int, float]:
        """UTC microseconds, and seconds since the machine was switched on."""

    def lag(self) -> float:
        """The longest time in seconds between a decision and its COMMIT."""

    def judge(self, seen: Seen, event: Event) -> None:
        """Judge a new event by what only the ledger can tell."""

    def judge_row(self, row: Row) -> None:
        """Judge why a run is blocked."""

    def may_vanish(self, row: Row) -> bool:
        """Tell whether a finished run may be gone."""

    def note_gone(self, run_id: str) -> None:
        """Take note that a run is gone; another one may take its id."""


class Witness:
    """See the module's docstring."""

    def __init__(self, world: Judge) -> None:
        self._world = world
        self.runs: dict[int, Seen] = {}
        self.by_id: dict[str, Seen] = {}
        self.gone: set[str] = set()
        self.vanished: list[Seen] = []
        self.life = 0
        self.commits = 0
        self.is_new_life = False
        self._max_pk = 0

    # --- looking ----------------------------------------------------------------------

    def look(self, conn: sqlite3.Connection) -> None:
        """Read what a COMMIT may have changed, and judge it."""
        self.commits += 1
        if self.is_new_life:
            self.is_new_life = False
            self._compare(conn)
        rows = [Row._make(values) for values in _fetch(conn, _OPEN, (self._max_pk,))]
        found = {row.pk for row in rows}
        for seen in self.runs.values():
            row = seen.row
            if row.pk not in found and row.completed_at is None:
                values = _fetch(conn, _ROW, (row.pk,)).fetchone()
                if values is None:
                    raise FoundError("lost", f"9: {row.run_id} is {row.status} and is deleted")
                rows.append(Row._make(values))
        for row in rows:
            self._look_at(conn, row)
        if _fetch(conn, _COUNT).fetchone()[0] != len(self.runs):
            self._note_gone(conn)

    def _note_gone(self, conn: sqlite3.Connection) -> None:
        there = {pk for (pk,) in _fetch(conn, _KEYS)}
        for pk in set(self.runs) - there:
            seen = self.runs.pop(pk)
            del self.by_id[seen.row.run_id]
            self.vanished.append(seen)
            self._world.note_gone(seen.row.run_id)
            self.gone.add(seen.row.run_id)
            if seen.row.status not in FINISHED or not self._world.may_vanish(seen.row):
                raise FoundError("lost", f"9: {seen.row.run_id} is deleted before its time")

    def _look_at(self, conn: sqlite3.Connection, row: Row) -> None:
        seen = self.runs.get(row.pk)
        if seen is None:
            copied = self._source_of(row)
            seen = self.runs[row.pk] = self.by_id[row.run_id] = Seen(row)
            seen.was_blocked = copied is not None and copied.was_blocked
            self._max_pk = max(self._max_pk, row.pk)
        before, seen.row = seen.row, row
        seen.was_blocked |= "blocked" in {before.status, row.status}
        for values in _fetch(conn, _EVENTS, (row.pk, len(seen.events))).fetchall():
            if not matches(seen.crc_seed, values):
                raise FoundError("corrupt", f"8: {row.run_id}: checksum of event {values[0]}")
            event = Event._make(values[:7])
            self._take(seen, event)
            seen.events.append(event)
            seen.crcs.append(values[7])
            self._world.judge(seen, event)
        self._check_row(seen)
        if row.status == "blocked" and (before is row or before.blocked != row.blocked):
            self._world.judge_row(row)

    def _source_of(self, row: Row) -> Seen | None:
        """Return the run whose history another one begins with."""
        name = json.loads(row.origin or "{}").get("run_id")
        there = [self.by_id[name]] if name in self.by_id else []
        gone = [seen for seen in reversed(self.vanished) if seen.row.run_id == name]
        return next(iter(there + gone), None)

    def _compare(self, conn: sqlite3.Connection) -> None:
        """Hold all that is recorded against all that was seen."""
        there = {pk for (pk,) in _fetch(conn, _KEYS)}
        lost = [self.runs[pk].row.run_id for pk in self.runs if pk not in there]
        if lost:
            raise FoundError("lost", f"9: runs are lost with the process: {lost}")
        for pk, seen in self.runs.items():
            crcs = [crc for _, crc in _fetch(conn, _CRCS, (pk,))]
            known = seen.crcs
            if crcs[: len(known)] != known:
                name = seen.row.run_id
                raise FoundError(
                    "lost", f"9: {name} had {len(known)} events and has {len(crcs)}, or others"
                )
            streams = {stream for (stream, _, _) in _fetch(conn, _STREAMS, (pk,))}
            for stream in streams | set(seen.chunks):
                self.look_at_stream(conn, seen, stream)

    def look_at_stream(self, conn: sqlite3.Connection, seen: Seen, stream: str) -> None:
        """Read a stream as a whole: its chunks are dense and never change."""
        known = seen.chunks.setdefault(stream, [])
        rows = _fetch(conn, _CHUNKS, (seen.row.pk, stream, 0)).fetchall()
        if [row[0] for row in rows] != list(range(len(rows))) or rows[: len(known)] != known:
            raise FoundError("lost", f"9: {seen.row.run_id}: stream {stream!r} was rewritten")
        seen.chunks[stream] = rows

    # --- judging ----------------------------------------------------------------------

    def _take(self, seen: Seen, event: Event) -> None:
        name, events = seen.row.run_id, seen.events
        if event.seq != len(events) + 1:
            raise FoundError("lost", f"1: {name}: event {event.seq} follows {len(events)}")
        if (event.kind == K.RUN_CREATED) != (event.seq == 1):
            raise FoundError("corrupt", f"1: {name}: event {event.seq} is a {_show(event)}")
        if events and event.at < events[-1].at and not seen.was_blocked:
            raise FoundError("corrupt", f"7: {name}: time runs back at {_show(event)}")
        if seen.ended and event.kind not in {K.RUN_REWOUND, K.ATTR_NOTED}:
            raise FoundError("duplicated", f"2: {name}: {_show(event)} behind its end")
        if event.kind == K.RUN_REWOUND:
            self._set_back(seen, event)
        elif event.kind == K.CANCEL_REQUESTED:
            seen.cancel_asked = True
        elif event.kind == K.STEP_RETRYING:
            seen.retries[event.ref] = seen.retries.get(event.ref, 0) + 1
        self._check_answer(seen, event)
        if event.kind == K.WAIT_CREATED:
            wall, boot = self._world.now()
            # It may have been decided before the clock was set. Journal time stays ahead of a
            # wall clock that was set back.
            lately = self._world.upsets > 0 and boot - self._world.upset_at < self._world.lag()
            upsets = self._world.upsets if event.at <= wall and not lately else -1
            seen.born[event.seq] = (self.life, boot, upsets)
        elif event.kind == K.WAIT_COMPLETED:
            self._check_wait(seen, event)
        elif event.kind == K.HOOK_RECEIVED:
            self._check_payload(seen, event)

    def _check_answer(self, seen: Seen, event: Event) -> None:
        wanted = ANSWERS.get(K(event.kind))
        if wanted is None or not event.ref:
            return
        name, ref = seen.row.run_id, event.ref
        if ref >= event.seq or seen.events[ref - 1].kind != wanted:
            raise FoundError("corrupt", f"4: {name}: {_show(event)} answers nothing that began")
        if ref in seen.dropped:
            raise FoundError("corrupt", f"4: {name}: {_show(event)} answers what was forgotten")
        before = seen.outcome.get(ref)
        if event.kind not in ONCE:
            if before is not None:
                rule = "6" if wanted == K.HOOK_CREATED else "3"
                raise FoundError(
                    "duplicated", f"{rule}: {name}: {_show(event)} behind {_show(before)}"
                )
            return
        if before is not None and not self._says_again(seen, before, event):
            raise FoundError("duplicated", f"3: {name}: {_show(event)} behind {_show(before)}")
        seen.outcome[ref] = event

    def _says_again(self, seen: Seen, before: Event, event: Event) -> bool:
        if before.seq not in seen.carried:
            return False
        seen.carried.discard(before.seq)
        # A body that is told in another order may give the step up, though it is done.
        same = (before.kind, before.payload) == (event.kind, event.payload)
        return same or event.kind == K.STEP_CANCELLED

    def _set_back(self, seen: Seen, mark: Event) -> None:
        """What was decided from the cut on counts no more; what came in meanwhile may."""
        seen.was_set_back = True
        cut = mark.ref
        seen.dropped |= {e.seq for e in seen.events if e.seq >= cut and e.kind % 10 == 0}
        for ref, outcome in list(seen.outcome.items()):
            if ref >= cut or (outcome.kind != K.STEP_COMPLETED and outcome.seq >= cut):
                del seen.outcome[ref]
            elif outcome.seq >= cut:
                seen.carried.add(outcome.seq)
        for where, payloads in seen.received.items():
            # Payloads may be given to the body, and so recorded, once more.
            seen.received[where] = [e for e in payloads if e.seq < cut]
        seen.keys = {
            (e.ref, *e.name.partition("\n")[::2])
            for payloads in seen.received.values() for e in payloads
        }  # fmt: skip

    def _check_wait(self, seen: Seen, event: Event) -> None:
        if event.name == "woken":
            return
        created = seen.events[event.ref - 1]
        assert created.due is not None
        life, born, upsets = seen.born.get(event.ref, (-1, 0.0, -1))
        wall, boot = self._world.now()
        seconds = (created.due - created.at) / 1e6
        is_short = boot - born + self._world.lag() < seconds
        if upsets == self._world.upsets:
            early = wall < created.due
            if upsets and created.name != "until":
                early &= is_short  # its time may have been ahead of the clock when it was decided
        elif self._world.upset_at - born < self._world.lag():
            early = False  # the clock was set before the wait's timer was: a known gap
        elif created.name != "until" and life == self.life and not self._was_a_row(seen):
            early = is_short
        else:
            early = False  # of a run that was a row the wall clock is all that is left
        if early and not seen.was_set_back and not seen.is_copy:
            raise FoundError(
                "corrupt", f"5: {seen.row.run_id}: wait {event.ref} ended early: born {born}, now "
                f"{boot}, due {created.due}, at {event.at}, wall {wall}"
            )  # fmt: skip

    def _was_a_row(self, seen: Seen) -> bool:
        """Tell whether the run may have been out of memory since its wait began."""
        return seen.was_blocked or not self._world.stay_in_memory

    def _check_payload(self, seen: Seen, event: Event) -> None:
        box, _, key = event.name.partition("\n")
        where = (event.ref, box if not event.ref else "")
        if key:
            if (event.ref, box, key) in seen.keys:
                raise FoundError(
                    "duplicated", f"6: {seen.row.run_id}: payload {key!r} is recorded twice"
                )
            seen.keys.add((event.ref, box, key))
        seen.received.setdefault(where, []).append(event)

    def _check_row(self, seen: Seen) -> None:
        row = seen.row
        if not seen.events:
            raise FoundError("lost", f"1: {row.run_id} has no history")
        end = ENDS.get(K(seen.events[-1].kind)) if seen.ended else None
        if (end or row.status) != row.status or (end is None and row.status in FINISHED):
            raise FoundError("corrupt", f"2: {row.run_id} is {row.status}, its history says {end}")


def _show(event: Event) -> str:
    return f"{K(event.kind).label} {event.name!r} ({event.seq} for {event.ref})"
