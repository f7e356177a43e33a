"""Values that name a workflow which is not registered yet: the run waits for it by name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import Run, Runtime, sleep, start, start_many, step, workflow
from durable._authoring import registry
from durable.errors import WorkflowNotRegisteredError, WorkflowRunBlockedError
from durable.testing import VirtualClock
from tests.engine.rig import WAIT, crashing, kinds, opened, quiet, until, without_workflow

LATE = "tests.unregistered.late"


@workflow(name=LATE)
async def late(text: str) -> str:
    """What is not known for a while."""
    return text.upper()


async def why_blocked(run: Run[Any]) -> WorkflowRunBlockedError:
    """Wait until a run is parked; return the error that tells why."""
    with pytest.raises(WorkflowRunBlockedError) as blocked:
        await run.result(WAIT)
    return blocked.value


async def goes_on(rt: Runtime, run: Run[Any], clock: VirtualClock | None = None) -> Any:
    """The run is parked for want of `late` alone, and ends by itself once that is defined."""
    await quiet(rt)
    error = await why_blocked(run)
    assert error.kind == "missing_code"
    assert f"no workflow named '{LATE}' is registered" in error.reason
    await asyncio.to_thread(registry.register_workflow, late)
    await until(lambda: _is_completed(run, clock))
    return await run.result()


async def _is_completed(run: Run[Any], clock: VirtualClock | None = None) -> bool:
    if clock is not None:
        await clock.advance(0)
    return await run.status() == "completed"


@workflow(name="tests.unregistered.by_name")
async def by_name() -> str:
    """Start a child that is known by its name alone."""
    child = await start(LATE, "named")
    return str(await child.result())


@workflow(name="tests.unregistered.several")
async def several() -> list[str]:
    """Start children by name, all or none of them."""
    return [await run.result() for run in await start_many(LATE, [("a",), ("b",)])]


@pytest.mark.parametrize(("flow", "result"), [(by_name, "NAMED"), (several, ["A", "B"])])
async def test_body_that_starts_a_workflow_by_name_waits_until_it_is_defined(
    journal_path: Path, flow: Any, result: object
) -> None:
    """The start is not refused: the module may be imported later than the runtime is opened."""
    with without_workflow(late):
        async with opened(journal_path) as rt:
            run = await rt.start(flow)
            assert await goes_on(rt, run) == result
            shown = await kinds(run)
            assert "step_failed" not in shown
            assert shown.count("run_completed") == 1


async def test_run_that_was_to_start_an_unknown_workflow_goes_on_in_a_later_process(
    journal_path: Path,
) -> None:
    """Opening is enough, where that is known."""
    with without_workflow(late):
        async with opened(journal_path) as rt:
            run = await rt.start(by_name)
            assert (await why_blocked(run)).kind == "missing_code"
    async with opened(journal_path) as rt:
        await until(lambda: _is_completed(rt.get_run(run.run_id)))
        assert await rt.get_run(run.run_id).result() == "NAMED"


async def test_start_outside_a_body_refuses_an_unknown_name(journal_path: Path) -> None:
    """In a step, too: there is nothing yet that could wait."""

    @step(max_retries=0)
    async def starts() -> str:
        with pytest.raises(WorkflowNotRegisteredError, match=LATE) as refused:
            await start(LATE, "x")
        return refused.value.name

    @workflow
    async def asks() -> str:
        return await starts()

    with without_workflow(late):
        async with opened(journal_path) as rt:
            assert await (await rt.start(asks)).result(WAIT) == LATE
            with pytest.raises(WorkflowNotRegisteredError, match=LATE):
                await rt.start(LATE, "x")


# --- workflows in recorded values: they are stored by name ----------------------------------


async def _gated_start() -> str:
    return str(await (await start(late, "by function")).result())


async def _kept() -> str:
    kept = await give()
    await sleep(3600)
    return str(await kept("kept"))


async def _lost_attempt() -> str:
    return await use(late)


async def _argument(given: Any) -> str:
    await sleep(3600)
    return str(await given("given"))


@step(name="tests.unregistered.give")
async def give() -> Any:
    """Return a workflow."""
    return late


GATES: dict[str, asyncio.Event] = {}


@step(name="tests.unregistered.use")
async def use(given: Any) -> str:
    """Take a workflow, and wait for the gate if there is one."""
    if "use" in GATES:
        await GATES["use"].wait()
    return f"used {given.name}"


@pytest.mark.parametrize(
    ("body", "args", "result"),
    [
        (_kept, (), "KEPT"),
        (_lost_attempt, (), f"used {LATE}"),
        (_argument, (late,), "GIVEN"),
    ],
)
async def test_recorded_value_that_names_an_unknown_workflow_waits_until_it_is_defined(
    journal_path: Path, virtual_clock: VirtualClock, body: Any, args: Any, result: object
) -> None:
    """As a step's result or argument, or the run's own, after a restart."""
    flow = workflow(name=f"tests.unregistered.{body.__name__}")(body)
    GATES["use"] = asyncio.Event()
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(flow, *args)
        await until(lambda: _has_begun(run))
    GATES.clear()
    virtual_clock.suspend(3700)
    with without_workflow(late):
        async with opened(journal_path, virtual_clock) as rt:
            await virtual_clock.advance(0)
            assert await goes_on(rt, rt.get_run(run.run_id), virtual_clock) == result


async def _has_begun(run: Run[Any]) -> bool:
    return bool({"wait_created", "step_created"} & set(await kinds(run)))


async def test_body_that_starts_a_function_waits_until_its_name_is_defined(
    journal_path: Path,
) -> None:
    """The body holds the function; what is recorded, and read by the start, holds its name."""
    flow = workflow(name="tests.unregistered.gated")(_gated_start)
    with without_workflow(late):
        async with opened(journal_path) as rt:
            assert await goes_on(rt, await rt.start(flow)) == "BY FUNCTION"
