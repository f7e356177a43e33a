"""Runs that cannot go on are parked with the reason; mended, they go on where they were."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable import Encryption, Run, Runtime, sleep, step, workflow
from durable._authoring import registry
from durable.errors import JournalCorruptError, WorkflowRunBlockedError
from durable.testing import VirtualClock
from tests.engine.rig import (
    WAIT,
    crashing,
    elapse,
    kinds,
    opened,
    quiet,
    until,
    without_workflow,
)


async def why_blocked(run: Run[Any]) -> WorkflowRunBlockedError:
    """Wait until a run is parked; return the error that tells why."""
    with pytest.raises(WorkflowRunBlockedError) as blocked:
        await run.result(WAIT)
    status = await run.status()
    assert status == "blocked"
    assert status.reason == blocked.value.reason
    return blocked.value


@step(name="tests.blocked.note")
async def note(text: str) -> str:
    """Return what came."""
    return text


def flow_of(body: Callable[..., Any]) -> Any:
    """Return a workflow under the one name of these tests; a new body replaces the last one."""
    body.__qualname__ = "flow"
    return workflow(name="tests.blocked.flow")(body)


async def leave_behind(path: Path, clock: VirtualClock, body: Callable[..., Any]) -> str:
    """Start a run, let it go as far as it comes, and end the process."""
    async with crashing(path, clock) as rt:
        run = await rt.start(flow_of(body))
        await quiet(rt)
    return run.run_id


@workflow
async def bystander() -> str:
    """A run that must not be disturbed."""
    await sleep(10)
    return await note("undisturbed")


# --- missing code ---------------------------------------------------------------------


async def test_run_of_an_unknown_workflow_waits_for_it_and_goes_on_by_itself(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """As soon as the workflow is defined, on any thread; others are not held up."""

    @workflow(name="tests.late")
    async def late() -> str:
        await sleep(5)
        return await note("here")

    async with crashing(journal_path, virtual_clock) as rt:
        run, other = await rt.start(late), await rt.start(bystander)
        await quiet(rt)
    virtual_clock.suspend(20)
    with without_workflow(late):
        async with opened(journal_path, virtual_clock) as rt:
            await quiet(rt)
            await virtual_clock.advance(0)
            error = await why_blocked(rt.get_run(run.run_id))
            assert error.kind == "missing_code"
            assert "tests.late" in error.reason
            assert await rt.get_run(other.run_id).result() == "undisturbed"
            await asyncio.to_thread(registry.register_workflow, late)
            await until(lambda: _moved_on(rt, run.run_id, virtual_clock))
            assert await rt.get_run(run.run_id).result() == "here"


async def _moved_on(rt: Runtime, run_id: str, clock: VirtualClock) -> bool:
    await clock.advance(0)
    return await rt.get_run(run_id).status() == "completed"


async def test_run_blocked_in_one_process_goes_on_in_a_later_one_that_knows_the_code(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Opening is enough."""
    run_id = await leave_behind(journal_path, virtual_clock, _sleep_and_note)
    virtual_clock.suspend(20)
    with without_workflow(flow_of(_sleep_and_note)):
        async with opened(journal_path, virtual_clock) as rt:
            await quiet(rt)
            assert (await why_blocked(rt.get_run(run_id))).kind == "missing_code"
    async with opened(journal_path, virtual_clock) as rt:
        await until(lambda: _moved_on(rt, run_id, virtual_clock))
        assert await rt.get_run(run_id).result() == "done"


async def test_who_waits_for_a_run_whose_key_is_back_is_not_told_that_it_was_missing(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Also if they ask at once, before the run was brought back by the opening."""
    encryption = Encryption(bytes(range(32)))
    async with crashing(journal_path, virtual_clock, encryption=encryption) as rt:
        flow = flow_of(_sleep_and_note)
        ids = [(await rt.start(flow)).run_id for _ in range(6)]  # not all are back at once
        await quiet(rt)
    virtual_clock.suspend(20)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await virtual_clock.advance(0)
        for run_id in ids:
            assert (await why_blocked(rt.get_run(run_id))).kind == "sealed"
    async with opened(journal_path, virtual_clock, encryption=encryption) as rt:
        waiting = [asyncio.create_task(rt.get_run(run_id).result()) for run_id in ids]
        for run_id in ids:
            await until(lambda run_id=run_id: _moved_on(rt, run_id, virtual_clock))
        assert await asyncio.gather(*waiting) == ["done"] * len(ids)


async def _sleep_and_note() -> str:
    await sleep(10)
    return await note("done")


async def test_missing_step_is_named_and_the_run_goes_on_once_it_is_defined(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The body has lost a step that its history knows."""

    @step(name="tests.blocked.lost")
    async def lost() -> str:
        return "lost and found"

    async def before() -> str:
        found = await lost()
        await sleep(10)
        return found

    async def without() -> str:
        await sleep(10)
        return "without"

    run_id = await leave_behind(journal_path, virtual_clock, before)
    registry._steps.pop("tests.blocked.lost")
    flow_of(without)
    virtual_clock.suspend(20)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        error = await why_blocked(rt.get_run(run_id))
        assert (error.kind, "tests.blocked.lost" in error.reason) == ("missing_code", True)
        flow_of(before)
        registry.register_step(lost)
        await until(lambda: _moved_on(rt, run_id, virtual_clock))
        assert await rt.get_run(run_id).result() == "lost and found"


# --- divergence -----------------------------------------------------------------------


async def _two_notes() -> str:
    one = await note("one")
    await sleep(10)
    return one + await note("two")


async def _swapped() -> str:
    await sleep(10)
    return await note("one") + await note("two")


async def _renamed() -> str:
    other = step(name="tests.blocked.other")(_other)
    one = await other("one")
    await sleep(10)
    return one


async def _other(text: str) -> str:
    return text


async def _shorter() -> str:
    return "short"


async def _longer() -> str:
    one = await note("one")
    two = await note("extra")
    await sleep(10)
    return one + two


async def _failing_early() -> str:
    raise KeyError("early")


@pytest.mark.parametrize(
    ("changed", "got"),
    [
        (_swapped, "wait_created 'sleep'"),
        (_renamed, "step_created 'tests.blocked.other'"),
        (_shorter, "came to its end"),
        (_longer, "step_created 'tests.blocked.note'"),
        (_failing_early, "came to its end"),
    ],
)
async def test_changed_body_is_parked_with_a_diff_and_goes_on_when_it_is_mended(
    journal_path: Path, virtual_clock: VirtualClock, changed: Any, got: str
) -> None:
    """Position, what was recorded, what the code did and where; nothing is lost."""
    run_id = await leave_behind(journal_path, virtual_clock, _two_notes)
    flow_of(changed)
    virtual_clock.suspend(20)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        run = rt.get_run(run_id)
        error = await why_blocked(run)
        assert error.kind == "divergence"
        assert "event " in error.reason
        assert got in error.reason
        assert "test_blocked.py:" in error.reason
        before = await run.events()
        await run.resume()  # not mended yet: it is parked again
        assert (await why_blocked(run)).kind == "divergence"
        assert await run.events() == before
        flow_of(_two_notes)
        await run.resume()
        await until(lambda: _moved_on(rt, run_id, virtual_clock))
        assert await run.result() == "onetwo"
        assert (await kinds(run)).count("step_created") == 2


async def test_resuming_what_is_not_blocked_changes_nothing(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Running or finished; and many resumes at once are one."""
    run_id = await leave_behind(journal_path, virtual_clock, _two_notes)
    flow_of(_swapped)
    virtual_clock.suspend(20)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        run = rt.get_run(run_id)
        await why_blocked(run)
        flow_of(_two_notes)
        await asyncio.gather(*[run.resume() for _ in range(5)])
        await until(lambda: _moved_on(rt, run_id, virtual_clock))
        await run.resume()
        assert await run.result() == "onetwo"
        assert (await kinds(run)).count("run_completed") == 1


async def test_parameters_that_do_not_fit_any_more_park_the_run_and_no_other(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A running one and one that has not begun: both go on when the parameters are back."""

    async def one_parameter(text: str) -> str:
        await sleep(10)
        return text

    async def none() -> None: ...

    async with crashing(journal_path, virtual_clock) as rt:
        flow = flow_of(one_parameter)
        runs = [await rt.start(flow, "x"), await rt.start(flow.options(delay=5), "x")]
        other = await rt.start(bystander)
        await quiet(rt)
    flow_of(none)
    virtual_clock.suspend(20)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await virtual_clock.advance(0)
        again = [rt.get_run(run.run_id) for run in runs]
        for run in again:
            error = await why_blocked(run)
            assert error.kind == "divergence"
            assert "too many positional arguments" in error.reason
        assert await rt.get_run(other.run_id).result() == "undisturbed"
        flow_of(one_parameter)
        for run in again:
            await run.resume()
        await elapse(rt, virtual_clock, 20)
        assert [await run.result() for run in again] == ["x", "x"]


# --- data -----------------------------------------------------------------------------


class Moved:
    """A class that will not be found any more."""


async def test_value_whose_class_is_gone_parks_the_run_until_it_is_back(
    journal_path: Path, virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an argument of the run or as a step's result; the bytes are kept."""

    @step
    async def give() -> Moved:
        return Moved()

    @workflow
    async def by_result() -> str:
        value = await give()
        await sleep(5)
        return type(value).__name__

    @workflow
    async def by_argument(value: Moved) -> str:
        await sleep(5)
        return type(value).__name__

    async with crashing(journal_path, virtual_clock) as rt:
        runs = [await rt.start(by_result), await rt.start(by_argument, Moved())]
        other = await rt.start(bystander)
        await quiet(rt)
    virtual_clock.suspend(20)
    async with opened(journal_path, virtual_clock) as rt:
        with monkeypatch.context() as patch:
            patch.delattr(f"{__name__}.Moved")
            await quiet(rt)
            await virtual_clock.advance(0)
            for run in runs:
                error = await why_blocked(rt.get_run(run.run_id))
                assert (error.kind, "Moved" in error.reason) == ("payload", True)
            assert await rt.get_run(other.run_id).result() == "undisturbed"
        for run in runs:
            await rt.get_run(run.run_id).resume()
        await elapse(rt, virtual_clock, 10)
        assert [await rt.get_run(run.run_id).result() for run in runs] == ["Moved"] * 2


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE events SET payload = x'00' WHERE run = 1 AND kind = 12",
        "UPDATE events SET name = 'else' WHERE run = 1 AND kind = 10",
        "DELETE FROM events WHERE run = 1 AND seq = 3",
    ],
)
async def test_damaged_row_parks_its_run_and_no_other(
    journal_path: Path, virtual_clock: VirtualClock, damage: str
) -> None:
    """The value is not used; the reason names the run and the row."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(flow_of(_two_notes))
        other = await rt.start(bystander)
        await quiet(rt)
    connection = sqlite3.connect(journal_path)
    with connection:
        connection.execute(damage)
    connection.close()
    virtual_clock.suspend(20)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await virtual_clock.advance(0)
        error = await why_blocked(rt.get_run(run.run_id))
        assert error.kind == "corrupt"
        assert run.run_id in error.reason
        assert await rt.get_run(other.run_id).result() == "undisturbed"
        with pytest.raises(JournalCorruptError):
            await rt.get_run(run.run_id).events()
