"""What stays in memory, what is read, what is written: bounded, and nothing while idle."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import Runtime, now, sleep, step, workflow
from durable._journal.driver import InlineDriver
from durable._journal.records import RUNNING, RunEvent, RunRow, Write
from durable._replay.events import Event, EventKind
from durable.errors import WorkflowRunNotFoundError
from durable.testing import VirtualClock, settle
from tests.engine.rig import count_rows, elapse, kinds, make, opened, quiet, until


@step(name="tests.memory.one")
async def one(value: int = 1) -> int:
    """Return what came."""
    return value


@workflow
async def sleeper(seconds: float) -> float:
    """Sleep; return the time at which it woke, in seconds."""
    await sleep(seconds)
    return now().timestamp()


# --- statements -----------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 20])
async def test_sequential_steps_cost_one_commit_each(journal_path: Path, steps: int) -> None:
    """The start shares the first one, the end the last one."""

    @workflow
    async def sequence(count: int) -> None:
        for n in range(count):
            await one(n)

    async with opened(journal_path) as rt:
        before = rt.journal.writer.commits
        await (await rt.start(sequence, steps)).result()
        await settle(20)
        assert rt.journal.writer.commits - before == steps + 1


async def test_parallel_steps_share_commits(journal_path: Path) -> None:
    """A hundred at once cost few transactions."""

    @workflow
    async def fan_out() -> int:
        return sum(await asyncio.gather(*[one() for _ in range(100)]))

    async with opened(journal_path) as rt:
        before = rt.journal.writer.commits
        assert await (await rt.start(fan_out)).result() == 100
        assert rt.journal.writer.commits - before < 20


class Counting:
    """A driver factory that counts what is asked of the journal."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, uri: str, read_only: bool) -> InlineDriver:
        """Make a driver."""
        driver = InlineDriver(uri, read_only)
        submit = driver.submit

        def counted(fn: Any, done: Any) -> None:
            self.asked += 1
            submit(fn, done)

        driver.submit = counted  # type: ignore[method-assign]  # the seam is the factory
        return driver


async def test_nothing_is_asked_of_the_journal_while_nothing_is_due(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Neither read nor written, for a year; one timer waits for the next due time."""
    driver = Counting()
    async with opened(journal_path, virtual_clock, driver=driver, retention=None) as rt:
        await (await rt.start(sleeper, 0)).result()
        run = await rt.start(sleeper, 366 * 86400)
        await quiet(rt)
        before = driver.asked
        await elapse(rt, virtual_clock, 365 * 86400, 86400)
        assert driver.asked == before
        assert virtual_clock.pending == 1
        assert await run.status() == "running"


async def test_runtime_without_runs_arms_no_timer(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """An idle runtime costs nothing at all."""
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        assert virtual_clock.pending == 0


# --- memory ---------------------------------------------------------------------------


async def test_idle_runs_leave_memory_beyond_the_cap_and_come_back_when_due(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Least recently used first; nobody notices."""
    async with opened(journal_path, virtual_clock, idle_runs=3) as rt:
        runs = [await rt.start(sleeper, 100 + n) for n in range(10)]
        await quiet(rt)
        hot = [rt._engine.scheduler.get(run.run_id) is not None for run in runs]
        assert hot == [False] * 7 + [True] * 3
        await elapse(rt, virtual_clock, 120, 1)
        woken = [await run.result() for run in runs]
        assert [round(moment - woken[0]) for moment in woken] == list(range(10))


async def test_eviction_does_not_run_finally_blocks(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Nor closing, abandoning, or the collection of the body's frames."""
    seen = []

    @workflow
    async def guarded(seconds: float) -> str:
        try:
            await sleep(seconds)
            return "woken"
        except BaseException as error:
            seen.append(repr(error))
            raise
        finally:
            seen.append("finally")

    async with opened(journal_path, virtual_clock, idle_runs=1) as rt:
        runs = [await rt.start(guarded, 100) for _ in range(4)]
        await quiet(rt)
        gc.collect()
        assert seen == []
    gc.collect()
    assert seen == []
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await elapse(rt, virtual_clock, 100)
        for run in runs:
            assert await rt.get_run(run.run_id).result() == "woken"
    assert seen == ["finally"] * 4


async def test_finished_run_leaves_memory(journal_path: Path) -> None:
    """Nothing holds it any more."""
    async with opened(journal_path) as rt:
        run = await rt.start(sleeper, 1000)
        await quiet(rt)
        hot = rt._engine.scheduler.get(run.run_id)
        seen = weakref.ref(hot.body.loop)
        del hot
        await run.cancel()
        await quiet(rt)
        assert len(rt._engine.scheduler) == 0
        gc.collect()
        assert seen() is None


def _limited(path: Path, clock: VirtualClock, **limits: int) -> Runtime:
    """Return a runtime with other caps on the runs in memory."""
    rt = make(path, clock, idle_runs=limits.pop("idle_runs"))
    rt._options = replace(rt._options, **limits)
    return rt


async def test_runs_beyond_the_cap_wait_as_rows_and_move_up(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """When a run ends, and when idle ones leave memory."""
    gate = asyncio.Event()

    @step
    async def gated() -> None:
        await gate.wait()

    @workflow
    async def flow() -> str:
        await gated()
        await sleep(100)
        return "done"

    async with _limited(journal_path, virtual_clock, idle_runs=2, runs_max=5) as rt:
        runs = await rt.start_many(flow, [()] * 20)
        await settle(50)
        assert len(rt._engine.scheduler) == 5
        assert Counter([str(await run.status()) for run in runs]) == {"running": 5, "pending": 15}
        gate.set()
        await until(lambda: _all_started(runs))
        await elapse(rt, virtual_clock, 200)
        assert [await run.result() for run in runs] == ["done"] * 20


async def _all_started(runs: Any) -> bool:
    return all([await run.status() == "running" for run in runs])


# --- ten thousand ---------------------------------------------------------------------


SLEEPERS = 10_000


async def record_sleepers(rt: Runtime, clock: VirtualClock) -> list[str]:
    """Write the rows of runs that sleep, run n for n + 1 seconds, as their bodies would have."""
    now_us = clock.wall_us()
    payloads = [rt.payloads.encode_call((n + 1,), {}) for n in range(SLEEPERS)]
    rows: list[RunRow] = []
    recorded: list[RunEvent] = []
    for n, payload in enumerate(payloads):
        pk, run_id, due = rt.journal.next_pk(), f"sleeper-{n}", now_us + (n + 1) * 1_000_000
        rows.append(
            RunRow(pk, run_id, sleeper.name, RUNNING, now_us, now_us, None, due, *[None] * 8, 1)
        )
        events = [
            Event(1, EventKind.RUN_CREATED, 0, sleeper.name, now_us, None, payload),
            Event(2, EventKind.RUN_STARTED, 0, "", now_us, None, None),
            Event(3, EventKind.WAIT_CREATED, 0, "sleep", now_us, due, None),
        ]
        recorded.extend(RunEvent(pk, run_id, event) for event in events)
    await rt.journal.perform(Write(done=lambda error: None, runs=rows, events=recorded))
    return [f"sleeper-{n}" for n in range(SLEEPERS)]


@pytest.mark.slow
async def test_ten_thousand_sleeping_runs_are_opened_without_loading_them(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """They cost rows, not memory; each wakes at its time."""
    async with opened(journal_path, virtual_clock) as rt:
        ids = await record_sleepers(rt, virtual_clock)
    driver = Counting()
    async with opened(journal_path, virtual_clock, driver=driver, idle_runs=10) as rt:
        await quiet(rt)
        assert len(rt._engine.scheduler) == 0
        assert driver.asked < 20
        await elapse(rt, virtual_clock, 100, 1)
        assert len(rt._engine.scheduler) <= 10
        assert (await rt.reader.counts())["completed"] == 100
        start = (await rt.get_run(ids[0]).created_at()).timestamp()
        for n in (0, 50, 99):
            assert await rt.get_run(ids[n]).result() == start + n + 1
        assert await rt.get_run(ids[100]).status() == "running"
        virtual_clock.suspend(1000)
        await virtual_clock.advance(1)
        await settle(200)
        assert await (await rt.start(sleeper, 0)).result() > start  # new work is not starved


# --- retention ------------------------------------------------------------------------


async def test_finished_runs_are_deleted_after_their_retention(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The run's own, the workflow's, or the runtime's; unfinished and kept ones stay."""

    @workflow(retention="1h")
    async def short() -> None: ...

    async with opened(journal_path, virtual_clock, retention=timedelta(hours=10)) as rt:
        kept = await rt.start(sleeper.options(retention="forever"), 0)
        mine = await rt.start(sleeper.options(retention=60), 0)
        workflows = await rt.start(short)
        runtimes = await rt.start(sleeper, 0)
        unfinished = await rt.start(sleeper, 1000 * 86400)
        runs = [kept, mine, workflows, runtimes, unfinished]
        await quiet(rt)
        found = []
        for seconds in (180, 3600, 10 * 3600):
            await elapse(rt, virtual_clock, seconds, 60)
            found.append([await run.exists() for run in runs])
        assert found == [
            [True, False, True, True, True],
            [True, False, False, True, True],
            [True, False, False, False, True],
        ]
        with pytest.raises(WorkflowRunNotFoundError):
            await mine.result()


async def test_what_expired_while_nothing_ran_is_deleted_at_the_next_opening(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """In batches, and an id may be used again afterwards."""
    chosen = sleeper.options(run_id="again", retention="1d")
    async with opened(journal_path, virtual_clock) as rt:
        await (await rt.start(chosen, 0)).result()
        for run in await rt.start_many(sleeper.options(retention="1d"), [(0,)] * 450):
            await run.result()
    virtual_clock.suspend(2 * 86400)
    async with opened(journal_path, virtual_clock) as rt:
        await until(lambda: _is_empty(rt))
        run = await rt.start(chosen, 0.5)
        await quiet(rt)
        await virtual_clock.advance(1)
        assert (await kinds(run))[-1] == "run_completed"


async def _is_empty(rt: Runtime) -> bool:
    return await count_rows(rt) == 0
