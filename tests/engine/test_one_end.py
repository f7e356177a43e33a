"""A run has one end: cancelling it when it has ended, is ending, or is parked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import Run, Runtime, sleep, step, workflow
from durable._journal.driver import InlineDriver
from durable.errors import (
    WorkflowRunBlockedError,
    WorkflowRunCancelledError,
    WorkflowRunNotFoundError,
)
from durable.testing import VirtualClock, settle
from tests.engine.rig import ENDS, assert_cancelled, kinds, opened, quiet, without_workflow


@workflow
async def sleeper() -> str:
    """Sleep for long."""
    await sleep(1000)
    return "awake"


@pytest.mark.parametrize("turns", range(8))
async def test_cancel_and_completion_race_to_one_end(journal_path: Path, turns: int) -> None:
    """Whoever comes first; the loser changes nothing."""
    gate = asyncio.Event()

    @step
    async def gated() -> str:
        await gate.wait()
        return "value"

    @workflow
    async def flow() -> str:
        return await gated()

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await settle(20)
        gate.set()
        await settle(turns)
        await asyncio.gather(run.cancel(), run.cancel())
        await _assert_one_end(rt, run)


async def _assert_one_end(rt: Runtime, run: Run[Any]) -> None:
    try:
        await run.result(5)
    except WorkflowRunCancelledError:
        pass
    await quiet(rt)
    shown = await kinds(run)
    assert len([kind for kind in shown if kind in ENDS]) == 1
    assert shown[-1] in ENDS
    assert f"run_{await run.status()}" == shown[-1]


async def test_cancelling_a_finished_run_changes_nothing(journal_path: Path) -> None:
    """In memory or long gone from it."""

    @workflow
    async def flow() -> int:
        return 1

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        await run.result()
        before = await run.events()
        await run.cancel("late")
        assert await run.events() == before
        assert await run.result() == 1


async def test_cancelling_an_unknown_run_says_so(journal_path: Path) -> None:
    """The id is named."""
    async with opened(journal_path) as rt:
        with pytest.raises(WorkflowRunNotFoundError, match="nobody"):
            await rt.get_run("nobody").cancel()


async def test_blocked_run_is_cancelled_without_its_code(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Even if asked twice at the same moment, and together with a resume."""
    async with opened(journal_path, virtual_clock) as rt:
        runs = [await rt.start(sleeper) for _ in range(2)]
        await quiet(rt)
    with without_workflow(sleeper):
        async with opened(journal_path, virtual_clock) as rt:
            virtual_clock.suspend(2000)
            await virtual_clock.advance(1)
            await quiet(rt)
            first, second = [rt.get_run(run.run_id) for run in runs]
            for run in (first, second):
                with pytest.raises(WorkflowRunBlockedError):
                    await run.result()
            await asyncio.gather(first.cancel("a"), first.cancel("b"), first.resume())
            await assert_cancelled(first, "a")
            await second.cancel()
            await assert_cancelled(second)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        assert await rt.get_run(runs[0].run_id).status() == "cancelled"


@pytest.mark.parametrize("delay", [None, 100])
async def test_cancels_that_come_while_the_end_is_being_recorded_change_nothing(
    journal_path: Path, delay: int | None
) -> None:
    """They return once that end is durable."""
    async with opened(journal_path) as rt:
        run = await rt.start(sleeper.options(delay=delay))
        await quiet(rt)
        seen = await asyncio.gather(*[_cancel(run, name) for name in "abc"])
        assert seen == ["cancelled"] * 3
        await assert_cancelled(run, "a")


async def _cancel(run: Run[Any], reason: str) -> str:
    await run.cancel(reason)
    return await run.status()


class HeldDriver(InlineDriver):
    """A disk that writes nothing while it is held."""

    held: list[tuple[Any, Any]] | None = None

    def submit(self, fn: Any, done: Any) -> None:
        """Perform a write, or keep it."""
        if HeldDriver.held is not None:
            HeldDriver.held.append((fn, done))
        else:
            super().submit(fn, done)


async def test_of_many_cancels_at_once_none_is_acknowledged_before_the_end_is_durable(
    journal_path: Path,
) -> None:
    """The second one ends the run; the others wait for that, though nothing is left to record."""
    writers = []

    def driver(uri: str, read_only: bool) -> InlineDriver:
        kind = InlineDriver if read_only else HeldDriver
        writers.append(kind(uri, read_only))
        return writers[-1]

    async with opened(journal_path, driver=driver) as rt:
        run = await rt.start(sleeper)
        await quiet(rt)
        HeldDriver.held = []
        cancels = [asyncio.ensure_future(run.cancel()) for _ in range(4)]
        await settle(200)
        acknowledged = [each.done() for each in cancels]
        kept, HeldDriver.held = HeldDriver.held, None
        for fn, done in kept:
            next(each for each in writers if type(each) is HeldDriver).submit(fn, done)
        await asyncio.gather(*cancels)
        assert await run.status() == "cancelled"
    assert acknowledged == [False] * 4
