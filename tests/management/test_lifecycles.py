"""Attributes, listings and documents of runs that have more than one end."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from durable import (
    FatalError,
    Run,
    continue_as_new,
    get_workflow_metadata,
    set_attributes,
    sleep,
    start,
    step,
    workflow,
)
from durable.errors import WorkflowRunFailedError
from durable.testing import VirtualClock
from tests.engine.rig import crashing, elapse, opened, quiet, until

WAIT = 30.0


class World:
    """What the step does, and what the bodies saw."""

    broken = True
    seen: list[Any] = []  # noqa: RUF012 - emptied by a fixture
    gate: asyncio.Event


@pytest.fixture(autouse=True)
def _fresh() -> None:
    World.broken = True
    World.seen = []


def now() -> dict[str, str]:
    """What the body sees."""
    return get_workflow_metadata().attributes


@step(max_retries=0)
async def fragile() -> str:
    await set_attributes({"tried": "yes"})
    if World.broken:
        raise FatalError("the world is broken")
    return "fine"


@workflow(name="life.failing")
async def failing() -> dict[str, str]:
    World.seen.append(now())
    await set_attributes({"stage": "begun"})
    try:
        await fragile()
    except FatalError:
        World.seen.append(now())
        await set_attributes({"error": "yes", "stage": "failed", "first": None})
        raise
    World.seen.append(now())
    await sleep(10)
    return now()


@pytest.mark.parametrize("crashes", [False, True])
async def test_retried_run_has_the_attributes_of_the_point_it_went_back_to(
    journal_path: Path, virtual_clock: VirtualClock, crashes: bool
) -> None:
    """What it set on its way to the failure is undone, for the body and for listings."""
    begun = {"first": "one"}
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(failing.options(run_id="f", attributes=begun))
        with pytest.raises(WorkflowRunFailedError):
            await run.result(WAIT)
        assert await run.attributes() == {"error": "yes", "stage": "failed", "tried": "yes"}
        assert World.seen == [begun, begun | {"stage": "begun", "tried": "yes"}]
    World.broken, World.seen = False, []
    async with (crashing if crashes else opened)(journal_path, virtual_clock) as rt:
        await rt.get_run("f").retry()
        await quiet(rt)
        assert World.seen == [begun, begun | {"stage": "begun", "tried": "yes"}]
        wanted = begun | {"stage": "begun", "tried": "yes"}
        assert await rt.get_run("f").attributes() == wanted
        assert await rt.count_runs(attributes={"error": "yes"}) == 0
        assert await rt.count_runs(attributes=wanted) == 1
    async with opened(journal_path, virtual_clock) as rt:
        await elapse(rt, virtual_clock, 20)
        assert await rt.get_run("f").result(WAIT) == wanted
        copy = await rt.import_run(await rt.get_run("f").export(), run_id="copy")
        assert await copy.result(WAIT) == wanted
        assert await copy.events() == await rt.get_run("f").events()


async def test_rerun_begins_with_the_attributes_of_the_start(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """They are part of what the run was given, those that it set are its own."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(failing.options(attributes={"first": "one"}))
        with pytest.raises(WorkflowRunFailedError):
            await run.result(WAIT)
        World.seen.clear()
        again = await run.rerun()
        with pytest.raises(WorkflowRunFailedError):
            await again.result(WAIT)
        assert World.seen[0] == {"first": "one"}


@workflow(name="life.counting")
async def counting(left: int) -> dict[str, str]:
    await set_attributes({"left": str(left), f"round{left}": "done"})
    if left:
        continue_as_new(left - 1)
    return now()


async def test_successor_takes_the_attributes_over(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """As they stood; each run of the chain keeps its own, and all are listed."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(counting.options(run_id="c", attributes={"kind": "chain"}), 2)
        assert await run.result(WAIT) == {
            "kind": "chain", "left": "0", "round0": "done", "round1": "done", "round2": "done",
        }  # fmt: skip
        chain = await rt.list_runs(attributes={"kind": "chain"}, order="oldest")
        assert [info.status for info in chain] == ["continued", "continued", "completed"]
        assert [info.attributes["left"] for info in chain] == ["2", "1", "0"]
        assert {info.root_id for info in chain} == {"c"}
        assert await rt.count_runs(root="c") == 3
        assert await rt.count_runs(status="continued") == 2
        assert await rt.count_runs() == 3
        document = await rt.get_run("c").export()
        await rt.get_run("c").delete()
        copy = await rt.import_run(document)
        assert [event.kind for event in await copy.events()][-1] == "run_continued"
        assert await copy.status() == "continued"


@step
async def slow() -> str:
    World.seen.append("ran")
    await World.gate.wait()
    return "slowly"


@workflow(name="life.pausing")
async def pausing() -> str:
    return await slow()


async def test_outcome_that_came_while_paused_reaches_an_imported_run(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """Recorded, not seen by the body yet when it was exported: the step does not run again."""
    World.gate = asyncio.Event()
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        run = await rt.start(pausing.options(run_id="p"))
        await until(lambda: World.seen)
        await run.pause()
        World.gate.set()
        await until(lambda: has_outcome(run))
        document = await run.export()
        assert document["events"][-1]["kind"] == "step_completed"
    async with opened(tmp_path / "b.db", virtual_clock) as rt:
        copy = await rt.import_run(document)
        assert await copy.status() == "blocked"
        await copy.resume()
        assert await copy.result(WAIT) == "slowly"
        assert World.seen == ["ran"]


async def has_outcome(run: Run[Any]) -> bool:
    """Tell whether the step's outcome is recorded."""
    return (await run.events())[-1].kind == "step_completed"


@workflow(name="life.child")
async def child() -> str:
    await sleep("1h")
    return "grown up"


@workflow(name="life.parent")
async def parent() -> str:
    return await (await start(child.options(run_id="kid"))).result()


async def test_imported_child_is_not_cancelled_for_want_of_a_parent(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """It was bound to a run that is not in this journal, and goes on when it is told to."""
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        await rt.start(parent.options(run_id="parent"))
        await quiet(rt)
        document = await rt.get_run("kid").export()
    for _ in range(2):
        async with opened(tmp_path / "b.db", virtual_clock) as rt:
            copy = await rt.import_run(document)
            await quiet(rt)
            assert await copy.status() == "blocked"
    async with opened(tmp_path / "b.db", virtual_clock) as rt:
        await rt.get_run("kid").resume()
        await elapse(rt, virtual_clock, 3700, 600)
        assert await rt.get_run("kid").result(WAIT) == "grown up"


async def test_run_that_is_retried_is_not_deleted(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """One of the two is refused, whichever came later; the run is never half there."""
    async with opened(journal_path, virtual_clock) as rt:
        for number in range(10):
            World.broken = True
            run = await rt.start(failing.options(run_id=f"f{number}"))
            with pytest.raises(WorkflowRunFailedError):
                await run.result(WAIT)
            World.broken = False
            asked = [run.retry(), run.delete()]
            outcomes = await asyncio.gather(
                *(asked if number % 2 else reversed(asked)), return_exceptions=True
            )
            assert sum(isinstance(each, Exception) for each in outcomes) == 1, outcomes
            await quiet(rt)
            if await run.exists():
                assert await run.status() == "running"
                assert (await run.events())[0].kind == "run_created"


async def test_fork_that_fails_when_nobody_waits_any_more_is_reported_by_nobody(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A client asked for it and went away: what came of it was for that client alone."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, about: reports.append(about))
    async with opened(journal_path, virtual_clock) as rt:
        asking = asyncio.create_task(
            rt._engine.ask("fork", run_id="nobody", new_id="new", at=9, results=[])
        )
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        await quiet(rt)
        gc.collect()
        assert asking.cancelled()
        assert reports == []
