"""Streams from outside of runs: writing, and the blocking facade."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from durable import (
    SyncRuntime,
    get_step_metadata,
    get_sync_writable,
    get_writable,
    step,
    workflow,
)
from durable.errors import (
    SerializationError,
    StreamClosedError,
    WrongContextError,
)
from tests.engine.rig import opened, quiet


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


@workflow
async def waiting(seconds: float = 100) -> str:
    await asyncio.sleep(seconds)
    return "over"


async def test_writer_outside_and_step_share_a_stream(journal_path):
    """Each keeps its order; the run may be asleep, in memory or not."""

    @step(name="answers_once")
    async def answers_once() -> None:
        await get_writable().write("from the step")

    @workflow(name="asleep_then_writes")
    async def body() -> None:
        await asyncio.sleep(100)
        await answers_once()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await quiet(rt)
    async with opened(journal_path) as rt:
        run = rt.get_run(run.run_id)
        reading = asyncio.ensure_future(collect(run.stream()))
        out = run.get_writable()
        async with out:
            await out.write("hello")
        await run.get_writable().write("from another")
        await quiet(rt)
        await rt._clock.advance(101)
        assert await reading == ["hello", "from another", "from the step"]


async def test_finished_run_takes_no_more_chunks(journal_path):
    """A run that has ended has said all."""
    async with opened(journal_path) as rt:
        run = await rt.start(waiting, 0)
        await run.result()
        with pytest.raises(StreamClosedError, match="its run has ended"):
            await run.get_writable().write(1)
        assert await run.list_streams() == []


async def test_odd_chunk_from_outside_is_refused_by_its_path(journal_path):
    """And the same handle goes on with the next."""
    async with opened(journal_path) as rt:
        run = await rt.start(waiting)
        out = run.get_writable()
        with pytest.raises(SerializationError) as refused:
            await out.write([threading.Lock()])
        assert refused.value.path == "chunk[0]"
        await out.write("fine")
        assert await collect(run.stream(follow=False)) == ["fine"]


async def test_step_writes_to_another_run(journal_path):
    """There it is a writer outside; in a body it is told to use a step."""

    @step(name="writes_elsewhere")
    async def writes_elsewhere(run_id: str) -> str:
        await rt.get_run(run_id).get_writable("mail").write(get_step_metadata().run_id)
        return get_step_metadata().run_id

    @workflow(name="mails")
    async def body(run_id: str) -> str:
        with pytest.raises(WrongContextError, match="in a @step"):
            rt.get_run(run_id).get_writable()
        return await writes_elsewhere(run_id)

    async with opened(journal_path) as rt:
        other = await rt.start(waiting)
        run = await rt.start(body, other.run_id)
        assert await collect(other.stream("mail", follow=False)) in ([], [await run.result()])
        assert await collect(other.stream("mail", follow=False)) == [run.run_id]


async def test_body_asks_about_streams_durably(journal_path):
    """Tail and names are recorded like every answer about a run."""

    @step(name="writes_two_chunks")
    async def writes_two_chunks() -> None:
        await get_writable("a").write_from([1, 2])

    @workflow(name="asks_streams")
    async def body(run_id: str) -> Any:
        await writes_two_chunks()
        run = rt.get_run(run_id)
        return await run.tail_index("a"), await run.list_streams()

    async with opened(journal_path) as rt:
        run = await rt.start(body.options(run_id="me"), "me")
        assert await run.result() == (1, ["a"])
        names = [event.name for event in await run.events() if event.kind == "step_created"]
        assert names.count("durable.run") == 2


# --- the blocking facade ------------------------------------------------------------------


@step
def emit(count: int) -> None:
    get_sync_writable().write_from(range(count))
    get_sync_writable("text").write_from(["a", "b"])


@workflow
async def emits(count: int) -> int:
    await emit(count)
    return count


def test_programs_without_a_loop_read_and_write(journal_path):
    """The facade's iterators block, resume and know their position."""
    with SyncRuntime(journal_path, durability="process") as rt:
        run = rt.start(emits, 300)
        stream = run.stream()
        assert next(stream) == 0
        assert stream.position == 1
        assert list(stream) == [*range(1, 300)]
        assert [chunk.index for chunk in run.stream(start_index=-2).chunks()] == [298, 299]
        assert b"".join(run.stream_bytes("text")) == b"ab"
        assert run.tail_index() == 299
        assert run.list_streams() == ["", "text"]
        assert run.result() == 300
        with pytest.raises(StreamClosedError):
            run.get_writable().write(1)
        waiter = rt.start(waiting)
        out = waiter.get_writable("notes")
        with out:
            out.write("one")
            assert out.write_from(["two"]) == 1
        assert list(waiter.stream("notes", follow=False)) == ["one", "two"]
        out.close()
        assert list(waiter.stream("notes")) == ["one", "two"]
        waiter.cancel()


async def test_writes_that_wait_together_fail_together(journal_path):
    """Each caller learns what became of the chunk; the handle may be used again."""
    async with opened(journal_path) as rt:
        run = await rt.start(waiting)
        out = run.get_writable()
        await out.write(1)
        await run.cancel()
        outcomes = await asyncio.gather(*(out.write(n) for n in range(5)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StreamClosedError}
        await out.drain()
        assert await collect(run.stream()) == [1]
