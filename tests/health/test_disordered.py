"""Damage that nobody looks for at an opening: no question about it goes on for ever."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durable.errors import JournalCorruptError
from tests.engine.rig import make, opened, quiet
from tests.health.rig import bulk, change, napping, talking

PAGE = 4096
LIMIT = 20.0


def disorder(path: Path, index: str) -> None:
    """Swap the first and the last entry of an index that fills one page."""
    with closing(sqlite3.connect(path)) as conn:
        find = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (root,) = conn.execute(find, (index,)).fetchone()
    data = bytearray(path.read_bytes())
    head = (root - 1) * PAGE
    assert data[head] == 0x0A, "the index has more than one page"
    count = int.from_bytes(data[head + 3 : head + 5], "big")
    first, last = head + 8, head + 8 + 2 * (count - 1)
    assert count > 1
    data[first : first + 2], data[last : last + 2] = data[last : last + 2], data[first : first + 2]
    path.write_bytes(data)


async def test_disordered_index_of_blocked_runs_does_not_keep_a_journal_from_opening(
    journal_path: Path,
) -> None:
    """Too large to be looked at whole: its pages of runs are read until they do not go on."""
    async with opened(journal_path) as rt:
        await (await rt.start(bulk, b"\x5a" * 9_000_000)).result()
        for name in ("one", "two", "three"):
            await (await rt.start(napping.options(run_id=name), name)).pause()
        await quiet(rt)
    disorder(journal_path, "runs_blocked")
    rt = make(journal_path)
    async with asyncio.timeout(LIMIT):
        await rt.open()
        assert await rt.get_run("two").status() == "blocked"
    async with asyncio.timeout(LIMIT):
        await rt.close()


async def test_stream_whose_name_was_damaged_is_told_as_damage(journal_path: Path) -> None:
    """Not listed under a name that no stream can have, and that nobody can ask for."""
    async with opened(journal_path) as rt:
        await (await rt.start(talking.options(run_id="talk"), "x")).result()
    change(journal_path, "UPDATE chunks SET stream = 'l' || char(127) || 'g' WHERE idx = 0")
    async with opened(journal_path) as rt:
        with pytest.raises(JournalCorruptError, match="stream"):
            await rt.get_run("talk").list_streams()
