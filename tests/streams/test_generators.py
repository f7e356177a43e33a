"""Generator steps: what the body gets, what is streamed, and how they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from durable import GeneratorStep, StepItems, get_step_metadata, step, workflow
from durable._engine.generators import UNSAVED_ITEMS_MAX, WAITING_ITEMS_MAX
from durable._journal.driver import ThreadDriver
from durable.errors import (
    SerializationError,
    StepTimeoutError,
    StreamClosedError,
    WorkflowRunFailedError,
    WrongContextError,
)
from tests.engine.rig import assert_cancelled, opened, result_of, until

# What generators of this module have done, for their test.
seen: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    """Each test begins with nothing seen."""
    seen.clear()


@step
async def count(upto: int) -> AsyncIterator[int]:
    try:
        for number in range(upto):
            seen.append(number)
            yield number
            await asyncio.sleep(0)
    finally:
        seen.append("closed")


@step(stream="words")
def words(text: str) -> Iterator[str]:
    for word in text.split():
        yield f"{word}@{threading.current_thread().name}"


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


# --- the two ways of using one ------------------------------------------------------------


@workflow
async def iterating(upto: int) -> list[int]:
    return [number async for number in count(upto)]


@workflow
async def awaiting(upto: int) -> int:
    return await count(upto)


async def test_body_iterates_what_the_step_yields(journal_path):
    """In order, each item an event of the run and a chunk of its stream."""
    async with opened(journal_path) as rt:
        run = await rt.start(iterating, 5)
        assert await run.result() == [0, 1, 2, 3, 4]
        events = await run.events()
        assert [e.value for e in events if e.kind == "step_yielded"] == [0, 1, 2, 3, 4]
        (done,) = [e for e in events if e.kind == "step_completed"]
        assert done.value == 5
        chunks = await collect(run.stream().chunks())
        assert [(c.index, c.value, c.attempt) for c in chunks] == [(n, n, 1) for n in range(5)]


async def test_awaited_generator_streams_its_items_and_returns_their_number(journal_path):
    """The history holds the number alone: the items are in the stream."""
    async with opened(journal_path) as rt:
        run = await rt.start(awaiting, 500)
        assert await run.result() == 500
        assert await collect(run.stream()) == [*range(500)]
        assert "step_yielded" not in [event.kind for event in await run.events()]


async def test_plain_generators_run_in_a_thread(journal_path):
    """Also those are iterated with `async for`; the stream is the one named by the step."""

    @workflow(name="splits")
    async def body() -> tuple[list[str], int]:
        return [word async for word in words("a b c")], await words("d e")

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        assert await run.result() == ([f"{w}@durable-step" for w in "abc"], 2)
        assert await run.list_streams() == ["words"]
        assert await collect(run.stream("words")) == [f"{w}@durable-step" for w in "abcde"]


async def test_generator_without_items_ends_at_once(journal_path):
    """An empty iteration, and the number 0."""

    @workflow(name="counts_nothing")
    async def body() -> tuple[list[int], int]:
        return [n async for n in count(0)], await count(0)

    assert await result_of(journal_path, body) == ([], 0)


async def test_outside_of_bodies_it_is_the_plain_generator(journal_path):
    """In a program and in another step it runs as written; the plain `def` stays plain."""
    assert [number async for number in count(3)] == [0, 1, 2]
    assert [word.partition("@")[0] for word in words.fn("a b")] == ["a", "b"]
    assert isinstance(count, GeneratorStep)

    @step(name="counts_within")
    async def counts_within() -> list[int]:
        return [number async for number in count(2)]

    @workflow(name="nested_generator")
    async def body() -> list[int]:
        return await counts_within()

    assert await result_of(journal_path, body) == [0, 1]


async def test_values_reach_the_body_as_copies(journal_path):
    """By value, as the results of steps do: what the generator does later changes nothing."""

    @step(name="yields_one_list")
    async def yields_one_list() -> AsyncIterator[list[int]]:
        growing: list[int] = []
        for number in range(3):
            growing.append(number)
            yield growing

    @workflow(name="copies")
    async def body() -> list[list[int]]:
        return [found async for found in yields_one_list()]

    assert await result_of(journal_path, body) == [[0], [0, 1], [0, 1, 2]]


async def test_body_takes_items_while_the_generator_goes_on(journal_path):
    """Other steps come in between, and several generators go on side by side."""

    @step(name="doubles")
    async def doubles(number: int) -> int:
        return 2 * number

    @workflow(name="interleaves")
    async def body() -> Any:
        async def sum_of(upto: int) -> int:
            return sum([await doubles(n) async for n in count(upto)])

        return await asyncio.gather(sum_of(10), sum_of(5), count(3))

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        assert await run.result() == [90, 20, 3]
        assert sorted(await collect(run.stream())) == sorted([*range(10), *range(5), *range(3)])


async def test_methods_can_be_generator_steps(journal_path):
    """The instance is recorded as first argument."""

    @workflow(name="method_items")
    async def body() -> list[str]:
        return [letter async for letter in Speller().spell("abc")]

    assert await result_of(journal_path, body) == ["A", "B", "C"]


class Speller:
    """Has a method that is a generator step."""

    @step
    async def spell(self, word: str) -> AsyncIterator[str]:
        """Yields capitals."""
        for letter in word:
            yield letter.upper()


# --- ends ---------------------------------------------------------------------------------


async def test_failure_comes_behind_the_items(journal_path):
    """The body gets what was yielded, then the exception at the same place."""

    @step(name="breaks_off", max_retries=0)
    async def breaks_off() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise OSError("torn")

    @workflow(name="meets_failure")
    async def body() -> list[Any]:
        found: list[Any] = []
        try:
            async for number in breaks_off():
                found.append(number)  # noqa: PERF401
        except OSError as error:
            found.append(str(error))
        return found

    assert await result_of(journal_path, body) == [1, 2, "torn"]


@step
async def endless() -> AsyncIterator[int]:
    number = 0
    try:
        while True:
            yield number
            number += 1
            await asyncio.sleep(0)
    finally:
        seen.append("closed")


async def test_leaving_the_loop_cancels_the_step(journal_path):
    """Break, return, an exception or aclose(): the generator is closed, the step cancelled."""

    @workflow(name="leaves_early")
    async def body() -> list[int]:
        found = []
        async for number in endless():
            found.append(number)
            if number == 2:
                break
        async with aclosing(endless()) as numbers:
            found.append(await anext(numbers))
        with pytest.raises(KeyError):
            async for number in endless():
                raise KeyError(number)
        return found

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        assert await run.result() == [0, 1, 2, 0]
        shown = [event.kind for event in await run.events()]
        assert shown.count("step_cancelled") == 3
        await until(lambda: seen == ["closed"] * 3)


async def test_cancelled_run_closes_its_generator(journal_path):
    """The body meets CancelledError in the loop; nothing of the step runs on."""

    @workflow(name="iterates_for_ever")
    async def body() -> None:
        async for _ in endless():
            await asyncio.sleep(1000)

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await until(lambda: tail(run, 3))
        await run.cancel()
        await assert_cancelled(run)
        await until(lambda: seen == ["closed"])


async def tail(run: Any, least: int) -> bool:
    return await run.tail_index() >= least


async def test_timeout_of_the_body_ends_the_iteration(journal_path):
    """asyncio.timeout around the loop works as with any asynchronous generator."""

    @step(name="slow_items")
    async def slow_items() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    @workflow(name="times_out_items")
    async def body() -> list[int]:
        found = []
        try:
            async with asyncio.timeout(10):
                async for number in slow_items():
                    found.append(number)  # noqa: PERF401
        except TimeoutError:
            found.append(-1)
        return found

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await quiet_but_for_attempts(run)
        await rt._clock.advance(11)
        assert await run.result() == [1, -1]
        assert "step_cancelled" in [event.kind for event in await run.events()]


async def quiet_but_for_attempts(run: Any) -> None:
    await until(lambda: tail(run, 0))
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("thread", [False, True])
async def test_timeout_of_the_step_is_for_the_whole_attempt(journal_path, thread):
    """The items so far stay; the body gets StepTimeoutError behind them."""
    go = threading.Event()

    @step(name="late_items", timeout=5, max_retries=0)
    async def late_items() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    @step(name="late_items_in_thread", timeout=5, max_retries=0)
    def late_items_in_thread() -> Iterator[int]:
        yield 1
        go.wait(20)
        try:
            yield 2
        except BaseException as error:
            seen.append(type(error))
            raise

    late = late_items_in_thread if thread else late_items

    @workflow(name=f"meets_timeout_{thread}")
    async def body() -> list[int]:
        found = []
        try:
            async for number in late():
                found.append(number)  # noqa: PERF401
        except StepTimeoutError:
            found.append(-1)
        return found

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await quiet_but_for_attempts(run)
        await rt._clock.advance(10)
        assert await run.result() == [1, -1]
        go.set()
        await until(lambda: not thread or seen == [GeneratorExit])
        assert await collect(run.stream()) == [1]


# --- bounds -------------------------------------------------------------------------------


async def test_generator_is_not_pulled_far_ahead_of_the_journal(journal_path):
    """What was yielded and is not durable yet is bounded."""
    ahead: list[int] = []

    @step(name="watched")
    async def watched() -> AsyncIterator[int]:
        (feed,) = rt._engine.scheduler.get(get_step_metadata().run_id).feeds.values()
        for number in range(1500):
            yield number
            ahead.append(number + 1 - feed.stream.landed)

    @workflow(name="watching")
    async def body() -> int:
        return sum([1 async for _ in watched()])

    async with opened(journal_path, driver=ThreadDriver) as rt:
        run = await rt.start(body)
        assert await run.result() == 1500
    assert 1 < max(ahead) <= UNSAVED_ITEMS_MAX + 2


async def test_generator_waits_for_a_body_that_takes_nothing(journal_path):
    """So that an endless generator fills neither memory nor the disk."""

    @workflow(name="takes_slowly")
    async def body() -> int:
        taken = 0
        async for _ in endless():
            taken += 1
            if taken == 3:
                await asyncio.sleep(100)
            if taken == 50:
                return taken
        return 0

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        await until(lambda: tail(run, WAITING_ITEMS_MAX))
        for _ in range(200):
            await asyncio.sleep(0)
        assert await run.tail_index() <= WAITING_ITEMS_MAX + UNSAVED_ITEMS_MAX + 3
        await rt._clock.advance(101)
        assert await run.result() == 50


# --- refusals -----------------------------------------------------------------------------


async def test_item_that_cannot_be_recorded_fails_the_step(journal_path):
    """The error names the part, the items before it are there."""

    @step(name="odd_item")
    async def odd_item() -> AsyncIterator[Any]:
        yield 1
        yield {"lock": threading.Lock()}

    @workflow(name="odd_items")
    async def body() -> None:
        async for _ in odd_item():
            pass

    async with opened(journal_path) as rt:
        run = await rt.start(body)
        with pytest.raises(WorkflowRunFailedError) as failed:
            await run.result()
        assert isinstance(failed.value.__cause__, SerializationError)
        assert failed.value.__cause__.path == 'item["lock"]'
        assert await collect(run.stream()) == [1]


async def test_items_are_used_once_and_in_one_way(journal_path):
    """A second use says what to do instead of starting the step again unnoticed."""

    @workflow(name="uses_twice")
    async def body() -> None:
        items = count(1)
        assert isinstance(items, StepItems)
        assert repr(items).startswith("<items of step ")
        assert await items == 1
        with pytest.raises(WrongContextError, match="was awaited already"):
            [n async for n in items]
        with pytest.raises(WrongContextError, match="call it again"):
            await items
        items = count(1)
        assert [n async for n in items] == [0]
        assert [n async for n in items] == []
        with pytest.raises(WrongContextError, match="call it again"):
            await items

    await result_of(journal_path, body)


async def test_generator_cannot_yield_into_a_closed_stream(journal_path):
    """The step fails as one that writes would."""

    @step(name="closes_words")
    async def closes_words() -> None:
        from durable import get_writable

        await get_writable("words").close()

    @workflow(name="yields_into_closed")
    async def body() -> None:
        await closes_words()
        async for _ in words.options(max_retries=0)("a b"):
            pass

    with pytest.raises(WorkflowRunFailedError) as failed:
        await result_of(journal_path, body)
    assert isinstance(failed.value.__cause__, StreamClosedError)


def test_options_of_generators_are_checked():
    """At the decorator: the value, the cause and the cure."""
    with pytest.raises(ValueError, match=r"cannot come from executor=\"process\""):

        @step(executor="process", name="far_items")
        def far_items() -> Iterator[int]:
            yield 1

    with pytest.raises(ValueError, match="no generator: stream and on_retry"):

        @step(stream="words", name="no_items")
        async def no_items() -> None: ...

    with pytest.raises(ValueError, match="'skip', 'resume' or 'replace'"):
        count.options(on_retry="again")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"stream='x{65}' is not usable"):
        count.options(stream="x" * 65)


async def test_iterating_what_may_be_replaced_is_refused(journal_path):
    """What a body has taken cannot be taken back, so this is told at once."""

    @workflow(name="iterates_replaced")
    async def body() -> int:
        replaced = count.options(on_retry="replace")
        with pytest.raises(ValueError, match="await it, or use 'skip' or 'resume'"):
            [n async for n in replaced(1)]
        return await replaced(1)

    assert await result_of(journal_path, body) == 1
