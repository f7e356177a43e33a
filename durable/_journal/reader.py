"""Reading the journal: runs and verified histories.

Owns one read-only connection on a driver of its own, so that readers never block the
writer and can never write, checkpoint or delete a file. Every event is checked against
its checksum and its place before anybody sees it. Payloads are handed on as bytes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from durable._journal.database import prepare_reader
from durable._journal.driver import Driver
from durable._journal.faults import UnknownOutcomeError, is_disk_fault, translate
from durable._journal.histories import CURE, read_history, read_last
from durable._journal.records import HookRow, Request, RunRow
from durable._journal.row_checksums import hook_sum, request_sum, run_row, shown_row
from durable._journal.sealing import open_requests
from durable._journal.seals import Seals
from durable._journal.selection import (
    COUNT_ENTRIES,
    SCAN_ENTRIES,
    SCAN_ENTRIES_MAX,
    Portion,
    Position,
    Selection,
    read_count,
    read_rows,
)
from durable._journal.sql import QUERIES
from durable._replay.events import TERMINAL, Event, EventKind
from durable.errors import JournalCorruptError, JournalError

T = TypeVar("T")
_log = logging.getLogger("durable")

_NO_LIMIT = -1


def _fetch(query: str) -> str:
    return QUERIES[query]


_BY_ID, _BY_PK, _DUE = _fetch("run_by_id"), _fetch("run_by_pk"), _fetch("due_runs")
_INTERRUPTED, _BLOCKED = _fetch("interrupted_runs"), _fetch("blocked_runs")
_COUNTS, _MAX_PK = _fetch("counts"), _fetch("max_pk")
_NEXT_WAKE, _NEXT_EXPIRY = _fetch("next_wake"), _fetch("next_expiry")
_HOOK_BY_TOKEN, _HOOKS_OF_RUN = _fetch("hook_by_token"), _fetch("hooks_of_run")
_ANSWERS_OF = _fetch("answers_of")
_NOT_GOING_ON, _RECEIVED_UNDER = _fetch("not_going_on"), _fetch("received_under")
_CHILDREN, _OPEN_BOUND, _ORPHANS = _fetch("children"), _fetch("open_bound_runs"), _fetch("orphans")
_LAST_SEQ = _fetch("last_seq")
_REQUESTS = _fetch("requests")


class Reader:
    """Answers questions about one journal.

    Args:
        driver: a driver made for reading (``mode=ro``), not yet opened.
        path: the journal's path, for messages.

    Attributes:
        seals: of a journal whose payloads are sealed; set by who opens it.

    All methods raise `JournalError` when the file cannot be read.
    """

    def __init__(self, driver: Driver, path: str) -> None:
        self._driver = driver
        self._path = path
        self.seals: Seals | None = None
        self._halted: asyncio.Future[None] | None = None
        self._refused: str | None = None
        self._closed = False
        self._unprepared = False

    async def open(self) -> None:
        """Connect and check the schema version."""
        try:
            await self._driver.open()
            await self._driver.call(self._prepare)
        except sqlite3.Error as error:
            self._driver.abandon()
            raise translate(error, self._path, "opening") from error
        except BaseException:
            self._driver.abandon()
            raise

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._wake()
        await self._driver.close()

    def abandon(self) -> None:
        """Close without waiting."""
        self._closed = True
        self._wake()
        self._driver.abandon()

    async def run_by_id(self, run_id: str) -> RunRow | None:
        """Return the run with this public id, or None."""
        row = await self._run(_BY_ID, run_id)
        if row is not None and row.run_id != run_id:
            raise JournalCorruptError(
                f"the index of run ids is damaged: {run_id!r} leads to run {row.run_id!r}; "
                "`durable repair` mends it"
            )
        return row

    async def run_by_pk(self, pk: int) -> RunRow | None:
        """Return the run with this key, or None."""
        return await self._run(_BY_PK, pk)

    async def history(
        self, pk: int, run_id: str, after_seq: int = 0, limit: int | None = None
    ) -> list[Event]:
        """Return the verified events of a run, in order; opened, where their key is at hand.

        Args:
            pk, run_id: the run, by both names: the checksums cover the public one.
            after_seq: leave out the events up to this one.
            limit: at most this many. Default: all.

        Raises:
            JournalCorruptError: an event is damaged, missing or not authentic; it is named.
            WorkflowRunNotFoundError: the run is just being deleted.
        """
        parameters = (pk, after_seq, _NO_LIMIT if limit is None else limit)
        fetch = partial(read_history, run_id, after_seq, parameters)
        return await self._ask(fetch if self.seals is None else partial(self._open, run_id, fetch))

    def _open(
        self, run_id: str, fetch: Callable[[sqlite3.Connection], list[Event]], conn: Any
    ) -> list[Event]:
        assert self.seals is not None
        return [self.seals.open_event(run_id, event) for event in fetch(conn)]

    async def last_event(self, pk: int, run_id: str) -> Event | None:
        """Return the newest event of a run, verified and opened, or None."""
        last = await self._ask(partial(read_last, pk, run_id))
        if last is None or self.seals is None:
            return last
        return self.seals.open_event(run_id, last)

    async def end_event(self, pk: int, run_id: str) -> Event | None:
        """Return the event that ended a finished run, verified; None if it is deleted by now."""
        event = await self.last_event(pk, run_id)
        if event is not None and event.kind not in TERMINAL:
            raise JournalCorruptError(
                f"run {run_id} has ended, and the last event of its history is "
                f"{EventKind(event.kind).label}: {CURE}"
            )
        return event

    async def last_seq(self, pk: int) -> int:
        """Return the number of the newest event of a run, damaged or not; 0 if it has none."""
        return await self._number(_LAST_SEQ, pk) or 0

    async def requests(self) -> list[Request]:
        """Return what was asked of runs while no process executed them."""
        rows = await self._ask(lambda conn: conn.execute(_REQUESTS).fetchall())
        found = [Request._make(row[:-1]) for row in rows if self._is_sound(row)]
        return found if self.seals is None else open_requests(self.seals, found)

    def _is_sound(self, row: tuple[int, str, int, bytes | None, int]) -> bool:
        with suppress(TypeError, ValueError):
            if request_sum(*row[:4]) == row[4]:
                return True
        _log.warning(
            "durable: a request to %s the run of key %s is damaged in %s, and is left alone",
            row[1], row[0], self._path,
        )  # fmt: skip
        return False

    async def due_runs(self, after: tuple[int, int], until_us: int, limit: int) -> list[RunRow]:
        """Return runs whose `wake_at` (not 0) is due, ordered by (wake_at, pk), one page.

        Args:
            after: (wake_at, pk) of the last run of the page before; (0, 0) to begin.
            until_us: due up to this instant, inclusive.
            limit: length of the page.
        """
        return await self._runs(_DUE, *after, until_us, limit)

    async def interrupted_runs(self, after_pk: int, limit: int) -> list[RunRow]:
        """Return runs whose attempts were in flight (`wake_at` 0), one page after `after_pk`."""
        return await self._runs(_INTERRUPTED, after_pk, limit)

    async def blocked_runs(self, after_pk: int = 0, limit: int = 1000) -> list[RunRow]:
        """Return parked runs, one page after `after_pk`."""
        return await self._runs(_BLOCKED, after_pk, limit)

    async def select(
        self, selection: Selection, order: str, after: Position | None, limit: int
    ) -> Portion:
        """Return up to `limit` runs of a selection, and where to go on.

        Args:
            selection: which runs.
            order: ``"newest"`` or ``"oldest"`` first, by the time of creation.
            after: where the page before ended; None to begin.
        """
        rows: list[RunRow] = []
        positions: list[Position] = []
        entries = SCAN_ENTRIES
        while True:  # each portion is short, and others may ask in between
            ask = partial(read_rows, selection, order, after, limit - len(rows), entries)
            portion = await self._ask(ask)
            rows += portion.rows
            positions += portion.positions
            after = _further(portion.resume, after, order)
            if after is None or len(rows) == limit:
                return Portion(rows, positions, after)
            entries = min(2 * entries, SCAN_ENTRIES_MAX)

    async def count(self, selection: Selection) -> int:
        """Return how many runs a selection has."""
        found = 0
        after: Position | None = None
        while True:
            portion = await self._ask(partial(read_count, selection, after, COUNT_ENTRIES))
            found += portion.found
            after = _further(portion.resume, after, "oldest")
            if after is None:
                return found

    async def hook(self, token_hash: bytes) -> HookRow | None:
        """Return who holds the hook token with this hash, or None."""
        row = await self._ask(lambda conn: conn.execute(_HOOK_BY_TOKEN, (token_hash,)).fetchone())
        if row is not None and hook_sum(token_hash, row[0], row[2]) != row[3]:
            raise _damaged_hook(row[1])
        return None if row is None else HookRow._make(row[:3])

    async def hooks_of(self, pk: int) -> list[int]:
        """Return the numbers of the `hook_created` events whose tokens a run holds."""
        rows = await self._ask(lambda conn: conn.execute(_HOOKS_OF_RUN, (pk,)).fetchall())
        for token_hash, seq, crc in rows:
            if hook_sum(token_hash, pk, seq) != crc:
                raise _damaged_hook(f"key {pk}")
        return [seq for _, seq, _ in rows]

    async def received_under(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return runs that have got payloads whose events have these names, and the names."""
        asked = (int(EventKind.HOOK_RECEIVED), json.dumps(names))
        return await self._ask(lambda conn: conn.execute(_RECEIVED_UNDER, asked).fetchall())

    async def count_answers(self, pk: int, kind: int, ref: int) -> int:
        """Return how many events of a kind refer to the event `ref` of a run."""
        return await self._number(_ANSWERS_OF, pk, int(kind), ref) or 0

    async def children(self, run_id: str) -> list[RunRow]:
        """Return the runs that were started by the body of this one, oldest first."""
        return await self._runs(_CHILDREN, run_id)

    async def not_going_on(self, run_ids: Sequence[str]) -> list[str]:
        """Return which of these runs have ended, are blocked, or do not exist."""
        names = json.dumps(run_ids)
        rows = await self._ask(lambda conn: conn.execute(_NOT_GOING_ON, (names,)).fetchall())
        return [run_id for (run_id,) in rows]

    async def open_bound_runs(self, first_id: str) -> list[str]:
        """Return the unfinished runs that end with the chain that begins with `first_id`."""
        rows = await self._ask(lambda conn: conn.execute(_OPEN_BOUND, (first_id,)).fetchall())
        return [run_id for (run_id,) in rows]

    async def orphans(self) -> list[str]:
        """Return the first runs of chains that have ended and left unfinished bound runs."""
        rows = await self._ask(lambda conn: conn.execute(_ORPHANS).fetchall())
        return [first_id for (first_id,) in rows]

    async def next_wake(self, after_us: int) -> int | None:
        """Return the earliest `wake_at` later than `after_us`, or None."""
        return await self._number(_NEXT_WAKE, after_us)

    async def next_expiry(self) -> int | None:
        """Return when the next finished run may be deleted, or None."""
        return await self._number(_NEXT_EXPIRY)

    async def max_pk(self) -> int:
        """Return the largest key in use, 0 when there is none."""
        return await self._number(_MAX_PK) or 0

    async def counts(self) -> dict[str, int]:
        """Return how many runs there are by status."""
        return dict(await self._ask(lambda conn: conn.execute(_COUNTS).fetchall()))

    async def ask(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Return `fn(connection)`: how the journal's other parts put their questions."""
        return await self._ask(fn)

    async def _run(self, query: str, key: object) -> RunRow | None:
        row = await self._ask(lambda conn: conn.execute(query, (key,)).fetchone())
        return None if row is None else run_row(row)

    async def _runs(self, query: str, *parameters: object) -> list[RunRow]:
        return await self._ask(
            lambda conn: list(map(shown_row, conn.execute(query, parameters).fetchall()))
        )

    async def _number(self, query: str, *parameters: object) -> int | None:
        row: tuple[int | None] = await self._ask(
            lambda conn: conn.execute(query, parameters).fetchone()
        )
        return row[0]

    async def _ask(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        for again in (True, False):
            if self._halted is not None:
                await asyncio.shield(self._halted)
            if self._refused is not None:
                raise JournalError(self._refused)
            if again and self._unprepared:
                self._connect_again()
            try:
                return await self._driver.call(fn)
            except (sqlite3.Error, UnknownOutcomeError) as error:
                if "UTF-8" in str(error):  # a damaged text keeps nobody from the others
                    return await self._driver.call(partial(_leniently, fn))
                if not again or not is_disk_fault(error):
                    raise translate(error, self._path, "reading") from error
                self._connect_again()
        raise AssertionError("unreachable")

    # --- while the writer reopens ---------------------------------------------------

    def halt(self, done: Callable[[], None]) -> None:
        """Let go of the connection, then call `done`; questions wait for `resume`."""
        self._refused = None
        if self._closed:
            done()
            return
        if self._halted is None:
            self._halted = asyncio.get_running_loop().create_future()
        self._driver.release(lambda _: done())

    def refuse(self, reason: str) -> None:
        """If halted: the file cannot be opened for now, so answer questions with `reason`."""
        if self._halted is not None:
            self._refused = reason
            self._wake()

    def resume(self) -> None:
        """Connect again and answer questions."""
        self._refused = None
        self._wake()
        self._connect_again()

    def _wake(self) -> None:
        halted, self._halted = self._halted, None
        if halted is not None and not halted.get_loop().is_closed():
            halted.set_result(None)

    def _connect_again(self) -> None:
        # In the driver's order: any question asked from now on comes after these two.
        if not self._closed and self._halted is None:
            self._driver.reopen(lambda _: None)
            self._driver.submit(self._prepare, self._prepared)

    def _prepare(self, conn: sqlite3.Connection) -> None:
        try:
            prepare_reader(conn, self._path)
        except BaseException:
            conn.close()  # better none than one with the wrong settings
            raise

    def _prepared(self, _: None, error: BaseException | None) -> None:
        self._unprepared = error is not None


def _further(place: Position | None, before: Position | None, order: str) -> Position | None:
    """Return where to go on; an index that leads back would be followed for ever."""
    if place is None or before is None or (place > before if order == "oldest" else place < before):
        return place
    raise JournalCorruptError(f"an index of runs is out of order: {CURE}")


def _leniently(fn: Callable[[sqlite3.Connection], T], conn: sqlite3.Connection) -> T:
    """Ask once more, with texts that are no UTF-8 as such that match no checksum."""
    conn.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        return fn(conn)
    except UnicodeEncodeError as error:
        raise JournalCorruptError(f"a text is damaged: {CURE}") from error
    finally:
        conn.text_factory = str


def _damaged_hook(run: str) -> JournalCorruptError:
    return JournalCorruptError(
        f"the row of a hook of run {run} does not match its checksum: the disk or another program "
        "changed it; `durable repair` mends it"
    )
