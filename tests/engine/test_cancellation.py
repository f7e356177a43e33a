"""Cancelling: where it reaches a run, what the run may still do, and that one end wins."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from durable import sleep, step, workflow
from durable.errors import (
    WorkflowRunFailedError,
)
from durable.testing import VirtualClock, settle
from tests.engine.rig import (
    AT_ONCE,
    EVEN,
    assert_cancelled,
    crashing,
    kinds,
    messages,
    opened,
    quiet,
    until,
)


@step
async def clean_up(log: str) -> str:
    """A step that a `finally` block calls."""
    return f"cleaned {log}"


# --- where it reaches a run -----------------------------------------------------------


@workflow
async def sleeper() -> str:
    """Sleep for long."""
    await sleep(1000)
    return "awake"


async def test_delayed_run_is_cancelled_without_ever_beginning(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Its body does not run, now or at its time."""
    ran = []

    @workflow
    async def flow() -> None:
        ran.append(1)

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(flow.options(delay=10))
        await run.cancel("not wanted")
        await assert_cancelled(run, "not wanted")
        await virtual_clock.advance(20)
        assert await run.started_at() is None
        assert await kinds(run) == ["run_created", "run_cancelled"]
    assert ran == []


async def test_run_is_cancelled_right_after_its_start(journal_path: Path) -> None:
    """Before or after its body has begun: it ends as cancelled."""
    async with opened(journal_path) as rt:
        run = await rt.start(sleeper)
        await run.cancel()
        await assert_cancelled(run)


async def test_sleeping_run_gets_cancelled_error_at_its_await(journal_path: Path) -> None:
    """With the reason as the error's message; the wait is gone."""
    seen = []

    @workflow
    async def flow() -> None:
        try:
            await sleep(1000)
        except asyncio.CancelledError as error:
            seen.append(str(error))
            raise

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await run.cancel("enough")
        await assert_cancelled(run, "enough")
        assert rt._engine._timers._boot.first() is None
    assert seen == ["enough"]


async def test_evicted_run_can_be_cancelled(journal_path: Path) -> None:
    """It is brought back for it."""
    async with opened(journal_path, idle_runs=0) as rt:
        run, other = await rt.start(sleeper), await rt.start(sleeper)
        await quiet(rt)
        assert rt._engine.scheduler.get(run.run_id) is None
        await run.cancel("cold")
        await assert_cancelled(run, "cold")
        assert await other.status() == "running"


async def test_running_async_step_is_cancelled(journal_path: Path) -> None:
    """Its task gets `CancelledError`, and what it does about it changes nothing."""
    seen = []
    began = asyncio.Event()

    @step
    async def long_one() -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
        return "late"

    @workflow
    async def flow() -> str:
        return await long_one()

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await began.wait()
        await run.cancel()
        await assert_cancelled(run)
        await settle()
        assert await kinds(run) == [
            "run_created", "run_started", "step_created", "cancel_requested", "step_cancelled",
            "run_cancelled",
        ]  # fmt: skip
    assert seen == ["cancelled"]


async def test_running_thread_step_is_abandoned_and_its_late_result_dropped(
    journal_path: Path,
) -> None:
    """A thread cannot be stopped; the run does not wait for it."""
    began, gate, left = threading.Event(), threading.Event(), threading.Event()

    @step
    def long_one() -> str:
        began.set()
        gate.wait(10)
        left.set()
        return "late"

    @workflow
    async def flow() -> str:
        return await long_one()

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await until(began.is_set)
        await run.cancel()
        await assert_cancelled(run)
        gate.set()
        await until(left.is_set)
        await settle(50)
        assert "step_completed" not in await kinds(run)


async def test_step_between_two_attempts_is_not_tried_again(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Its alarm is gone with it."""
    ran = []

    @step(backoff=EVEN)
    async def failing() -> None:
        ran.append(1)
        raise ValueError

    @workflow
    async def flow() -> None:
        await failing()

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await run.cancel()
        await assert_cancelled(run)
        await virtual_clock.advance(100)
    assert ran == [1]


# --- what the run may still do --------------------------------------------------------


async def test_finally_may_run_steps_and_waits(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """They are recorded like any others."""
    seen = []

    @workflow
    async def flow() -> None:
        try:
            await sleep(1000)
        finally:
            seen.append(await clean_up("a"))
            await sleep(5)
            seen.append(await clean_up("b"))

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await run.cancel("why")
        await quiet(rt)
        assert await run.status() == "running"
        await virtual_clock.advance(5)
        await assert_cancelled(run, "why")
    assert seen == ["cleaned a", "cleaned b"]


async def test_clean_up_beyond_its_grace_time_is_terminated(
    journal_path: Path, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The run ends as cancelled; what it was doing is given up."""
    cancelled = []

    @step
    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(1)

    @workflow
    async def flow() -> None:
        try:
            await sleep(1000)
        finally:
            await endless()

    async with opened(journal_path, virtual_clock, grace="20s") as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await run.cancel("why")
        await settle(30)
        await virtual_clock.advance(19)
        assert await run.status() == "running"
        await virtual_clock.advance(1)
        await assert_cancelled(run, "why")
        await settle()
    assert cancelled == [1]
    assert "grace time" in messages(caplog)[0]


async def test_second_cancel_terminates_at_once(journal_path: Path) -> None:
    """The clean-up is given up; the first reason stays."""

    @workflow
    async def flow() -> None:
        try:
            await sleep(1000)
        finally:
            await sleep(10)

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await run.cancel("first")
        await quiet(rt)
        assert await run.status() == "running"
        await run.cancel("second")
        await assert_cancelled(run, "first")


async def test_two_cancels_at_the_same_moment_are_a_first_and_a_second(
    journal_path: Path,
) -> None:
    """The body sees one cancellation, and the run ends at once."""
    seen = []

    @workflow
    async def flow() -> None:
        try:
            await sleep(1000)
        except asyncio.CancelledError:
            seen.append("cancelled")
            try:
                await sleep(10)
            except asyncio.CancelledError:
                seen.append("cancelled again")

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await asyncio.gather(*[run.cancel(name) for name in "abc"])
        await assert_cancelled(run, "a")
        assert (await kinds(run)).count("cancel_requested") == 1
    assert seen == ["cancelled"]


async def test_body_that_swallows_the_cancellation_and_returns_completes(
    journal_path: Path,
) -> None:
    """Cancelling is a request, as in asyncio."""

    @workflow
    async def flow() -> str:
        try:
            await sleep(1000)
        except asyncio.CancelledError:
            return await clean_up("up")
        return "awake"

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await run.cancel()
        assert await run.result() == "cleaned up"
        assert await run.status() == "completed"


async def test_body_that_answers_with_its_own_error_fails(journal_path: Path) -> None:
    """What it raises instead is its outcome."""

    @workflow
    async def flow() -> None:
        try:
            await sleep(1000)
        finally:
            raise KeyError("in clean-up")

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await run.cancel()
        with pytest.raises(WorkflowRunFailedError, match="in clean-up"):
            await run.result()


async def test_cancelled_error_of_the_bodys_own_making_fails_the_run(journal_path: Path) -> None:
    """Nobody asked the run to end, so it was not cancelled."""

    @workflow
    async def flow() -> None:
        raise asyncio.CancelledError

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        with pytest.raises(WorkflowRunFailedError, match="CancelledError"):
            await run.result()


async def test_all_branches_of_a_task_group_are_cancelled(journal_path: Path) -> None:
    """Through asyncio's own rules."""
    seen = []

    async def branch(name: str) -> None:
        try:
            await sleep(100)
        finally:
            seen.append(await clean_up(name))

    @workflow
    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(branch(name))

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await run.cancel()
        await assert_cancelled(run)
    assert seen == ["cleaned a", "cleaned b"]


# --- restarts -------------------------------------------------------------------------


async def test_cancellation_survives_a_crash_in_the_middle_of_the_clean_up(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The clean-up goes on where it was, is not repeated, and keeps its grace time."""
    ran = []

    @step(backoff=AT_ONCE)
    async def noted(name: str) -> None:
        ran.append(name)

    @workflow
    async def flow(rest: float) -> None:
        try:
            await sleep(1000)
        finally:
            await noted("one")
            await sleep(rest)
            await noted("two")

    async with crashing(journal_path, virtual_clock) as rt:
        runs = [await rt.start(flow, rest) for rest in (10, 500)]
        await quiet(rt)
        for run in runs:
            await run.cancel("why")
        await quiet(rt)
        await virtual_clock.advance(5)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        for _ in range(3):
            await virtual_clock.advance(5)
            await quiet(rt)
        await assert_cancelled(rt.get_run(runs[0].run_id), "why")
        assert await rt.get_run(runs[1].run_id).status() == "running"
        await virtual_clock.advance(10)
        await quiet(rt)
        await assert_cancelled(rt.get_run(runs[1].run_id), "why")
    assert ran == ["one", "one", "two"]
