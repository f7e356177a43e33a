"""Writing to streams from steps and bodies: order, completeness, bounds, refusals."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from durable import (
    get_step_metadata,
    get_sync_writable,
    get_writable,
    step,
    workflow,
)
from durable._engine.live_stream import UNSAVED_BYTES_MAX, UNSAVED_ROWS_MAX
from durable._journal.driver import ThreadDriver
from durable.errors import (
    FatalError,
    SerializationError,
    StreamClosedError,
    WorkflowRunFailedError,
    WrongContextError,
)
from tests.engine.rig import opened, quiet

# What steps of this module leave behind for their test.
left: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Each test begins with nothing left behind."""
    left.clear()


async def read(run: Any, namespace: str | None = None) -> list[Any]:
    """Return all that the run has written to a stream by now."""
    return [value async for value in run.stream(namespace, follow=False)]


# --- steps --------------------------------------------------------------------------------


@step
async def emit(values: list[Any], namespace: str | None = None) -> int:
    out = get_writable(namespace)
    for value in values:
        await out.write(value)
    return len(values)


@workflow
async def emitting(values: list[Any], namespace: str | None = None) -> int:
    return await emit(values, namespace)


async def test_any_value_arrives_as_it_was_written(journal_path):
    """Whatever a step may return, it may also stream; bytes and None included."""
    values = [None, True, 7, 1.5, "text", b"\x00\xff", {"a": [1, (2, 3)]}, {4, 5}]
    async with opened(journal_path) as rt:
        run = await rt.start(emitting, values)
        assert await run.result() == len(values)
        assert await read(run) == values


async def test_streams_of_one_run_are_apart(journal_path):
    """Each namespace is a stream of its own, and so is the default one."""

    @workflow(name="apart")
    async def apart() -> None:
        await emit([1, 2])
        await emit([3], "progress")
        await emit([4], "")

    async with opened(journal_path) as rt:
        run = await rt.start(apart)
        await run.result()
        assert await read(run) == [1, 2, 4]
        assert await read(run, "progress") == [3]
        assert await run.list_streams() == ["", "progress"]
        assert (await run.tail_index(), await run.tail_index("progress")) == (2, 0)
        assert await run.tail_index("nothing") == -1


@step
async def many_writers(writers: int, each: int) -> None:
    async def write(writer: int) -> None:
        out = get_writable()
        for number in range(each):
            await out.write((writer, number))
            if number % 7 == writer % 7:
                await asyncio.sleep(0)

    await asyncio.gather(*(write(writer) for writer in range(writers)))


@workflow
async def crowded(writers: int, each: int) -> None:
    await many_writers(writers, each)


async def test_100_writers_keep_each_its_own_order(journal_path):
    """Nothing is lost, doubled or overtaken by a later chunk of the same writer."""
    async with opened(journal_path) as rt:
        run = await rt.start(crowded, 100, 20)
        await run.result()
        chunks = [chunk async for chunk in run.stream(follow=False).chunks()]
    assert [chunk.index for chunk in chunks] == list(range(2000))
    for writer in range(100):
        own = [number for who, number in (chunk.value for chunk in chunks) if who == writer]
        assert own == list(range(20))


async def test_writes_begun_together_keep_the_order_of_the_calls(journal_path):
    """Also the first ones, which wait until the stream is known."""

    @step(name="together")
    async def together() -> None:
        out = get_writable()
        await asyncio.gather(*(out.write(number) for number in range(1000)))

    @workflow(name="writes_together")
    async def body() -> None:
        await together()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
        assert await read(run) == list(range(1000))


async def test_step_is_not_complete_before_its_chunks_are(journal_path):
    """Whoever sees the step's outcome in the file finds its chunks there as well."""
    async with opened(journal_path) as rt:
        run = await rt.start(emitting, [*range(100)])
        while True:
            done = any(event.kind == "step_completed" for event in await run.events())
            chunks = await read(run)
            if done:
                break
            await asyncio.sleep(0)
        assert chunks == [*range(100)]


async def test_write_waits_when_too_much_is_not_durable_yet(journal_path):
    """A writer is ahead of the journal by a fixed number of chunks at most."""

    @step(name="hasty")
    async def hasty() -> None:
        out = get_writable()
        await out.drain()
        (stream,) = rt._engine._streams._live[get_step_metadata().run_id].values()
        for number in range(3000):
            await out.write(number)
            left.append(stream.next_index - stream.landed)

    @workflow(name="hastily")
    async def body() -> None:
        await hasty()

    async with opened(journal_path, driver=ThreadDriver) as rt:
        run = await rt.start(body)
        await run.result()
        assert await read(run) == [*range(3000)]
    assert 1 < max(left) <= UNSAVED_ROWS_MAX + 1


async def test_write_waits_when_too_many_bytes_are_not_durable_yet(journal_path):
    """Large chunks are bounded by their size."""

    @step(name="bulky")
    async def bulky() -> None:
        out = get_writable()
        await out.drain()
        (stream,) = rt._engine._streams._live[get_step_metadata().run_id].values()
        for _ in range(40):
            await out.write(b"x" * 200_000)
            left.append(stream._unsaved_bytes)

    @workflow(name="bulkily")
    async def body() -> None:
        await bulky()

    async with opened(journal_path, driver=ThreadDriver) as rt:
        run = await rt.start(body)
        await run.result()
        assert await run.tail_index() == 39
    assert 200_000 < max(left) <= UNSAVED_BYTES_MAX + 201_000


async def test_drain_returns_when_the_chunks_can_be_read(journal_path):
    """What was drained is in the file, while the step still runs."""

    @step(name="draining")
    async def draining() -> list[Any]:
        async with get_writable("d") as out:
            assert await out.write_from([1, 2]) == 2
        run = rt.get_run(get_step_metadata().run_id)
        return await read(run, "d")

    @workflow(name="drains")
    async def body() -> list[Any]:
        return await draining()

    async with opened(journal_path) as rt:
        assert await (await rt.start(body)).result() == [1, 2]


async def test_write_from_takes_async_and_plain_iterables(journal_path):
    """Each item becomes a chunk as it comes; a text is taken for a mistake."""

    async def numbers() -> Any:
        for number in range(3):
            yield number

    @step(name="from_iterables")
    async def from_iterables() -> None:
        out = get_writable()
        await out.write_from(numbers())
        await out.write_from(n * 10 for n in range(2))
        with pytest.raises(TypeError, match=r"'text': use write\(\)"):
            await out.write_from("text")

    @workflow(name="write_from_iterables")
    async def body() -> None:
        await from_iterables()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
        assert await read(run) == [0, 1, 2, 0, 10]


async def test_memory_holds_no_stream_that_nobody_uses(journal_path):
    """What is known about a stream is dropped once its rows are durable."""
    async with opened(journal_path) as rt:
        runs = [await rt.start(emitting, [1, 2, 3]) for _ in range(20)]
        for run in runs:
            await run.result()
        await quiet(rt)
        assert rt._engine._streams._live == {}


# --- threads ------------------------------------------------------------------------------


@step
def emit_in_thread(count: int) -> str:
    out = get_sync_writable("t")
    for number in range(count):
        out.write(number)
    assert out.write_from(["a", "b"]) == 2
    return threading.current_thread().name


@workflow
async def threaded(count: int) -> str:
    return await emit_in_thread(count)


async def test_plain_steps_write_from_their_thread(journal_path):
    """The blocking handle keeps the order, and everything is there when the step is."""
    async with opened(journal_path) as rt:
        run = await rt.start(threaded, 600)
        assert await run.result() == "durable-step"
        assert await read(run, "t") == [*range(600), "a", "b"]


# --- bodies -------------------------------------------------------------------------------


async def test_body_writes_each_chunk_as_a_step(journal_path):
    """Order is the body's; the history tells of them, and closing ends the stream."""

    @workflow(name="body_writes")
    async def body() -> None:
        out = get_writable("log")
        await out.write("first")
        await emit(["second"], "log")
        assert await out.write_from(["third", "fourth"]) == 2
        await out.drain()
        await out.close()
        with pytest.raises(StreamClosedError):
            await out.write("too late")

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
        assert await read(run, "log") == ["first", "second", "third", "fourth"]
        names = [event.name for event in await run.events() if event.kind == "step_created"]
        assert names.count("durable.stream.write") == 4


async def test_body_refuses_a_chunk_by_its_path(journal_path):
    """The body meets the error at its write, and nothing was issued."""

    @workflow(name="body_writes_odd")
    async def body() -> str:
        try:
            await get_writable().write([threading.Lock()])
        except SerializationError as error:
            return error.path
        return ""

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        assert await run.result() == "chunk[0]"
        assert "step_created" not in [event.kind for event in await run.events()]


async def test_body_cannot_read_a_stream(journal_path):
    """What is there differs on replay, so the cure is a step."""

    @workflow(name="body_reads")
    async def body() -> None:
        rt.get_run("other").stream()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        with pytest.raises(WorkflowRunFailedError, match="read it in a @step") as failed:
            await run.result()
        assert isinstance(failed.value.__cause__, WrongContextError)


async def test_failed_step_leaves_its_chunks(journal_path):
    """What was streamed before a failure was real, so it stays."""

    @step(name="fails_midway")
    async def fails_midway() -> None:
        out = get_writable()
        await out.write(1)
        raise FatalError("no")

    @workflow(name="failing_midway")
    async def body() -> None:
        await fails_midway()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        with pytest.raises(WorkflowRunFailedError):
            await run.result()
        assert await read(run) == [1]
