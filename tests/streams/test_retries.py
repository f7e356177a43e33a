"""What becomes of the chunks of attempts that failed or were cut off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable import StreamChunk, get_step_metadata, get_writable, step, workflow
from durable.errors import JournalError, StreamResetError
from tests.engine.rig import AT_ONCE, crashing, opened, quiet, until

# How the steps of this module are told to go on; set by each test.
plan: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def no_plan() -> None:
    """Each test begins without a plan."""
    plan.clear()
    plan["go"] = asyncio.Event()


async def emit(on_retry: Any, namespace: str = "") -> None:
    """Write three chunks named by their attempt; fail as often as planned."""
    attempt = get_step_metadata().attempt
    out = get_writable(namespace, on_retry=on_retry)
    for number in range(3):
        await out.write((attempt, number))
    await out.drain()
    if attempt <= plan.get("fails", 0):
        await plan["go"].wait()
        raise OSError(attempt)
    if plan.get("hang"):
        await asyncio.Event().wait()


@step(backoff=AT_ONCE)
async def appending() -> None:
    await emit("append")


@step(backoff=AT_ONCE)
async def replacing() -> None:
    await emit("replace")


@step
async def other(value: Any) -> None:
    await get_writable().write(value)


@workflow
async def appends() -> None:
    await appending()


@workflow
async def replaces() -> None:
    await other("before")
    await replacing()
    await other("after")


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def advance(rt: Any) -> None:
    """Let the next attempts come."""
    for _ in range(4):
        await quiet(rt)
        await rt._clock.advance(1)


def of(attempt: int) -> list[Any]:
    return [(attempt, number) for number in range(3)]


async def test_append_keeps_the_chunks_of_failed_attempts(journal_path):
    """The default: what was streamed stays, and each chunk tells its attempt."""
    plan["fails"] = 2
    plan["go"].set()
    async with opened(journal_path) as rt:
        run = await rt.start(appends)
        await advance(rt)
        await run.result()
        chunks = await collect(run.stream().chunks())
    assert [chunk.value for chunk in chunks] == of(1) + of(2) + of(3)
    assert [chunk.attempt for chunk in chunks] == [1] * 3 + [2] * 3 + [3] * 3
    assert [chunk.index for chunk in chunks] == [*range(9)]


async def test_replaced_chunks_are_left_out_for_later_readers(journal_path):
    """They see the last attempt's, and what other steps wrote; indices stay what they were."""
    plan["fails"] = 2
    plan["go"].set()
    async with opened(journal_path) as rt:
        run = await rt.start(replaces)
        await advance(rt)
        await run.result()
        assert await collect(run.stream()) == ["before", *of(3), "after"]
        chunks = await collect(run.stream().chunks())
        assert [chunk.index for chunk in chunks] == [0, 9, 10, 11, 12]
        assert not any(chunk.reset for chunk in chunks)
        assert await run.tail_index() == 12
        assert await collect(run.stream(start_index=-2)) == [(3, 2), "after"]


async def test_live_reader_of_values_is_told_that_chunks_were_replaced(journal_path):
    """It must not take both attempts for one text; it can go on behind the reset."""
    plan["fails"] = 1
    async with opened(journal_path) as rt:
        run = await rt.start(replaces)
        stream = run.stream()
        assert [await anext(stream) for _ in range(4)] == ["before", *of(1)]
        plan["go"].set()
        await advance(rt)
        with pytest.raises(StreamResetError, match="before index 4") as reset:
            await anext(stream)
        assert reset.value.index == 4
        assert await collect(stream) == [*of(2), "after"]


async def test_live_reader_of_chunks_gets_a_reset_item(journal_path):
    """The item names the step whose chunks are to be forgotten, and has no value."""
    plan["fails"] = 1
    async with opened(journal_path) as rt:
        run = await rt.start(replaces)
        chunks = run.stream().chunks()
        shown = [await anext(chunks) for _ in range(4)]
        plan["go"].set()
        await advance(rt)
        shown += await collect(chunks)
    step_id = shown[1].step_id
    assert shown[4] == StreamChunk(4, None, step_id, 2, reset=True)
    assert [chunk.value for chunk in shown[5:]] == [*of(2), "after"]
    text: list[Any] = []
    for chunk in shown:
        if chunk.reset:
            text = [kept for kept in text if kept.step_id != chunk.step_id]
        else:
            text.append(chunk)
    assert [chunk.value for chunk in text] == ["before", *of(2), "after"]


@pytest.mark.parametrize(("start", "told"), [(0, False), (1, False), (2, True), (-3, False)])
async def test_reader_that_goes_on_is_told_if_it_can_have_had_replaced_chunks(
    journal_path, start, told
):
    """One that stopped before them, or never began, is not bothered."""
    plan["fails"] = 1
    plan["go"].set()
    async with opened(journal_path) as rt:
        run = await rt.start(replaces)
        await advance(rt)
        await run.result()
        chunks = await collect(run.stream(start_index=start).chunks())
        assert [chunk.reset for chunk in chunks].count(True) == told


async def test_replacing_attempt_that_writes_nothing_leaves_nothing(journal_path):
    """To ask for the handle is enough: the step's last attempt is what counts."""

    @step(name="gives_up_writing", backoff=AT_ONCE)
    async def gives_up_writing() -> None:
        out = get_writable(on_retry="replace")
        if get_step_metadata().attempt == 1:
            await out.write("draft")
            raise OSError

    @workflow(name="writes_nothing_at_last")
    async def body() -> None:
        await gives_up_writing()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await advance(rt)
        await run.result()
        assert await collect(run.stream()) == []
        assert await run.tail_index() == 1


async def test_replace_concerns_the_stream_that_was_asked_for(journal_path):
    """Chunks of the same step in another stream stay."""

    @step(name="writes_two", backoff=AT_ONCE)
    async def writes_two() -> None:
        attempt = get_step_metadata().attempt
        await get_writable("log").write(attempt)
        await get_writable("text", on_retry="replace").write(attempt)
        if attempt == 1:
            raise OSError

    @workflow(name="two_streams")
    async def body() -> None:
        await writes_two()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await advance(rt)
        await run.result()
        assert await collect(run.stream("log")) == [1, 2]
        assert await collect(run.stream("text")) == [2]


@pytest.mark.parametrize(("flow", "kept"), [(appends, 1), (replaces, 0)])
async def test_chunks_of_an_attempt_that_a_crash_cut_off(journal_path, flow, kept):
    """They are there after the crash, and then appended to or replaced as asked."""
    plan["hang"] = True
    async with crashing(journal_path) as rt:
        run = await rt.start(flow)
        await until(lambda: has(run, (1, 2)))
    plan["hang"] = False
    async with opened(journal_path) as rt:
        run = rt.get_run(run.run_id)
        await run.result()
        values = await collect(run.stream())
    assert [v for v in values if isinstance(v, tuple)] == of(1) * kept + of(2)


async def has(run: Any, value: Any) -> bool:
    return value in await collect(run.stream(follow=False))


# --- bodies -------------------------------------------------------------------------------


async def test_body_writes_once_however_often_it_is_replayed(journal_path):
    """A crash between the chunk and the record of its step doubles nothing."""

    @workflow(name="body_writes_once")
    async def body() -> None:
        out = get_writable()
        for number in range(5):
            await out.write(number)
        await other("end")

    run_id = None
    for _ in range(40):  # each time the process dies a little later
        async with crashing(journal_path) as rt:
            run = rt.get_run(run_id) if run_id else await rt.start(body)
            run_id = run.run_id
            before = await run.tail_index()
            await until(lambda run=run, before=before: grown(run, before))
            if await run.status() == "completed":
                break
    async with opened(journal_path) as rt:
        run = rt.get_run(run_id)
        await run.result()
        values = await collect(run.stream())
    assert values == [0, 1, 2, 3, 4, *["end"] * (len(values) - 5)]


async def grown(run: Any, before: int) -> bool:
    return await run.tail_index() > before or await run.status() == "completed"


async def test_replayed_body_does_not_write_again(journal_path):
    """The write is recorded as a step, so replay only takes its outcome."""

    @workflow(name="writes_then_sleeps")
    async def body() -> None:
        out = get_writable()
        await out.write("once")
        await asyncio.sleep(100)
        await out.write("twice")
        await out.close()

    async with crashing(journal_path) as rt:
        run = await rt.start(body)
        await quiet(rt)
    async with opened(journal_path) as rt:
        run = rt.get_run(run.run_id)
        await quiet(rt)
        assert await collect(run.stream(follow=False)) == ["once"]
        await rt._clock.advance(101)
        await run.result()
        assert await collect(run.stream()) == ["once", "twice"]


# --- stopping -----------------------------------------------------------------------------


async def test_step_that_meets_the_closing_journal_is_not_blamed(journal_path):
    """It runs again at the next opening, and nothing it wrote before is lost."""
    plan["fails"] = 0
    stopped: list[BaseException] = []

    @step(name="writes_on", max_retries=0)
    async def writes_on() -> None:
        out = get_writable()
        try:
            for number in range(100_000):
                await out.write(number)
                await asyncio.sleep(0)
                if plan.get("enough") == number:
                    return
        except (JournalError, RuntimeError) as error:
            stopped.append(error)
            raise

    @workflow(name="writing_on")
    async def body() -> None:
        await writes_on()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await until(lambda: has(run, 10))
    plan["enough"] = 5
    async with opened(journal_path) as rt:
        run = rt.get_run(run.run_id)
        await run.result()
        values = await collect(run.stream())
    assert values[-6:] == [0, 1, 2, 3, 4, 5]
    assert values[:-6] == [*range(len(values) - 6)]
