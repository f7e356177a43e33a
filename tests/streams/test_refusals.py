"""What writers of streams are refused: odd values and names, and handles out of place."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from durable import (
    Writable,
    get_step_metadata,
    get_sync_writable,
    get_writable,
    step,
    workflow,
)
from durable.errors import (
    SerializationError,
    StreamClosedError,
    WorkflowRunFailedError,
    WrongContextError,
)
from tests.engine.rig import AT_ONCE, opened, quiet, result_of, until

# What steps of this module leave behind for their test.
left: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Each test begins with nothing left behind."""
    left.clear()


async def read(run: Any, namespace: str | None = None) -> list[Any]:
    """Return all that the run has written to a stream by now."""
    return [value async for value in run.stream(namespace, follow=False)]


@step
async def emit(values: list[Any]) -> None:
    await get_writable().write_from(values)


# --- handles ----------------------------------------------------------------------------


async def test_handles_are_for_where_they_are_asked_for(journal_path):
    """Neither handle can block a loop or lose a chunk in a coroutine that nobody awaits."""

    @step(name="asks_wrongly")
    async def asks_wrongly() -> None:
        with pytest.raises(WrongContextError, match="would block the event loop"):
            get_sync_writable()

    @step(name="asks_wrongly_in_thread")
    def asks_wrongly_in_thread() -> None:
        with pytest.raises(WrongContextError, match=r"get_sync_writable\(\)"):
            get_writable()

        async def in_a_loop_of_its_own() -> None:
            with pytest.raises(WrongContextError, match="in a loop of your own"):
                get_writable()

        asyncio.run(in_a_loop_of_its_own())

    @workflow(name="wrong_handles")
    async def body() -> None:
        with pytest.raises(WrongContextError, match="would block the event loop"):
            get_sync_writable()
        await asks_wrongly()
        await asks_wrongly_in_thread()

    assert await result_of(journal_path, body) is None
    with pytest.raises(WrongContextError, match=r"get_run\(id\)\.get_writable\(\)"):
        get_writable()


@step(executor="process", max_retries=0)
def far_away() -> None:
    get_sync_writable()


async def test_process_steps_are_told_that_they_cannot_write(journal_path):
    """A worker process has no way to the journal; the error says what to do."""

    @workflow(name="writes_far_away")
    async def body() -> None:
        await far_away()

    with pytest.raises(WorkflowRunFailedError) as failed:
        await result_of(journal_path, body)
    assert isinstance(failed.value.__cause__, WrongContextError)
    assert 'executor="process"' in str(failed.value)


# --- closing ------------------------------------------------------------------------------


async def test_nothing_can_be_written_to_a_closed_stream(journal_path):
    """Neither by the one who closed it nor by another step; closing twice is fine."""

    @step(name="closing")
    async def closing() -> None:
        out = get_writable()
        await out.write(1)
        await out.close()
        await out.close()
        with pytest.raises(StreamClosedError, match=r"stream '' of run .* it was closed"):
            await out.write(2)

    @workflow(name="closes")
    async def body() -> None:
        await closing()
        await emit.options(max_retries=0)([3])

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        with pytest.raises(WorkflowRunFailedError) as failed:
            await run.result()
        assert isinstance(failed.value.__cause__, StreamClosedError)
        assert failed.value.__cause__.namespace == ""
        assert await read(run) == [1]
        assert await run.tail_index() == 0


async def test_step_that_is_tried_again_may_write_to_the_stream_it_closed(journal_path):
    """Else a failure behind close() could never be retried."""

    @step(name="closes_and_fails", backoff=AT_ONCE)
    async def closes_and_fails() -> None:
        out = get_writable()
        await out.write(get_step_metadata().attempt)
        await out.close()
        if get_step_metadata().attempt == 1:
            raise OSError

    @workflow(name="closing_retried")
    async def body() -> None:
        await closes_and_fails()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await quiet(rt)
        await rt._clock.advance(1)
        await run.result()
        assert await read(run) == [1, 2]


# --- refusals -----------------------------------------------------------------------------


async def test_chunk_that_cannot_be_recorded_is_refused_by_its_path(journal_path):
    """Nothing of it is written, and the stream goes on."""

    @step(name="odd_chunk")
    async def odd_chunk() -> None:
        out = get_writable()
        await out.write(1)
        with pytest.raises(SerializationError) as refused:
            await out.write({"lock": [threading.Lock()]})
        assert refused.value.path == 'chunk["lock"][0]'
        await out.write(2)

    @workflow(name="odd_chunks")
    async def body() -> None:
        await odd_chunk()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
        assert await read(run) == [1, 2]


@pytest.mark.parametrize(
    ("namespace", "error", "hint"),
    [
        (7, TypeError, "namespace=7 must be a text"),
        ("n" * 65, ValueError, "up to 64 printable characters"),
        ("a\nb", ValueError, "up to 64 printable characters"),
    ],
)
async def test_unusable_namespaces_are_refused_everywhere(journal_path, namespace, error, hint):
    """Writing, reading and asking name the value and the cure."""

    @step(name="odd_namespace")
    async def odd_namespace() -> None:
        with pytest.raises(error, match=hint):
            get_writable(namespace)

    @workflow(name="odd_namespaces")
    async def body() -> None:
        await odd_namespace()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
        with pytest.raises(error, match=hint):
            run.stream(namespace)
        with pytest.raises(error, match=hint):
            await run.tail_index(namespace)


async def test_unknown_on_retry_is_refused(journal_path):
    """The choices are named; and one attempt cannot want both for one stream."""

    @step(name="odd_on_retry")
    async def odd_on_retry() -> None:
        with pytest.raises(ValueError, match="'append' or 'replace'"):
            get_writable(on_retry="skip")  # type: ignore[arg-type]
        get_writable(on_retry="replace")
        with pytest.raises(ValueError, match="on_retry='replace' already"):
            get_writable(on_retry="append")

    @workflow(name="odd_on_retries")
    async def body() -> None:
        await odd_on_retry()

    await result_of(journal_path, body)


async def test_attempt_that_is_over_cannot_write(journal_path):
    """A handle that outlives its step refuses to write in its name."""

    @step(name="leaks")
    async def leaks() -> None:
        left.append(get_writable())
        await left[0].write(1)

    @workflow(name="leaking")
    async def body() -> None:
        await leaks()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await run.result()
        handle: Writable = left[0]
        with pytest.raises(WrongContextError, match=r"attempt 1 of step .*:3 is over"):
            await handle.write(2)
        assert await read(run) == [1]


async def test_timed_out_thread_cannot_write_any_more(journal_path):
    """A stuck plain step that comes round after its time writes nothing."""
    go, over = threading.Event(), threading.Event()

    @step(name="stuck", timeout=5, max_retries=0)
    def stuck() -> None:
        out = get_sync_writable()
        out.write(1)
        go.wait(20)
        try:
            out.write(2)
        except WrongContextError as error:
            left.append(error)
        over.set()

    @workflow(name="sticking")
    async def body() -> None:
        try:
            await stuck()
        except TimeoutError:
            go.set()

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await until(lambda: read(run))
        await rt._clock.advance(6)
        await run.result()
        await until(over.is_set)
        assert await read(run) == [1]
    assert "is over" in str(left[0])
