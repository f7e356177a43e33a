"""Small batches on the loop's own thread: only where nothing can keep it waiting."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from durable._journal.driver import ThreadDriver
from durable._journal.journal import Journal
from durable._journal.shortcut import BYTES_MAX, IN_A_ROW_MAX, ROWS_MAX
from tests.journal.rig import event, new_run, open_journal, until, write


class WatchedDriver(ThreadDriver):
    """Notes on which thread each transaction of the writing connection begins."""

    def __init__(self, uri: str, read_only: bool) -> None:
        super().__init__(uri, read_only)
        self.threads: list[int] = []
        if not read_only:
            WRITERS.append(self)

    async def open(self) -> None:
        """Connect and begin to look."""
        await super().open()
        await self.call(lambda conn: conn.set_trace_callback(self._look))

    def _look(self, text: str) -> None:
        if text.startswith("BEGIN"):
            self.threads.append(threading.get_ident())

    def here(self) -> list[bool]:
        """Tell for each transaction whether this thread began it, and forget them."""
        found = [ident == threading.get_ident() for ident in self.threads]
        self.threads.clear()
        return found


WRITERS: list[WatchedDriver] = []


@asynccontextmanager
async def watched(
    path: Path, durability: str = "process"
) -> AsyncIterator[tuple[Journal, WatchedDriver, int]]:
    """An open journal, its writing driver and the key of a run that was recorded."""
    WRITERS.clear()
    async with open_journal(path, durability=durability, driver_factory=WatchedDriver) as journal:
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        yield journal, WRITERS[0], pk


async def perform_events(journal: Journal, pk: int, first: int, count: int) -> None:
    """Perform `count` writes of one event each, one after the other."""
    for seq in range(first, first + count):
        await journal.perform(write(events=[event(pk, "a", seq)]))


async def test_small_batches_are_performed_where_they_are_when_nothing_is_flushed(
    journal_path: Path,
) -> None:
    """From the third on: the first ones may find a -wal that begins anew, with a flush."""
    async with watched(journal_path) as (journal, driver, pk):
        driver.here()
        await perform_events(journal, pk, 2, 5)
        assert driver.here() == [False, True, True, True, True]
        assert [e.seq for e in await journal.reader.history(pk, "a")] == [1, 2, 3, 4, 5, 6]


async def test_every_batch_of_a_full_journal_goes_to_its_thread(journal_path: Path) -> None:
    """Each of them is flushed, which takes as long as the disk likes."""
    async with watched(journal_path, "full") as (journal, driver, pk):
        await perform_events(journal, pk, 2, 6)
        assert not any(driver.here())


@pytest.mark.parametrize("kind", ["many rows", "many bytes"])
async def test_large_batches_go_to_the_thread(journal_path: Path, kind: str) -> None:
    """What takes long would keep the loop from everything else."""
    async with watched(journal_path) as (journal, driver, pk):
        await perform_events(journal, pk, 2, 3)
        assert driver.here()[-1]
        if kind == "many rows":
            large = [event(pk, "a", seq) for seq in range(5, 5 + ROWS_MAX)]
        else:
            large = [event(pk, "a", 5, payload=bytes(BYTES_MAX + 1))]
        await journal.perform(write(events=large))
        assert driver.here() == [False]


async def test_checkpoints_and_locks_are_left_to_the_thread(journal_path: Path) -> None:
    """It gets two batches in a row again and again, on a connection that takes its time."""
    async with watched(journal_path) as (journal, driver, pk):
        await perform_events(journal, pk, 2, IN_A_ROW_MAX + 4)
        places = "".join("h" if here else "t" for here in driver.here())
        assert places.endswith("t" + "h" * IN_A_ROW_MAX + "tth")
        assert await settings(driver) == {"busy_timeout": 0, "wal_autocheckpoint": 0}
        large = [event(pk, "a", IN_A_ROW_MAX + 6 + place) for place in range(ROWS_MAX)]
        await journal.perform(write(events=large))
        assert await settings(driver) == {"busy_timeout": 5000, "wal_autocheckpoint": 1000}


async def settings(driver: WatchedDriver) -> dict[str, int]:
    """Return what the connection is set to."""
    names = ("busy_timeout", "wal_autocheckpoint")
    return {name: await driver.call(lambda c, n=name: one(c, f"PRAGMA {n}")) for name in names}


def one(conn: sqlite3.Connection, query: str) -> Any:
    """Return the first column of the first row."""
    return conn.execute(query).fetchone()[0]


async def test_another_program_that_writes_does_not_hold_up_the_loop(journal_path: Path) -> None:
    """The batch goes to the thread then, which waits for its turn."""
    async with watched(journal_path) as (journal, driver, pk):
        await perform_events(journal, pk, 2, 3)
        intruder = sqlite3.connect(journal_path, isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        done: list[object] = []
        driver.here()
        journal.submit(write(events=[event(pk, "a", 5)], done=done.append))
        await until(lambda: False in driver.here())
        assert done == []
        intruder.execute("ROLLBACK")
        intruder.close()
        await until(lambda: done)
        assert done == [None]
