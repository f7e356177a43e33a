"""Limits of attempts: their time, and how many run at once."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from durable import get_step_metadata, step, workflow
from durable.testing import VirtualClock, settle
from tests.engine.rig import AT_ONCE, EVEN, kinds, opened, quiet, result_of, until


class OutageError(Exception):
    """A step's own error."""


def calling(chosen: Any) -> Any:
    """Return a workflow that calls one step and tells its error's type."""

    @workflow
    async def caller() -> str:
        try:
            return str(await chosen())
        except BaseException as error:
            return type(error).__name__

    return caller


# --- limits of time -------------------------------------------------------------------


async def test_async_attempt_is_cancelled_at_its_timeout(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Each attempt has its own limit; `StepTimeoutError` is retried like any error."""
    ended = []

    @step(timeout="5s", max_retries=1, backoff=EVEN)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(virtual_clock.boot())
            raise

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(calling(slow))
        await quiet_but_running(rt)
        await virtual_clock.advance(4.9)
        assert ended == []
        await virtual_clock.advance(30)
        assert await run.result() == "StepTimeoutError"
    assert ended == [5, 20]


async def quiet_but_running(rt: Any) -> None:
    """Yield until attempts are running."""
    await until(lambda: any(run.attempts for run in rt._engine.scheduler))
    await settle()


def limited(rt: Any) -> int:
    """Count the running attempts whose time is limited."""
    attempts = [each for run in rt._engine.scheduler for each in run.attempts.values()]
    return sum(each.timeout is not None for each in attempts)


async def test_async_attempt_that_resists_cancelling_is_given_up(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A second after its timeout; its late result is not taken."""
    gate = asyncio.Event()
    ended = []

    @step(timeout=5, max_retries=1, backoff=AT_ONCE)
    async def stubborn() -> str:
        attempt = get_step_metadata().attempt
        for _ in range(2 if attempt == 1 else 0):  # resists once: a failing test must end
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        ended.append(attempt)
        return f"attempt {attempt}"

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(calling(stubborn))
        await quiet_but_running(rt)
        await virtual_clock.advance(7)
        assert await run.result() == "attempt 2"
        gate.set()
        await until(lambda: len(ended) == 2)
        await settle()
        assert (await kinds(run)).count("step_completed") == 1


async def test_late_result_is_not_taken_for_that_of_the_attempt_that_runs_now(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """An attempt that was given up answers while the next one is still at work."""
    gates = [asyncio.Event(), asyncio.Event()]
    begun, ended = [], []

    @step(timeout=5, max_retries=1, backoff=AT_ONCE)
    async def stubborn() -> str:
        attempt = get_step_metadata().attempt
        begun.append(attempt)
        try:
            await gates[attempt - 1].wait()
        except asyncio.CancelledError:  # resists once: a failing test must end
            await gates[attempt - 1].wait()
        ended.append(attempt)
        return f"attempt {attempt}"

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(calling(stubborn))
        await quiet_but_running(rt)
        await virtual_clock.advance(7)  # given up, and begun again
        await until(lambda: begun == [1, 2])
        gates[0].set()
        await until(lambda: ended == [1])
        await settle()
        assert "step_completed" not in await kinds(run)
        gates[1].set()
        assert await run.result() == "attempt 2"


async def test_timeout_of_the_steps_own_making_is_not_taken_for_ours(journal_path: Path) -> None:
    """A `TimeoutError` from inside stays what it is."""

    @step(timeout=60, max_retries=0)
    async def impatient() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    assert await result_of(journal_path, calling(impatient)) == "TimeoutError"


async def test_attempt_that_cancels_itself_has_no_timeout_left(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """It has ended before its time, though that comes before it counts as failed."""
    reported: list[Any] = []

    @step(timeout=0.5, max_retries=0)
    async def gives_up() -> None:
        raise asyncio.CancelledError

    async with opened(journal_path, virtual_clock) as rt:
        rt.loop.set_exception_handler(lambda _, context: reported.append(context))
        run = await rt.start(calling(gives_up))
        await quiet_but_running(rt)
        await virtual_clock.advance(0.9)
        assert await run.status() == "running"
        await virtual_clock.advance(0.2)
        assert await run.result() == "StepFailedError"
    assert reported == []


async def test_thread_attempt_is_abandoned_at_its_timeout_and_its_late_result_dropped(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The next attempt does not wait for the stuck thread."""
    gate, late = threading.Event(), threading.Event()

    @step(timeout=5, max_retries=1, backoff=AT_ONCE)
    def slow() -> str:
        attempt = get_step_metadata().attempt
        if attempt == 1:
            gate.wait(10)
            late.set()
        return f"attempt {attempt}"

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(calling(slow))
        await until(lambda: limited(rt))
        await virtual_clock.advance(5)
        assert await run.result() == "attempt 2"
        gate.set()
        await until(late.is_set)
        await settle(50)
        assert (await kinds(run)).count("step_completed") == 1


async def test_process_attempt_is_killed_at_its_timeout(
    journal_path: Path, virtual_clock: VirtualClock, tmp_path: Path
) -> None:
    """The worker is gone, and the next attempt gets another one."""
    mark = tmp_path / "began"

    @step(timeout=5, max_retries=1, backoff=AT_ONCE, executor="process")
    def slow(began: str) -> str:
        import pathlib
        import threading

        if not pathlib.Path(began).exists():
            pathlib.Path(began).touch()
            threading.Event().wait(30)
        return "second"

    @workflow
    async def caller() -> str:
        return await slow(str(mark))

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(caller)
        await until(mark.exists)
        await until(lambda: limited(rt))
        await virtual_clock.advance(5)
        assert await run.result(20) == "second"
        assert (await kinds(run)).count("step_retrying") == 1


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_limit_of_an_attempt_begins_when_it_begins_to_run(
    journal_path: Path, virtual_clock: VirtualClock, tmp_path: Path, executor: Any
) -> None:
    """Waiting for a thread or a process uses none of it up; nor is the queue its beginning."""

    @step(executor=executor)
    def first(began: str, gate: str) -> None:
        import pathlib
        import time

        pathlib.Path(began).touch()
        while not pathlib.Path(gate).exists():
            time.sleep(0.001)

    @step(executor=executor, timeout=5, max_retries=0)
    def second() -> str:
        return "in time"

    @workflow
    async def caller() -> str:
        before = asyncio.create_task(first(str(tmp_path / "began"), str(tmp_path / "gate")))
        await asyncio.sleep(0)
        answer = await second()
        await before
        return answer

    async with opened(journal_path, virtual_clock, threads=1, processes=1) as rt:
        run = await rt.start(caller)
        await until((tmp_path / "began").exists)
        await virtual_clock.advance(100)
        assert limited(rt) == 0
        (tmp_path / "gate").touch()
        assert await run.result(20) == "in time"


async def test_sync_step_that_waited_for_a_thread_started_when_it_got_one(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """As its metadata tell."""
    began, gate = threading.Event(), threading.Event()

    @step
    def first() -> None:
        began.set()
        gate.wait(10)

    @step
    def second() -> float:
        return get_step_metadata().started_at.timestamp()

    @workflow
    async def caller() -> float:
        before = asyncio.create_task(first())
        await asyncio.sleep(0)
        started = await second()
        await before
        return started

    async with opened(journal_path, virtual_clock, threads=1) as rt:
        run, created = await rt.start(caller), virtual_clock.wall_us() / 1e6
        await until(began.is_set)
        await virtual_clock.advance(100)
        gate.set()
        assert await run.result(20) == created + 100


# --- how many at once -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_no_more_attempts_run_at_once_than_the_concurrency_limit(
    journal_path: Path, kind: str
) -> None:
    """Over all runs of the process; those that wait get their turn, failing ones make room."""
    now: set[str] = set()
    most = []

    def enter() -> None:
        now.add(get_step_metadata().step_id)
        most.append(len(now))

    def leave() -> None:
        now.discard(get_step_metadata().step_id)
        if get_step_metadata().attempt == 1:
            raise OutageError

    async def on_loop() -> None:
        enter()
        for _ in range(5):
            await asyncio.sleep(0)
        leave()

    def in_thread() -> None:
        enter()
        leave()

    body: Any = on_loop if kind == "async" else in_thread
    limited = step(name=f"tests.limited_{kind}", concurrency=2, backoff=AT_ONCE)(body)

    @workflow
    async def crowd() -> None:
        await asyncio.gather(*[limited() for _ in range(6)])

    async with opened(journal_path) as rt:
        for run in [await rt.start(crowd) for _ in range(3)]:
            await run.result(10)
    assert len(most) == 36
    assert max(most) == 2 if kind == "async" else max(most) <= 2


async def test_step_waiting_for_its_turn_can_be_given_up(journal_path: Path) -> None:
    """It never runs then, and blocks nobody behind it."""
    gate = asyncio.Event()
    ran = []

    @step(concurrency=1)
    async def limited(name: str) -> str:
        ran.append(name)
        await gate.wait()
        return name

    @workflow
    async def caller() -> list[Any]:
        calls = [asyncio.ensure_future(limited(name)) for name in "abc"]
        await asyncio.sleep(0)
        calls[1].cancel()
        return [str(await calls[0]), str(await calls[2])]

    async with opened(journal_path) as rt:
        run = await rt.start(caller)
        await until(lambda: ran)
        gate.set()
        assert await run.result() == ["a", "c"]
    assert ran == ["a", "c"]


async def test_run_waiting_for_its_turn_is_not_evicted(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A retry behind a concurrency limit keeps its place although nothing of it runs."""
    gate = asyncio.Event()
    ran = []

    @step(concurrency=1, backoff=EVEN)
    async def limited() -> None:
        ran.append(get_step_metadata().attempt)
        if ran[-1] == 1:
            raise OutageError
        await gate.wait()

    @workflow
    async def caller() -> str:
        await limited()
        return "done"

    @workflow
    async def sleeper() -> None:
        await asyncio.sleep(1000)

    async with opened(journal_path, virtual_clock, idle_runs=1) as rt:
        runs = [await rt.start(caller) for _ in range(3)]
        await quiet(rt)
        await virtual_clock.advance(10)  # all three are due; one runs, two wait for it
        for _ in range(3):
            await rt.start(sleeper)
        await settle(50)
        assert all(rt._engine.scheduler.get(run.run_id) for run in runs)
        gate.set()
        assert [await run.result(5) for run in runs] == ["done"] * 3
    assert ran == [1, 1, 1, 2, 2, 2]
