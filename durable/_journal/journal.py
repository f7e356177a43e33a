"""The facade that the engine sees: one journal, opened by its owner or for reading.

Owns the order of opening and closing and the counter of run keys. All writing goes
through `submit`/`perform` to the writer, all reading to `reader`. It takes no lock
(that is `lock.py`'s) and runs no statement of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from durable._base.clock import Clock
from durable._journal.backup import Backup, Stop, back_up
from durable._journal.database import Boot, finish, prepare
from durable._journal.driver import Driver, DriverFactory, ThreadDriver
from durable._journal.faults import UnknownOutcomeError, translate
from durable._journal.files import JournalFiles
from durable._journal.high_water import forget_mark
from durable._journal.keys import KeyRing
from durable._journal.reader import Reader
from durable._journal.records import Write
from durable._journal.retention import delete_expired, delete_run, empty_trash
from durable._journal.running import Marks
from durable._journal.sealing import seal_write, seals_of
from durable._journal.seals import Seals
from durable._journal.swapping import finish as finish_exchange
from durable._journal.swapping import refuse_unfinished
from durable._journal.writer import Writer
from durable.errors import DurableError, JournalError, RuntimeClosedError

if TYPE_CHECKING:
    from durable._journal.codec import Codec

_log = logging.getLogger("durable")
_DURABILITIES = ("full", "process")


class Journal:
    """One open journal. Create it with `await Journal.open(...)`.

    Attributes:
        path: canonical path of the file.
        codec: carried for the engine, not used here.
        reader: all questions go there.
        writer: None when the journal was opened for reading only.
        journal_id: random, made with the file; empty for readers.
        seals: of a journal whose payloads are sealed; None for others.
        clean: whether the previous owner ended in an orderly way.
        boot_number: how often the journal was opened by an owner, this time included.
        marks: which attempts run now; opened by who executes runs.
        suspect: (pk, seq) of the step that was running alone when the process died, or None.
    """

    def __init__(
        self,
        files: JournalFiles,
        reader: Reader,
        codec: Codec | None,
        owner: _Owner | None,
        drivers: DriverFactory,
        ring: KeyRing | None,
    ) -> None:
        self.path = files.path
        self._files = files
        self.marks = Marks()
        self._drivers = drivers
        self._copying: dict[asyncio.Task[Backup], Stop] = {}
        self.codec = codec
        self.reader = reader
        boot = owner.boot if owner else Boot("", True, 0, None, 0)
        self.writer = owner.writer if owner else None
        self.journal_id = boot.journal_id
        self.clean = boot.clean
        self.boot_number = boot.number
        self.suspect = boot.suspect
        self._driver = owner.driver if owner else None
        self._ring = ring
        self.seals = reader.seals
        if owner is not None and self.seals is None:
            setattr(self, "submit", owner.writer.submit)  # without a detour: each step passes it
        self._keys = itertools.count(boot.max_pk + 1)
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        clock: Clock,
        codec: Codec | None = None,
        ring: KeyRing | None = None,
        durability: str = "full",
        driver_factory: DriverFactory = ThreadDriver,
        owner: bool = True,
        still_owned: Callable[[], bool] | None = None,
        went_down: bool = False,
    ) -> Journal:
        """Open the journal at `path` (or a `file:` URI), creating it when `owner`.

        Args:
            path: where it lies.
            clock: time for the boot record and for pauses while the disk fails.
            codec: carried as an attribute.
            ring: keys for the seals of its payloads; None for none.
            durability: ``"full"`` survives power loss; ``"process"`` survives the death of
                the process, and a power loss may undo the last seconds.
            driver_factory: makes the drivers; tests and simulations pass their own.
            owner: open for writing; the caller holds the owner lock. False: reading only.
            still_owned: asked before each COMMIT; False fences the journal, as when somebody
                has deleted the lock file.
            went_down: the previous owner is known to have ended on request, not by a crash.

        Raises:
            JournalError: the file cannot be opened, is damaged, newer, or not a journal; or it
                holds what is not sealed, and keys were given.
        """
        if durability not in _DURABILITIES:
            raise ValueError(f"durability is {durability!r}: it must be one of {_DURABILITIES}")
        files = JournalFiles(path)
        files.still_owned = still_owned
        reader = Reader(driver_factory(files.uri("ro"), True), files.path)
        if not owner:
            refuse_unfinished(files)
            await _open_reader(reader, files, ring)
            return cls(files, reader, codec, None, driver_factory, ring)
        opened = await _Owner.open(files, reader, clock, durability, driver_factory, ring)
        journal = cls(files, reader, codec, opened, driver_factory, ring)
        journal.clean = journal.clean or went_down
        return journal

    @property
    def disk(self) -> Writer:
        """The writer, which knows how often the disk has failed.

        Raises:
            JournalError: the journal was opened for reading only.
        """
        return self._require_writer()

    def seals_of(self, journal_id: str) -> Seals:
        """Return the seals of another journal, by the keys that were given for this one."""
        return Seals(KeyRing() if self._ring is None else self._ring, journal_id)

    def next_pk(self) -> int:
        """Return a key for a new run; keys are never used twice while the journal is open."""
        return next(self._keys)

    def submit(self, write: Write) -> None:
        """Make a write durable; its `done` callback tells the outcome.

        Raises:
            JournalError: the journal was opened for reading only.
            RuntimeClosedError: the journal is closing.
        """
        writer = self._require_writer()
        if self.seals is not None:
            try:
                seal_write(self.seals, write)
            except DurableError as error:
                asyncio.get_running_loop().call_soon(write.settle, error)
                return
        writer.submit(write)

    async def perform(self, write: Write) -> None:
        """Submit a write and wait for its outcome; cancelling does not call it back.

        `write.done` is called as well. Raises what the write was refused with.
        """
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        inner = write.done

        def done(error: BaseException | None) -> None:
            if not outcome.done():
                if error is None:
                    outcome.set_result(None)
                else:
                    outcome.set_exception(error)
            inner(error)

        write.done = done
        self.submit(write)
        await outcome

    async def next_expiry(self) -> int | None:
        """Return when the next finished run may be deleted (UTC microseconds), or None."""
        return await self.reader.next_expiry()

    async def delete_expired(self, now_us: int, limit: int = 1000) -> int:
        """Delete up to `limit` finished runs that expired by `now_us`; return how many."""
        writer = self._require_writer()
        return await delete_expired(writer, now_us, limit, writer.high_water.take_back)

    async def delete_run(self, pk: int) -> bool:
        """Delete a finished run, as far as anybody can see; tell whether it was there.

        `empty_trash` deletes the rest of it, as does the next opening.
        """
        writer = self._require_writer()
        return await delete_run(writer, pk, writer.high_water.take_back)

    async def empty_trash(self) -> None:
        """Delete what is left of deleted runs, in small pieces, and give its space back."""
        await empty_trash(self._require_writer())

    async def back_up(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Backup:
        """Copy the journal as it is now, and return when the copy is checked and durable.

        Works for readers too. It is called off when the journal is closed.

        Raises:
            FileExistsError: `path` exists, and `overwrite` is False.
            BackupError: it could not be made, or is not good; nothing is left of it.
        """
        if self._closed:
            raise RuntimeClosedError("the journal is closed")
        stop = Stop()
        work = back_up(self._files, self._drivers, path, overwrite=overwrite, stop=stop)
        copying = asyncio.get_running_loop().create_task(work)
        self._copying[copying] = stop
        try:
            return await asyncio.shield(copying)
        except asyncio.CancelledError:
            stop.ask()
            await _let_end(copying)
            raise
        finally:
            del self._copying[copying]

    async def close(self, clean: bool = True) -> None:
        """Finish what was submitted and close; twice is fine.

        Args:
            clean: False records that this was not a proper end, so that the next opening
                checks the file.
        """
        if self._closed:
            return
        self._closed = True
        for copying, stop in list(self._copying.items()):
            stop.ask()
            await asyncio.wait([copying])
        if self.writer is None or self._driver is None:
            await self.reader.close()
            return
        await self.writer.drain()
        await self.reader.close()
        self.marks.close(clean=clean)
        newest = self.writer.high_water.newest()
        self.writer.high_water.close()
        last = partial(_last_statements, self._files, clean, newest)
        await _finish(self._driver, last, self.path)
        await self._driver.close()

    def abandon(self) -> None:
        """Let go of everything without waiting: the process is going down."""
        self._closed = True
        self.marks.close(clean=False)
        for stop in self._copying.values():
            stop.ask()
        if self.writer is not None:
            self.writer.abandon()
            self.writer.high_water.close()
        self.reader.abandon()
        if self._driver is not None:
            self._driver.abandon()

    def _require_writer(self) -> Writer:
        if self.writer is None:
            raise JournalError(
                f"the journal {self.path} is open for reading only: ask its owner to write"
            )
        return self.writer


class _Owner:
    """The writing half of a journal."""

    def __init__(self, driver: Driver, writer: Writer, boot: Boot) -> None:
        self.driver = driver
        self.writer = writer
        self.boot = boot

    @classmethod
    async def open(
        cls,
        files: JournalFiles,
        reader: Reader,
        clock: Clock,
        durability: str,
        driver_factory: DriverFactory,
        ring: KeyRing | None,
    ) -> _Owner:
        finish_exchange(files)
        if files.create():
            forget_mark(files.path)
        driver = driver_factory(files.uri("rw"), False)
        try:
            await driver.open()
            now = clock.wall_us()
            boot = await driver.call(partial(_prepare, files, durability, now))
            reader.seals = await driver.call(partial(_seals, files.path, ring, owner=True))
            await reader.open()
        except (sqlite3.Error, OSError, UnknownOutcomeError) as error:
            driver.abandon()
            raise translate(error, files.path, "opening") from error
        except BaseException:
            driver.abandon()
            raise
        writer = Writer(driver, files, clock=clock, durability=durability, reader=reader)
        writer.high_water.open(boot.journal_id, durability)
        return cls(driver, writer, boot)


def _prepare(files: JournalFiles, durability: str, now_us: int, conn: sqlite3.Connection) -> Boot:
    return prepare(conn, files, durability, now_us)


def _seals(
    path: str, ring: KeyRing | None, conn: sqlite3.Connection, *, owner: bool
) -> Seals | None:
    return seals_of(conn, path, ring, owner=owner)


async def _open_reader(reader: Reader, files: JournalFiles, ring: KeyRing | None) -> None:
    if not os.path.exists(files.path):
        raise JournalError(f"there is no journal at {files.path}: check the path")
    await reader.open()
    try:
        reader.seals = await reader.ask(partial(_seals, files.path, ring, owner=False))
    except BaseException:
        await reader.close()
        raise


async def _finish(
    driver: Driver, statements: Callable[[sqlite3.Connection], None], path: str
) -> None:
    """The last statements; failing costs nothing but a check at the next opening."""
    try:
        await driver.call(statements)
    except (sqlite3.Error, DurableError, Exception) as error:
        _log.warning("durable: the journal %s was not closed cleanly: %s", path, error)


async def _let_end(copying: asyncio.Task[Backup]) -> None:
    """Wait for a backup that was called off to let go of the journal."""
    copying.cancel()
    await asyncio.wait([copying])
    if not copying.cancelled():
        copying.exception()  # seen: who was cancelled does not ask for it


def _last_statements(
    files: JournalFiles, clean: bool, newest: str | None, conn: sqlite3.Connection
) -> None:
    files.check_owner()
    finish(conn, clean, newest)
