"""What survives the end of a process: outcomes, retries, keys, and the place in the body."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from durable import Backoff, Runtime, StepMetadata, get_step_metadata, sleep, step, workflow
from durable.testing import VirtualClock, settle
from tests.engine.rig import EVEN, crash, crashing, elapse, kinds, make, opened, quiet, until

ENDS = {"closed": opened, "crashed": crashing}
both_ends = pytest.mark.parametrize("end", ENDS)


def ending(
    end: str, path: Path, clock: VirtualClock, **options: Any
) -> AbstractAsyncContextManager[Runtime]:
    """Open a runtime that ends in this way."""
    return ENDS[end](path, clock, **options)


class Log:
    """Attempts of the steps made here, in order."""

    def __init__(self) -> None:
        self.metas: list[StepMetadata] = []
        self.gate = asyncio.Event()

    def note(self) -> StepMetadata:
        """Note the running attempt."""
        self.metas.append(get_step_metadata())
        return self.metas[-1]

    @property
    def attempts(self) -> list[tuple[str, int]]:
        """Name and number of each attempt."""
        return [(meta.name.rpartition(".")[2], meta.attempt) for meta in self.metas]


@both_ends
async def test_completed_steps_do_not_run_again(
    journal_path: Path, virtual_clock: VirtualClock, end: str
) -> None:
    """Their results come from the journal; the body goes on where it was."""
    log = Log()

    @step
    async def first() -> int:
        log.note()
        return 1

    @step
    def second(value: int) -> int:
        log.note()
        return value + 1

    @workflow
    async def flow() -> int:
        value = await second(await first())
        await sleep(100)
        return await second(value)

    async with ending(end, journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await quiet(rt)
    async with ending(end, journal_path, virtual_clock) as rt:
        await quiet(rt)
    async with opened(journal_path, virtual_clock) as rt:
        await virtual_clock.advance(100)
        assert await rt.get_run(run.run_id).result() == 3
    assert log.attempts == [("first", 1), ("second", 1), ("second", 1)]


@both_ends
async def test_count_and_time_of_retries_survive(
    journal_path: Path, virtual_clock: VirtualClock, end: str
) -> None:
    """A restart grants no extra attempts and does not shorten the pause."""
    moments = []

    @step(max_retries=3, backoff=Backoff(initial=100, factor=1, max=100, jitter=0))
    async def failing() -> None:
        moments.append(virtual_clock.boot())
        raise ValueError(get_step_metadata().attempt)

    @workflow
    async def flow() -> str:
        try:
            await failing()
        except ValueError as error:
            return f"last was attempt {error}"
        return ""

    async with ending(end, journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await elapse(rt, virtual_clock, 60)
    for _ in range(3):
        async with ending(end, journal_path, virtual_clock) as rt:
            await quiet(rt)
            await elapse(rt, virtual_clock, 60)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await elapse(rt, virtual_clock, 60)
        assert await rt.get_run(run.run_id).result() == "last was attempt 4"
    assert moments == [0, 100, 200, 300]


@both_ends
async def test_interrupted_attempt_runs_again_with_the_same_key(
    journal_path: Path, virtual_clock: VirtualClock, end: str
) -> None:
    """It is visible in the history and in the attempt's number, and costs no retry."""
    log = Log()

    @step(max_retries=0)
    async def slow() -> str:
        if log.note().attempt < 3:
            await log.gate.wait()
        return "done"

    @workflow
    async def flow() -> str:
        return await slow()

    async with ending(end, journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await until(lambda: len(log.metas) == 1)
    async with ending(end, journal_path, virtual_clock) as rt:
        await until(lambda: len(log.metas) == 2)
    async with opened(journal_path, virtual_clock) as rt:
        run = rt.get_run(run.run_id)
        assert await run.result() == "done"
        notes = [e.name for e in await run.events() if e.kind == "step_retrying"]
    assert [meta.attempt for meta in log.metas] == [1, 2, 3]
    assert len({meta.idempotency_key for meta in log.metas}) == 1
    assert notes == ["parked" if end == "closed" else "interrupted"] * 2


@both_ends
async def test_interruption_between_failures_keeps_their_count(
    journal_path: Path, virtual_clock: VirtualClock, end: str
) -> None:
    """One failure, one interruption, one failure: then `max_retries=1` is used up."""
    log = Log()

    @step(max_retries=1, backoff=EVEN)
    async def unlucky() -> None:
        if log.note().attempt == 2:
            await log.gate.wait()
        raise ValueError(log.metas[-1].attempt)

    @workflow
    async def flow() -> str:
        try:
            await unlucky()
        except ValueError as error:
            return str(error)
        return ""

    async with ending(end, journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await virtual_clock.advance(10)
        await until(lambda: len(log.metas) == 2)
    async with opened(journal_path, virtual_clock) as rt:
        assert await rt.get_run(run.run_id).result() == "3"
    assert [meta.attempt for meta in log.metas] == [1, 2, 3]


@both_ends
async def test_parallel_work_goes_on_where_each_branch_was(
    journal_path: Path, virtual_clock: VirtualClock, end: str
) -> None:
    """Completed branches are not repeated, the one in flight is, the sleeping one sleeps on."""
    log = Log()

    @step
    async def quick(name: str) -> str:
        log.note()
        return name

    @step
    async def slow() -> str:
        if log.note().attempt == 1:
            await log.gate.wait()
        return "slow"

    async def branch() -> str:
        await sleep(50)
        return await quick("late")

    @workflow
    async def flow() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(c) for c in (quick("a"), slow(), branch(), quick("b"))]
        return [task.result() for task in tasks]

    async with ending(end, journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await until(lambda: len(log.metas) == 3)
        await settle(30)
        await virtual_clock.advance(20)
    async with opened(journal_path, virtual_clock) as rt:
        await until(lambda: len(log.metas) == 4)
        await settle(30)
        await virtual_clock.advance(29)
        assert len(log.metas) == 4
        await virtual_clock.advance(1)
        assert await rt.get_run(run.run_id).result() == ["a", "slow", "late", "b"]
    assert sorted(log.attempts) == [("quick", 1)] * 3 + [("slow", 1), ("slow", 2)]


async def test_start_is_durable_before_the_body_has_run(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A crash right after `start` returned loses nothing."""
    log = Log()

    @step
    async def first() -> str:
        log.note()
        return "done"

    @workflow
    async def flow() -> str:
        return await first()

    async with crashing(journal_path, virtual_clock) as rt:
        runs = await rt.start_many(flow, [()] * 5)
    async with opened(journal_path, virtual_clock) as rt:
        assert [await rt.get_run(run.run_id).result() for run in runs] == ["done"] * 5


async def test_result_recorded_at_the_last_moment_of_closing_is_kept(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Attempts that end while closing waits for them do not run again, however many end."""
    ran = []
    gate = asyncio.Event()

    @step
    async def slow() -> None:
        ran.append(1)
        await gate.wait()

    @workflow
    async def flow() -> None:
        await slow()
        virtual_clock.suspend(0.001)  # bodies take their time: one slice holds only a few

    async with opened(journal_path, virtual_clock, drain_seconds=10) as rt:
        runs = await rt.start_many(flow, [()] * 40)
        await until(lambda: len(ran) == 40)
        gate.set()
    async with opened(journal_path, virtual_clock) as rt:
        for run in runs:
            await rt.get_run(run.run_id).result()
    assert len(ran) == 40


async def test_closing_waits_for_attempts_no_longer_than_its_drain_time(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """What is cut off runs again; a stuck thread is left behind."""
    log = Log()
    stuck = threading.Event()

    @step
    def blocking() -> int:
        if log.note().attempt == 1:
            stuck.wait(10)
        return 1

    @step
    async def waiting() -> int:
        if log.note().attempt == 1:
            await log.gate.wait()
        return 2

    @workflow
    async def flow() -> int:
        return sum(await asyncio.gather(blocking(), waiting()))

    async with opened(journal_path, virtual_clock, drain_seconds=0.01) as rt:
        run = await rt.start(flow)
        await until(lambda: len(log.metas) == 2)
    async with opened(journal_path, virtual_clock) as rt:
        assert await rt.get_run(run.run_id).result() == 3
    stuck.set()
    assert sorted(log.attempts) == [("blocking", n) for n in (1, 2)] + [
        ("waiting", n) for n in (1, 2)
    ]


async def test_failed_attempt_recorded_while_closing_keeps_its_retry(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The next attempt begins after the next opening, when it is due."""
    log = Log()

    @step(max_retries=1, backoff=EVEN)
    async def failing() -> str:
        if log.note().attempt == 1:
            await log.gate.wait()
            raise ValueError
        return "second"

    @workflow
    async def flow() -> str:
        return await failing()

    async with opened(journal_path, virtual_clock, drain_seconds=10) as rt:
        run = await rt.start(flow)
        await until(lambda: log.metas)
        log.gate.set()
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await virtual_clock.advance(9)
        assert len(log.metas) == 1
        await virtual_clock.advance(1)
        run = rt.get_run(run.run_id)
        assert await run.result() == "second"
        assert [e.name for e in await run.events() if e.kind == "step_retrying"] == ["failed"]


@both_ends
async def test_journal_of_a_finished_run_answers_after_any_restart(
    journal_path: Path, virtual_clock: VirtualClock, end: str
) -> None:
    """Status, times, events and result are those of before."""

    @workflow
    async def flow() -> dict[str, int]:
        await sleep(3)
        return {"n": 1}

    async with ending(end, journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await virtual_clock.advance(3)
        assert await run.result() == {"n": 1}
        before = [await run.status(), await run.started_at(), await run.completed_at()]
        events = await run.events()
    async with opened(journal_path, virtual_clock) as rt:
        again = rt.get_run(run.run_id)
        assert [
            await again.status(),
            await again.started_at(),
            await again.completed_at(),
        ] == before
        assert await again.events() == events
        assert await again.result() == {"n": 1}
        assert (await kinds(again))[-1] == "run_completed"


TIDIED: list[str] = []


@workflow(name="restarts.tidy")
async def tidy() -> None:
    """Wait an hour, and note when the body is unwound."""
    try:
        await sleep("1h")
    finally:
        TIDIED.append("unwound")


async def test_body_is_not_unwound_whose_run_was_being_read_when_the_process_ended(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """What a load that comes too late has replayed is not left to the garbage collector."""
    async with opened(journal_path, virtual_clock) as rt:
        await rt.start(tidy.options(run_id="read"))
        await quiet(rt)
    for turns in range(4, 9):  # the history comes in the middle of them
        rt = make(journal_path, virtual_clock)
        await rt.open()
        waking = asyncio.ensure_future(rt.get_run("read").wake_up([99]))
        await settle(turns)
        await crash(rt)
        await asyncio.wait([waking])
        waking.exception()
        await settle()
        gc.collect()
        assert TIDIED == [], f"after {turns} turns"
