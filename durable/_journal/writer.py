"""The group-commit writer: the only way in which rows reach the journal.

One batch is in flight at a time; all that is submitted meanwhile forms the next one,
so a lone write is never delayed and a crowd shares one COMMIT. `done` callbacks run on
the loop, in submission order, after COMMIT and after a look whether our files are
still the ones on disk.

When the disk fails the outcome is unknown. The writer then fences itself: it reopens
the connection, makes what is visible durable, answers the writes that were found,
refuses the non-vital ones that were not, and performs the vital ones again, with growing
pauses and by itself, until the disk works. It knows nothing about what the rows mean.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from durable._base.clock import Clock, Timer
from durable._base.slices import SLICE_SECONDS
from durable._journal.batch import Landing, Tally, is_recorded, perform
from durable._journal.database import restore, truncate_wal
from durable._journal.driver import Driver
from durable._journal.faults import (
    FileReplacedError,
    UnknownOutcomeError,
    is_disk_fault,
    primary_code,
    refusal,
    translate,
)
from durable._journal.files import JournalFiles
from durable._journal.high_water import HighWater
from durable._journal.reader import Reader
from durable._journal.records import Write
from durable._journal.shortcut import Shortcut
from durable.errors import JournalError, RuntimeClosedError

T = TypeVar("T")
_log = logging.getLogger("durable")

_BATCH_ROWS = 5000
_WRITES_PER_LOOK = 16  # at the clock
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 2.0
_RESERVE_RETRY_SECONDS = 10.0
_NEEDS_SPACE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


class _Chore(NamedTuple):
    """A function that must run between batches, such as a piece of retention."""

    fn: Callable[[sqlite3.Connection], object]
    done: Callable[[object, BaseException | None], None]


class Writer:
    """Performs writes in batches on one driver.

    Args:
        driver: an open driver on the writing connection.
        files: the journal's files.
        clock: arms the pauses between attempts while the disk fails.
        durability: ``"full"`` or ``"process"``, needed again when reopening.
        reader: let go of its connection while the writer reopens, if there is one.

    Attributes:
        paused: why nothing is being written at present, or None.
        fences: how often the disk has failed so far.
        commits: batches made durable so far.
        high_water: told of the newest event after each COMMIT; opened by the journal.
    """

    def __init__(
        self,
        driver: Driver,
        files: JournalFiles,
        *,
        clock: Clock,
        durability: str,
        reader: Reader | None = None,
    ) -> None:
        self.paused: str | None = None
        self.commits = 0
        self._driver = driver
        self._files = files
        self.high_water = HighWater(f"{files.path}.mark")
        self._clock = clock
        self._durability = durability
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._tally = Tally()
        self._shortcut = Shortcut(usable=durability == "process" and driver.has_thread)
        self._queue: deque[Write] = deque()
        self._answers: deque[tuple[Write, BaseException | None]] = deque()  # to be delivered
        self._chores: deque[_Chore] = deque()
        self._chore_is_next = False
        self._busy = False  # a batch or a chore is in flight, or the writer is fenced
        self._held = 0
        self._closed = False
        self.fences = 0
        self._faults = 0  # in a row
        self._fault: BaseException = RuntimeError()  # the newest of them
        self._limbo: list[Write] = []
        self._timer: Timer | None = None
        self._turn: asyncio.Future[None] | None = None
        self._reserve_due: float | None = None

    @property
    def statements(self) -> int:
        """Statements run so far for batches, BEGIN and COMMIT included."""
        return self._tally.statements

    def submit(self, write: Write) -> None:
        """Take a write in; its `done` is called when it is durable or refused.

        Raises:
            RuntimeClosedError: the journal is closing.
        """
        if self._closed:
            raise RuntimeClosedError("the journal is closed: nothing more can be recorded")
        if self._faults > 1 and not write.vital:
            # The disk is known to fail: say so now instead of letting the caller wait.
            error = translate(self._fault, self._files.path, "writing to")
            self._loop.call_soon(self._deliver_all, [(write, error)])
            return
        self._queue.append(write)
        if not self._busy and not self._held:
            self._go_on()

    async def run(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn(connection)` between two batches and return its result.

        Raises:
            RuntimeClosedError: the journal is closing.
            JournalError: it failed; the writer looks after itself.
        """
        if self._closed:
            raise RuntimeClosedError("the journal is closed")
        answer: asyncio.Future[T] = self._loop.create_future()

        def done(result: object, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(result)  # type: ignore[arg-type]  # it is what fn returned
            else:
                answer.set_exception(error)

        self._chores.append(_Chore(fn, done))
        self._go_on()
        return await answer

    async def drain(self) -> None:
        """Refuse new writes and wait for the present ones; never waits for a failing disk."""
        self._closed = True
        while self._busy or self._queue or self._chores or self._answers:
            if self._timer is not None:
                self._give_up(self._timer)
                while self._answers:
                    self._deliver()
                return
            self._turn = self._loop.create_future()
            await self._turn

    def abandon(self) -> None:
        """Take nothing more in and wait for nothing."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    # --- batches ------------------------------------------------------------------

    def _go_on(self) -> None:
        if self._busy or self._held:
            return
        if self._chores and (self._chore_is_next or not self._queue):
            self._start_chore(self._chores.popleft())
        elif self._queue:
            self._start_batch()
        else:
            self._wake_drain()

    def _start_batch(self) -> None:
        batch: list[Write] = []
        rows = 0
        while self._queue and rows < _BATCH_ROWS:
            write = self._queue.popleft()
            batch.append(write)
            turn = 0 if write.turn is None else len(write.turn[2])
            rows += 1 + len(write.events) + len(write.runs) + turn + len(write.ops)
        self._busy = self._chore_is_next = True
        again = self._faults > 0
        if again or not self._shortcut.suits(rows, batch) or not self._perform_here(batch):
            work = partial(self._perform, batch, again)
            self._driver.submit(work, partial(self._performed, batch))

    def _perform_here(self, batch: list[Write]) -> bool:
        """Perform a small batch on the loop's thread; False when another program is writing."""
        landings, error = None, None
        try:
            landings = self._driver.run_here(partial(self._perform, batch, False, here=True))
        except Exception as raised:
            if primary_code(raised) == sqlite3.SQLITE_BUSY:
                return False
            error = raised
        except BaseException:  # Ctrl-C, here or behind COMMIT: what became of it is looked up
            unknown = UnknownOutcomeError("it was interrupted")
            self._loop.call_soon(self._performed, batch, None, unknown)
            raise
        # Not at once: who has submitted the batch must have finished what he is doing.
        self._loop.call_soon(self._performed, batch, landings, error)
        return True

    def _perform(
        self, batch: Sequence[Write], again: bool, conn: sqlite3.Connection, *, here: bool = False
    ) -> list[Landing]:
        """Runs on the driver's thread, or on the loop's."""
        self._shortcut.prepare(conn, here=here)
        landings = perform(conn, batch, self._tally, again, may_commit=self._files.check_owner)
        self._check_files(conn)
        newest = self._tally.newest
        if newest is not None:
            self.high_water.note(newest[0], newest[1], newest[-1])
        return landings

    def _check_files(self, conn: sqlite3.Connection) -> None:
        try:
            self._files.check_database()
            if not self._files.wal_moved():
                return
            # Somebody deleted the -wal. We still hold it, and it may hold the last batch
            # that was acknowledged: bring it home before letting go.
            with suppress(sqlite3.Error):
                truncate_wal(conn)
            raise FileReplacedError(0, "its -wal file was deleted or replaced by another program")
        except FileReplacedError as error:
            raise UnknownOutcomeError(str(error)) from error

    def _performed(
        self, batch: list[Write], landings: list[Landing] | None, error: BaseException | None
    ) -> None:
        if error is not None or landings is None:
            self._fence(batch, error or RuntimeError("the driver gave no outcome"))
            return
        self.commits += 1
        self._busy = False
        self._healthy()
        if self._queue:
            self._go_on()  # the disk need not wait for the callbacks
        for write, landing in zip(batch, landings, strict=True):
            if landing.existing:
                write.existing = landing.existing
            if landing.changed:
                write.changed = landing.changed
        self._deliver_all(zip(batch, [landing.refused for landing in landings], strict=True))

    def _deliver_all(self, answers: Iterable[tuple[Write, BaseException | None]]) -> None:
        is_under_way = bool(self._answers)
        self._answers.extend(answers)
        if not is_under_way:
            self._deliver()

    def _deliver(self) -> None:
        """Call back for a slice of time; the rest, if any, has its turn after other callbacks."""
        # What callbacks submit is held until all have run, to share one COMMIT.
        self.shut()
        interruption: BaseException | None = None
        answers, end, count = self._answers, self._clock.boot() + SLICE_SECONDS, 0
        while answers:
            write, error = answers[0]
            try:
                write.settle(error)
            except Exception:
                _log.exception("durable: a callback after a write raised; the write itself stands")
            except BaseException as raised:  # such as Ctrl-C: the others still get theirs
                interruption = raised
            answers.popleft()  # only now: what is submitted meanwhile must not overtake the rest
            count += 1
            if answers and count % _WRITES_PER_LOOK == 0 and self._clock.boot() >= end:
                self._loop.call_soon(self._deliver)
                break
        self.open()
        if interruption is not None:
            raise interruption

    def shut(self) -> None:
        """Hold back what is submitted until `open` is called as often, to share one COMMIT."""
        self._held += 1

    def open(self) -> None:
        """Undo one `shut`."""
        self._held -= 1
        if not self._busy and not self._held:
            self._go_on()

    # --- chores -------------------------------------------------------------------

    def _start_chore(self, chore: _Chore) -> None:
        self._busy = True
        self._chore_is_next = False
        self._driver.submit(chore.fn, partial(self._chore_done, chore))

    def _chore_done(self, chore: _Chore, result: object, error: BaseException | None) -> None:
        self._busy = False
        if error is None:
            chore.done(result, None)
            self._go_on()
        elif is_disk_fault(error):
            chore.done(None, translate(error, self._files.path, "writing to"))
            self._fence([], error)
        else:
            chore.done(None, refusal(error))
            self._go_on()

    # --- a failing disk -----------------------------------------------------------

    def _fence(self, batch: list[Write], error: BaseException) -> None:
        self._busy = True
        self._limbo = batch
        if not isinstance(error, UnknownOutcomeError):
            # COMMIT was never reached, so nothing of the batch is recorded.
            self._limbo = [write for write in batch if write.vital]
            self._refuse((write for write in batch if not write.vital), error)
        self._broken(error)

    def _broken(self, error: BaseException) -> None:
        self.fences += 1
        self._faults += 1
        self._fault = error
        reason = str(translate(error, self._files.path, "writing to"))
        if self.paused is None:
            _log.warning("durable: writing is paused. %s", reason)
        self.paused = reason
        if self._faults == 1:
            self._recover(error)
            return
        if self._reader is not None:
            self._reader.refuse(reason)
        waiting = [write for write in self._queue if not write.vital]
        self._queue = deque(write for write in self._queue if write.vital)
        self._refuse(waiting, error)
        delay = min(_FIRST_DELAY * 2 ** min(self._faults - 2, 20), _LONGEST_DELAY)
        self._timer = self._clock.call_later(self._loop, delay, partial(self._recover, error))
        self._wake_drain()

    def _refuse(self, writes: Iterable[Write], error: BaseException) -> None:
        refused = [(write, translate(error, self._files.path, "writing to")) for write in writes]
        self._deliver_all(refused)

    def _recover(self, error: BaseException) -> None:
        self._timer = None
        cause = error.__cause__ or error
        if primary_code(cause) in _NEEDS_SPACE:
            self._files.free_reserve()
            self._reserve_due = self._clock.boot() + _RESERVE_RETRY_SECONDS
        if self._reader is None:
            self._reopen()
        else:
            # Connections of one process share the -shm; all must let go of a stale one.
            self._reader.halt(self._reopen)

    def _reopen(self) -> None:
        self._shortcut.forget()
        self._driver.reopen(self._reopened)

    def _reopened(self, error: BaseException | None) -> None:
        if error is not None:
            self._broken(error)
            return
        self._driver.submit(self._restore, self._restored)

    def _restore(self, conn: sqlite3.Connection) -> list[bool]:
        """Runs on the driver's thread."""
        restore(conn, self._files, self._durability)
        return [not write.vital and is_recorded(conn, write) for write in self._limbo]

    def _restored(self, recorded: list[bool] | None, error: BaseException | None) -> None:
        if error is not None or recorded is None:
            self._broken(error or RuntimeError("the driver gave no outcome"))
            return
        if self._reader is not None:
            self._reader.resume()
        limbo, self._limbo = self._limbo, []
        self._queue.extendleft(write for write in reversed(limbo) if write.vital)
        answers = [
            (write, None if found else translate(self._fault, self._files.path, "writing to"))
            for write, found in zip(limbo, recorded, strict=True)
            if not write.vital
        ]
        self._busy = False
        if not self._queue:
            self._healthy()
        self._deliver_all(answers)

    def _healthy(self) -> None:
        if self._faults:
            self._faults = 0
            self.paused = None
            _log.warning("durable: writing to the journal %s goes on", self._files.path)
        if self._reserve_due is not None and self._clock.boot() >= self._reserve_due:
            self._reserve_due = self._clock.boot() + _RESERVE_RETRY_SECONDS
            self._chores.append(_Chore(lambda _: self._files.take_reserve(), self._reserve_tried))

    def _reserve_tried(self, taken: object, error: BaseException | None) -> None:
        if taken and error is None:
            self._reserve_due = None

    def _give_up(self, timer: Timer) -> None:
        timer.cancel()
        self._timer = None
        error = JournalError(
            f"the journal was closed while it could not be written: {self.paused}. What became "
            "of this write shows when the journal is opened again"
        )
        abandoned = [*self._limbo, *self._queue]
        self._limbo, self._queue = [], deque()
        self._deliver_all([(write, error) for write in abandoned])
        while self._chores:
            self._chores.popleft().done(None, error)

    def _wake_drain(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
