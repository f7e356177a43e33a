"""Ctrl-C while the loop's own thread is at the journal: what follows is recorded, and it closes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durable._base.clock import SystemClock
from durable._journal.driver import InlineDriver, ThreadDriver
from durable._journal.journal import Journal
from tests.journal.rig import event, new_run, write

LIMIT = 10.0
WHEN = ["before", "after"]


class _Interrupts:
    """Hits the next transaction of the writing connection, once it is told to."""

    when = ""

    def hit(self, fn: Callable[[sqlite3.Connection], Any], conn: sqlite3.Connection) -> Any:
        when, _Interrupts.when = _Interrupts.when, ""
        if when == "before":
            raise KeyboardInterrupt
        result = fn(conn)
        if when == "after":
            raise KeyboardInterrupt
        return result


class HitHere(ThreadDriver, _Interrupts):
    """Is interrupted in what it performs on the loop's thread."""

    def run_here(self, fn: Callable[[sqlite3.Connection], Any]) -> Any:
        return super().run_here(partial(self.hit, fn))


class HitInline(InlineDriver, _Interrupts):
    """Is interrupted in what it performs."""

    def submit(self, fn: Callable[[sqlite3.Connection], Any], done: Any) -> None:
        super().submit(partial(self.hit, fn), done)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that Ctrl-C may end in the middle, as that of a notebook."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("driver", [HitHere, HitInline])
def test_ctrl_c_in_a_transaction_stops_neither_the_next_one_nor_the_closing(
    journal_path: Path, loop: asyncio.AbstractEventLoop, driver: type, when: str
) -> None:
    """What had become of the interrupted write is looked up, and told as it is."""
    opening = Journal.open(
        journal_path, clock=SystemClock(), durability="process", driver_factory=driver
    )
    journal = loop.run_until_complete(opening)
    pk, first = new_run(journal, "a")
    told: list[BaseException | None] = []

    async def perform(*seqs: int) -> None:
        for seq in seqs:
            await journal.perform(write(events=[event(pk, "a", seq)]))

    async def interrupted() -> None:
        hit = write(events=[event(pk, "a", 5)])
        hit.done = told.append
        _Interrupts.when = when
        journal.submit(hit)

    loop.run_until_complete(journal.perform(first))
    loop.run_until_complete(perform(2, 3, 4))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(interrupted())
    loop.run_until_complete(asyncio.wait_for(_until(lambda: bool(told)), LIMIT))
    seqs = [each.seq for each in loop.run_until_complete(journal.reader.history(pk, "a"))]
    assert seqs == [1, 2, 3, 4, *([5] if when == "after" else [])]
    assert (told[0] is None) == (when == "after")
    loop.run_until_complete(asyncio.wait_for(perform(seqs[-1] + 1), LIMIT))
    loop.run_until_complete(asyncio.wait_for(journal.close(), LIMIT))


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)
