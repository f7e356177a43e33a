"""Generator steps after crashes, failures and changes of the code: recorded truth stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable import StepItems, get_step_metadata, step, workflow
from tests.engine.rig import AT_ONCE, crashing, elapse, opened, quiet, until

# How the generators of this module behave, and what they have done; set by each test.
plan: dict[str, Any] = {}
made: list[Any] = []


@pytest.fixture(autouse=True)
def no_plan() -> None:
    """Each test begins without a plan."""
    plan.clear()
    made.clear()


async def numbers(first: int, upto: int) -> AsyncIterator[tuple[int, int]]:
    """Yield (attempt, number); fail or wait at the planned numbers."""
    attempt = get_step_metadata().attempt
    for number in range(first, upto):
        if attempt <= plan.get("fails", 0) and number == plan["at"]:
            raise OSError(number)
        if plan.get("hangs") == number:
            await asyncio.Event().wait()
        made.append((attempt, number))
        yield attempt, number


@step(backoff=AT_ONCE)
async def anew(upto: int) -> AsyncIterator[tuple[int, int]]:
    async for item in numbers(0, upto):
        yield item


@step(backoff=AT_ONCE, on_retry="resume")
async def resuming(upto: int) -> AsyncIterator[tuple[int, int]]:
    async for item in numbers(get_step_metadata().yielded, upto):
        yield item


@step(backoff=AT_ONCE, on_retry="replace")
async def replaced(upto: int) -> AsyncIterator[tuple[int, int]]:
    async for item in numbers(0, upto):
        yield item


STEPS = {"anew": anew, "resuming": resuming, "replaced": replaced}


@workflow
async def iterates(which: str, upto: int) -> list[tuple[int, int]]:
    found = [item async for item in STEPS[which](upto)]
    await asyncio.sleep(plan.get("sleep", 0))
    return found


@workflow
async def awaits(which: str, upto: int) -> int:
    return await STEPS[which](upto)


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def advance(rt: Any) -> None:
    """Let the next attempts come."""
    for _ in range(4):
        await quiet(rt)
        await rt._clock.advance(1)


async def tail(run: Any, least: int) -> bool:
    return await run.tail_index() >= least


# --- replay -------------------------------------------------------------------------------


async def test_replay_gives_the_recorded_items_without_running_the_generator(journal_path):
    """A finished generator is not asked again, however often the body is replayed."""
    plan["sleep"] = 100
    async with crashing(journal_path) as rt:
        run = await rt.start(iterates, "anew", 5)
        await quiet(rt)
    for _ in range(2):
        async with crashing(journal_path) as rt:
            await quiet(rt)
    assert made == [(1, n) for n in range(5)]
    async with opened(journal_path) as rt:
        run = rt.get_run(run.run_id)
        await quiet(rt)
        await rt._clock.advance(101)
        assert await run.result() == [(1, n) for n in range(5)]
        assert await collect(run.stream()) == [(1, n) for n in range(5)]
    assert len(made) == 5


@pytest.mark.parametrize("which", ["anew", "resuming"])
@pytest.mark.parametrize("flow", [iterates, awaits])
async def test_generator_cut_off_by_a_crash_adds_what_is_missing(journal_path, which, flow):
    """Items on record stay what they are; the body and the stream get each number once."""
    plan["hangs"] = 7
    async with crashing(journal_path) as rt:
        run = await rt.start(flow, which, 12)
        await until(lambda: tail(run, 6))
        await asyncio.sleep(0)
    plan["hangs"] = None
    async with opened(journal_path) as rt:
        run = rt.get_run(run.run_id)
        result = await run.result()
        expected = [(1, n) for n in range(7)] + [(2, n) for n in range(7, 12)]
        assert result == (expected if flow is iterates else 12)
        chunks = await collect(run.stream().chunks())
        assert [chunk.value for chunk in chunks] == expected
        assert [chunk.attempt for chunk in chunks] == [1] * 7 + [2] * 5
    assert [number for attempt, number in made if attempt == 2] == (
        [*range(12)] if which == "anew" else [*range(7, 12)]
    )


@pytest.mark.parametrize("which", ["anew", "resuming"])
@pytest.mark.parametrize("flow", [iterates, awaits])
async def test_failed_generator_adds_what_is_missing(journal_path, which, flow):
    """Several failures on the way, and nothing is there twice."""
    plan.update(fails=3, at=4)
    async with opened(journal_path) as rt:
        run = await rt.start(flow, which, 6)
        await advance(rt)
        result = await run.result()
        expected = [(1, n) for n in range(4)] + [(4, n) for n in range(4, 6)]
        assert result == (expected if flow is iterates else 6)
        assert await collect(run.stream()) == expected


async def test_replaced_generator_leaves_the_items_of_its_last_attempt(journal_path):
    """Awaited, its earlier items are withdrawn from the stream and not counted."""
    plan.update(fails=2, at=4)
    async with opened(journal_path) as rt:
        run = await rt.start(awaits, "replaced", 6)
        await advance(rt)
        assert await run.result() == 6
        assert await collect(run.stream()) == [(3, n) for n in range(6)]


async def test_body_sees_the_same_items_in_every_process(journal_path):
    """A crash before and between the items: the body's own view is replayed exactly."""
    views: list[list[Any]] = []

    @workflow(name="views_items")
    async def body() -> list[Any]:
        view: list[Any] = []
        views.append(view)
        async for item in anew(8):
            view.append(item)  # noqa: PERF401
        return view

    run_id = None
    for number in (3, 6):  # a third crash would set the step aside
        plan["hangs"] = number
        async with crashing(journal_path) as rt:
            run = rt.get_run(run_id) if run_id else await rt.start(body)
            run_id = run.run_id
            await until(lambda run=run, number=number: tail(run, number - 1))
    plan["hangs"] = None
    async with opened(journal_path) as rt:
        result = await rt.get_run(run_id).result()
    assert result == [(1, 0), (1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (3, 6), (3, 7)]
    for earlier in views:
        assert result[: len(earlier)] == earlier


async def test_iteration_that_was_left_is_left_again(journal_path):
    """The replayed body leaves the loop at the same item, and no step is begun for it."""

    @workflow(name="leaves_and_sleeps")
    async def body() -> list[Any]:
        found = []
        async for item in anew(100):
            found.append(item)
            if len(found) == 3:
                break
        await asyncio.sleep(100)
        async for item in anew(2):
            found.append(item)  # noqa: PERF401
        return found

    async with crashing(journal_path) as rt:
        run = await rt.start(body)
        await quiet(rt)
    pulled = len(made)
    async with opened(journal_path) as rt:
        run = rt.get_run(run.run_id)
        await quiet(rt)
        assert len(made) == pulled
        await rt._clock.advance(101)
        assert [n for _, n in await run.result()] == [0, 1, 2, 0, 1]


# --- changed code -------------------------------------------------------------------------

# What the body of `changes` does with the items; other code in each process.
uses: list[Any] = []


async def use_iterating(items: StepItems[Any]) -> int:
    return len([item async for item in items])


async def use_awaiting(items: StepItems[Any]) -> int:
    return await items


@workflow
async def changes() -> int:
    found: int = await uses[0](anew(3))
    await asyncio.sleep(100)
    return found


@pytest.mark.parametrize("first", [use_iterating, use_awaiting])
async def test_body_that_iterated_and_now_awaits_is_parked(journal_path, first):
    """Either change is a divergence, and undoing it loses nothing."""
    other = use_awaiting if first is use_iterating else use_iterating
    uses[:] = [first]
    async with crashing(journal_path) as rt:
        run = await rt.start(changes)
        await quiet(rt)
    uses[:] = [other]
    async with crashing(journal_path) as rt:
        run = rt.get_run(run.run_id)
        await elapse(rt, rt._clock, 101, 101)
        status = await run.status()
        assert status == "blocked"
        assert "iterat" in str(status.reason)
    uses[:] = [first]
    async with opened(journal_path) as rt:
        run = rt.get_run(run.run_id)
        await run.resume()
        await elapse(rt, rt._clock, 101, 101)
        assert await run.result() == 3
    assert len(made) == 3
