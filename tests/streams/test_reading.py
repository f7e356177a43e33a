"""Reading streams: ends, positions, many and slow readers, readers that give up."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from durable import StreamChunk, get_writable, step, workflow
from durable._journal.high_water import forget_mark
from durable._journal.records import RunState
from durable._journal.row_checksums import state_sum
from durable.errors import (
    JournalCorruptError,
    PayloadDecodeError,
    RuntimeClosedError,
    WorkflowRunNotFoundError,
)
from tests.engine.rig import crashing, make, opened, quiet, until

# How the steps of this module are told to go on.
gates: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def closed_gates() -> None:
    """Each test begins with no gate."""
    gates.clear()


def gate(name: str) -> asyncio.Event:
    return gates.setdefault(name, asyncio.Event())


@step
async def emit_gated(count: int, close: bool = False) -> None:
    out = get_writable()
    for number in range(count):
        await gate(str(number)).wait()
        await out.write(number)
    if close:
        await out.close()
        await gate("end").wait()


@workflow
async def gated(count: int, close: bool = False) -> None:
    await emit_gated(count, close)


@step
async def emit_at_once(count: int) -> None:
    out = get_writable()
    for number in range(count):
        await out.write(number)


@workflow
async def at_once(count: int) -> None:
    await emit_at_once(count)


def open_gates(count: int) -> None:
    for number in range(count):
        gate(str(number)).set()


# --- waiting and ends ---------------------------------------------------------------------


async def test_reader_gets_each_chunk_while_the_step_goes_on(journal_path):
    """A live reader is woken by what it waits for, one chunk at a time."""
    async with opened(journal_path) as rt:
        run = await rt.start(gated, 3)
        stream = run.stream()
        for number in range(3):
            waiting = asyncio.ensure_future(anext(stream))
            await quiet_but_for(run, number)
            assert not waiting.done()
            gate(str(number)).set()
            assert await waiting == number
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert await run.status() == "completed"


async def quiet_but_for(run: Any, number: int) -> None:
    """Wait until the gated step has come to the gate."""
    await until(lambda: str(number) in gates)
    for _ in range(20):
        await asyncio.sleep(0)


async def test_reader_ends_when_the_stream_is_closed(journal_path):
    """Its run goes on meanwhile; a later reader ends there at once."""
    async with opened(journal_path) as rt:
        run = await rt.start(gated, 2, close=True)
        open_gates(2)
        assert [value async for value in run.stream()] == [0, 1]
        assert [value async for value in run.stream()] == [0, 1]
        assert [value async for value in run.stream(start_index=2)] == []
        assert await run.status() == "running"
        assert await run.tail_index() == 1
        gate("end").set()
        await run.result()


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_reader_ends_when_the_run_ends_in_whatever_way(journal_path, end):
    """A reader that waits behind the last chunk is told of the end."""

    @workflow(name="ends_somehow")
    async def body() -> None:
        await emit_at_once(2)
        await asyncio.sleep(5)
        if end == "failed":
            raise OSError

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        reading = asyncio.ensure_future(collect(run.stream()))
        await quiet(rt)
        if end == "cancelled":
            await run.cancel()
        await rt._clock.advance(6)
        assert await reading == [0, 1]
        assert await run.status() == end


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def test_reader_ends_when_a_parked_run_is_cancelled(journal_path):
    """Blocked is no end: the reader waits on, until somebody ends the run."""

    @workflow(name="parks")
    async def body() -> None:
        await emit_at_once(1)

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
    with sqlite3.connect(journal_path) as conn:  # as if its code had been lost midway
        conn.execute("DELETE FROM events WHERE kind IN (2, 10, 12)")
        conn.execute("DELETE FROM events WHERE seq > 1")
        conn.execute("UPDATE runs SET status = 'blocked', completed_at = NULL, expires_at = NULL")
        (started,) = conn.execute("SELECT started_at FROM runs").fetchone()
        state = RunState("blocked", started, None, None, None, None, 1)
        conn.execute("UPDATE runs SET state_sum = ?", (state_sum(state),))
    conn.close()
    forget_mark(str(journal_path))
    async with opened(journal_path) as rt:
        run = rt.get_run(run.run_id)
        reading = asyncio.ensure_future(collect(run.stream()))
        await quiet(rt)
        assert not reading.done()
        await run.cancel()
        assert await reading == [0]


async def test_reader_may_begin_before_the_run_does(journal_path):
    """A delayed run has no chunk yet, so its reader waits."""
    async with opened(journal_path) as rt:
        run = await rt.start(at_once.options(delay=60), 2)
        reading = asyncio.ensure_future(collect(run.stream()))
        await quiet(rt)
        assert not reading.done()
        await rt._clock.advance(61)
        assert await reading == [0, 1]


async def test_reading_an_unknown_run_says_so(journal_path):
    """The error comes with the first item that is asked for."""
    async with opened(journal_path) as rt:
        with pytest.raises(WorkflowRunNotFoundError, match="'nobody'"):
            await collect(rt.get_run("nobody").stream())


async def test_reader_is_told_when_the_runtime_closes(journal_path):
    """Nobody waits for ever at a runtime that is gone; the position says where to go on."""
    async with crashing(journal_path) as rt:
        run = await rt.start(gated, 2)
        gate("0").set()
        stream = run.stream()
        assert await anext(stream) == 0
        waiting = asyncio.ensure_future(anext(stream))
        await quiet_but_for(run, 1)
    with pytest.raises(RuntimeClosedError):
        await waiting
    assert stream.position == 1


# --- positions ----------------------------------------------------------------------------


async def test_reader_goes_on_exactly_where_another_one_stopped(journal_path):
    """Position and index say the same, after each item."""
    async with opened(journal_path) as rt:
        run = await rt.start(at_once, 1000)
        await run.result()
        seen, position = [], 0
        while len(seen) < 1000:
            stream = run.stream(start_index=position)
            async for chunk in stream.chunks():
                assert chunk == StreamChunk(chunk.value, chunk.value, f"{run.run_id}:3", 1)
                assert stream.position == chunk.index + 1
                seen.append(chunk.value)
                if len(seen) % 130 == 0:
                    break
            assert stream.position is not None
            position = stream.position
        assert seen == [*range(1000)]


async def test_negative_start_counts_from_the_tail(journal_path):
    """As in slices: so many items before the end, or all there are."""
    async with opened(journal_path) as rt:
        run = await rt.start(gated, 5, close=True)
        open_gates(5)
        assert await collect(run.stream()) == [0, 1, 2, 3, 4]
        assert await collect(run.stream(start_index=-2)) == [3, 4]
        assert await collect(run.stream(start_index=-99)) == [0, 1, 2, 3, 4]
        stream = run.stream("never written", -3, follow=False)
        assert stream.position is None
        assert await collect(stream) == []
        assert stream.position == 0
        gate("end").set()


async def test_start_beyond_the_tail_waits_for_that_index(journal_path):
    """What comes before it is not for this reader."""
    async with opened(journal_path) as rt:
        run = await rt.start(gated, 6)
        reading = asyncio.ensure_future(collect(run.stream(start_index=4)))
        open_gates(6)
        assert await reading == [4, 5]
        assert await collect(run.stream(start_index=100)) == []


async def test_without_following_a_reader_gets_what_is_there(journal_path):
    """It neither waits nor asks for more."""
    async with opened(journal_path) as rt:
        run = await rt.start(gated, 2)
        gate("0").set()
        await until(lambda: is_tail(run, 0))
        assert await collect(run.stream(follow=False)) == [0]
        gate("1").set()
        await run.result()


async def is_tail(run: Any, index: int) -> bool:
    return await run.tail_index() == index


@pytest.mark.parametrize("start", [1.5, "1", None, True])
async def test_start_that_is_no_whole_number_is_refused(journal_path, start):
    """The value is named, before anything is read."""
    async with opened(journal_path) as rt:
        with pytest.raises(TypeError, match=f"start_index={start!r}"):
            rt.get_run("any").stream(start_index=start)
        with pytest.raises(ValueError, match="beyond any stream"):
            rt.get_run("any").stream(start_index=1 << 60)


# --- many, slow, gone ---------------------------------------------------------------------


async def test_ten_readers_see_the_same(journal_path):
    """Readers do not take chunks from each other."""
    async with opened(journal_path) as rt:
        run = await rt.start(gated, 40)
        readers = [asyncio.ensure_future(collect(run.stream())) for _ in range(10)]
        for number in range(40):
            gate(str(number)).set()
            await asyncio.sleep(0)
        assert await asyncio.gather(*readers) == [[*range(40)]] * 10


async def test_slow_reader_holds_a_page_and_no_more(journal_path):
    """However far behind it is, it reads portions of the file."""
    async with opened(journal_path) as rt:
        run = await rt.start(at_once, 5000)
        await run.result()
        stream = run.stream()
        for number in range(5000):
            assert await anext(stream) == number
            assert len(stream._page) <= 256


async def test_pages_are_bounded_by_bytes(journal_path):
    """Large chunks come few at a time."""

    @step(name="emit_large")
    async def emit_large() -> None:
        await get_writable().write_from(bytes([n]) * 300_000 for n in range(12))

    @workflow(name="large_chunks")
    async def body() -> None:
        await emit_large()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
        stream = run.stream()
        for number in range(12):
            assert (await anext(stream))[:1] == bytes([number])
            assert len(stream._page) <= 4


async def test_cancelled_reader_loses_nothing_and_leaves_nothing(journal_path):
    """Asking the same object again goes on; nothing of it stays in the engine."""
    async with opened(journal_path) as rt:
        run = await rt.start(gated, 2)
        stream = run.stream()
        for number in range(2):
            for _ in range(5):
                waiting = asyncio.ensure_future(anext(stream))
                await quiet_but_for(run, number)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            gate(str(number)).set()
            assert await anext(stream) == number
        await run.result()
        await quiet(rt)
        assert rt._engine._streams._live == {}


async def test_stream_object_is_for_one_reader(journal_path):
    """Two tasks on one position would take items from each other."""
    async with opened(journal_path) as rt:
        run = await rt.start(gated, 1)
        stream = run.stream()
        waiting = asyncio.ensure_future(anext(stream))
        await quiet_but_for(run, 0)
        with pytest.raises(RuntimeError, match="make one for each reader"):
            await anext(stream)
        gate("0").set()
        assert await waiting == 0


# --- bytes --------------------------------------------------------------------------------


async def test_bytes_are_joined_from_bytes_and_text(journal_path):
    """Text becomes UTF-8; what is neither is named with its index."""

    @step(name="emit_bytes")
    async def emit_bytes() -> None:
        await get_writable("file").write_from([b"a", "ü", bytearray(b"c")])
        await get_writable("mixed").write_from([b"a", 7])

    @workflow(name="bytes_and_text")
    async def body() -> None:
        await emit_bytes()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
        assert b"".join(await collect(run.stream_bytes("file"))) == "aüc".encode()
        assert b"".join(await collect(run.stream_bytes("file", -1))) == b"c"
        with pytest.raises(TypeError, match=r"chunk 1 of .*'mixed'.* is a int"):
            await collect(run.stream_bytes("mixed"))


# --- damage -------------------------------------------------------------------------------


async def test_damaged_chunk_is_named_and_not_shown(journal_path):
    """A flipped bit or a missing row is found before anybody sees the value."""
    async with opened(journal_path) as rt:
        run = await rt.start(at_once, 5)
        await run.result()
    with sqlite3.connect(journal_path) as conn:
        conn.execute("UPDATE chunks SET payload = x'4b' WHERE idx = 3")
    conn.close()
    async with opened(journal_path) as rt:
        stream = rt.get_run(run.run_id).stream()
        with pytest.raises(JournalCorruptError, match=r"chunk 3 of stream '' of run run_"):
            await collect(stream)
    with sqlite3.connect(journal_path) as conn:
        conn.execute("DELETE FROM chunks WHERE idx = 2")
    conn.close()
    async with opened(journal_path) as rt:
        with pytest.raises(JournalCorruptError, match="lacks chunk 2"):
            await collect(rt.get_run(run.run_id).stream())


class Gone:
    """A class that is away when its chunk is read."""


async def test_chunk_that_cannot_be_loaded_here_raises_at_its_place(journal_path):
    """The reader may go on behind it."""

    @step(name="emit_gone")
    async def emit_gone() -> None:
        await get_writable().write_from([1, Gone(), 3])

    @workflow(name="emits_gone")
    async def body() -> None:
        await emit_gone()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
        stream = run.stream()
        assert await anext(stream) == 1
        gone = globals().pop("Gone")
        try:
            with pytest.raises(PayloadDecodeError, match="Gone"):
                await anext(stream)
        finally:
            globals()["Gone"] = gone
        assert await collect(stream) == [3]


async def test_reader_needs_an_open_runtime(journal_path):
    """Reading through a runtime that is not open says so."""
    rt = make(journal_path)
    with pytest.raises(RuntimeError, match="not open"):
        await collect(rt.get_run("any").stream())
