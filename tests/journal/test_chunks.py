"""The rows of streams: written once, read in pages, deleted with their run in portions."""

from __future__ import annotations

from pathlib import Path

from durable._journal.chunks import (
    CHUNK,
    CLOSED,
    RESET,
    Chunk,
    StreamKey,
    chunk_op,
    count_from_outside,
    count_of_step,
    last_row,
    read_page,
    stream_names,
)
from durable._journal.records import RowOp
from tests.journal.rig import Plan, ignore, new_run, open_journal, outside, shaky, write

KEY = StreamKey(1, "a", "")


def ops(*chunks: Chunk, key: StreamKey = KEY) -> list[RowOp]:
    return [chunk_op(key, chunk) for chunk in chunks]


def texts(count: int, step: int = 3, start: int = 0) -> list[Chunk]:
    return [Chunk(n, CHUNK, step, 1, b"%d" % n) for n in range(start, start + count)]


async def test_chunks_are_recorded_once(journal_path: Path) -> None:
    """The same rows again, as after an ambiguous COMMIT, change nothing."""
    async with open_journal(journal_path) as journal:
        _, birth = new_run(journal, "a")
        await journal.perform(birth)
        for _ in range(2):
            await journal.perform(write(ops=ops(*texts(3)), vital=True))
        page = await read_page(journal.reader, KEY, 0)
        assert [found.chunk for found in page.found] == texts(3)
        assert (page.next_index, page.is_last) == (3, True)


async def test_chunks_survive_a_commit_whose_outcome_is_unknown(journal_path: Path) -> None:
    """They are performed again, and are there once."""
    plan = Plan(start="COMMIT", landed=True)
    async with open_journal(journal_path, driver_factory=shaky(plan)) as journal:
        _, birth = new_run(journal, "a")
        await journal.perform(birth)
        plan.times = 1
        await journal.perform(write(ops=ops(*texts(3)), vital=True))
        assert plan.met == 1
        assert (await last_row(journal.reader, KEY)) == texts(3)[-1]
    assert outside(journal_path, "SELECT count(*) FROM chunks") == [(3,)]


async def test_chunks_of_a_deleted_run_are_not_recorded(journal_path: Path) -> None:
    """A late chunk leaves no row that nobody would delete."""
    async with open_journal(journal_path) as journal:
        await journal.perform(write(ops=ops(*texts(1)), vital=True))
    assert outside(journal_path, "SELECT count(*) FROM chunks") == [(0,)]


async def test_pages_end_at_their_limits(journal_path: Path) -> None:
    """By rows or by bytes, and each goes on where the one before ended."""
    async with open_journal(journal_path) as journal:
        _, birth = new_run(journal, "a")
        await journal.perform(birth)
        await journal.perform(write(ops=ops(*texts(10)), vital=True))
        places, start, pages = [], 0, 0
        while True:
            page = await read_page(journal.reader, KEY, start, rows_max=4)
            places += [found.chunk.place for found in page.found]
            start, pages = page.next_index, pages + 1
            if page.is_last:
                break
        assert (places, pages) == ([*range(10)], 3)
        small = await read_page(journal.reader, KEY, 2, bytes_max=2)
        assert [found.chunk.place for found in small.found] == [2, 3]
        assert not small.is_last


async def test_pages_leave_out_what_was_withdrawn(journal_path: Path) -> None:
    """The chunks of the step before its last reset, and every row that only closes."""
    rows = [
        Chunk(0, CHUNK, 3, 1, b"old"), Chunk(1, CHUNK, 5, 1, b"other"),
        Chunk(2, CLOSED, 3, 1, None), Chunk(3, RESET, 3, 2, None),
        Chunk(4, CHUNK, 3, 2, b"older"), Chunk(5, RESET, 3, 3, None),
        Chunk(6, CHUNK, 3, 3, b"new"),
    ]  # fmt: skip
    async with open_journal(journal_path) as journal:
        _, birth = new_run(journal, "a")
        await journal.perform(birth)
        await journal.perform(write(ops=ops(*rows), vital=True))
        page = await read_page(journal.reader, KEY, 0)
        shown = [(found.chunk.place, found.first) for found in page.found]
        assert shown == [(1, -1), (5, 0), (6, -1)]
        assert await count_of_step(journal.reader, KEY, 3) == 3


async def test_streams_are_listed_and_counted(journal_path: Path) -> None:
    """By name, the default one first; writers outside are counted by themselves."""
    async with open_journal(journal_path) as journal:
        pk, birth = new_run(journal, "a")
        await journal.perform(birth)
        assert await stream_names(journal.reader, pk) == []
        for name in ("z", "", "b"):
            key = KEY._replace(namespace=name)
            rows = [Chunk(0, CHUNK, -77, 1, b""), Chunk(1, CHUNK, -77, 2, b"")]
            await journal.perform(write(ops=ops(*rows, key=key), vital=True))
        assert await stream_names(journal.reader, pk) == ["", "b", "z"]
        assert await count_from_outside(journal.reader, KEY, -77) == 2
        assert await count_from_outside(journal.reader, KEY, -78) == 0


async def test_chunks_are_deleted_with_their_run_in_portions(journal_path: Path) -> None:
    """However many there are, each portion is small; other runs keep theirs."""
    async with open_journal(journal_path) as journal:
        _, birth = new_run(journal, "a", status="completed", expires_at=5)
        _, kept = new_run(journal, "b")
        await journal.perform(birth)
        await journal.perform(kept)
        for name in ("", "log"):
            key = KEY._replace(namespace=name)
            await journal.perform(write(ops=ops(*texts(1200), key=key), vital=True, done=ignore))
        other = StreamKey(2, "b", "")
        await journal.perform(write(ops=ops(*texts(3), key=other), vital=True))
        assert await journal.delete_expired(10) == 1
        assert outside(journal_path, "SELECT run, count(*) FROM chunks GROUP BY run") == [(2, 3)]
        assert outside(journal_path, "SELECT count(*) FROM trash") == [(0,)]
