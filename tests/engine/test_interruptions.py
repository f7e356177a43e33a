"""What counts as an interruption of a step: an attempt that had begun when the process died."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import Run, get_step_metadata, sleep, step, workflow
from durable._surface.bystander import commanding
from durable.testing import VirtualClock
from tests.engine.rig import (
    AT_ONCE,
    EVEN,
    crashing,
    elapse,
    kinds,
    opened,
    quiet,
    until,
    without_workflow,
)

attempts: list[tuple[str, int]] = []
stuck: list[bool] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    attempts.clear()
    stuck[:] = [False]


@step(name="interruptions.flaky", backoff=EVEN)
async def flaky(fails: int = 1) -> int:
    """Fail the first times; hang while the test says so; then tell the attempt's number."""
    number = get_step_metadata().attempt
    attempts.append(("flaky", number))
    if sum(name == "flaky" for name, _ in attempts) <= fails:
        raise OSError("not yet")
    if stuck[0]:
        await asyncio.Event().wait()
    return number


@step(name="interruptions.slow")
async def slow() -> int:
    """Hang in the first attempt."""
    number = get_step_metadata().attempt
    attempts.append(("slow", number))
    if number == 1:
        await asyncio.Event().wait()
    return number


@workflow(name="interruptions.alone")
async def alone() -> int:
    """One step that is tried again after ten seconds."""
    return await flaky()


@workflow(name="interruptions.beside")
async def beside() -> list[int]:
    """The same beside a step that is running all the time."""
    return list(await asyncio.gather(flaky(), slow()))


@workflow(name="interruptions.at_once")
async def at_once() -> int:
    """A step that is tried again at once."""
    return await flaky.options(backoff=AT_ONCE)()


ENDINGS = {"crash": crashing, "close": opened}


async def causes(run: Run[Any], name: str) -> list[str]:
    """Return why attempts of a step ended without its outcome."""
    events = await run.events()
    (created,) = [e.seq for e in events if (e.kind, e.name) == ("step_created", name)]
    return [e.name for e in events if (e.kind, e.ref) == ("step_retrying", created)]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("flow", [alone, beside])
async def test_retry_that_fell_due_while_nothing_ran_was_not_interrupted(
    journal_path: Path, virtual_clock: VirtualClock, flow: Any, ending: str
) -> None:
    """It gets the number after that of the failure, whatever else was running."""
    async with ENDINGS[ending](journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await until(lambda: ("flaky", 1) in attempts and (flow is alone or len(attempts) == 2))
        await until(lambda: _has_failed(run))
    virtual_clock.suspend(60)
    async with opened(journal_path, virtual_clock) as rt:
        run = rt.get_run(run.run_id)
        await virtual_clock.advance(0)
        await until(lambda: ("flaky", 2) in attempts)
        assert await run.result(5) == (2 if flow is alone else [2, 2])
        assert await causes(run, "interruptions.flaky") == ["failed"]
        if flow is beside:
            cause = {"crash": "interrupted", "close": "parked"}[ending]
            assert await causes(run, "interruptions.slow") == [cause]


async def _has_failed(run: Run[Any]) -> bool:
    return "step_retrying" in await kinds(run)


@pytest.mark.parametrize("flow", [alone, beside, at_once])
async def test_retry_that_was_running_when_the_process_died_was_interrupted(
    journal_path: Path, virtual_clock: VirtualClock, flow: Any
) -> None:
    """Its number is not given again, so that a step which kills the process is found."""
    stuck[0] = True
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await until(lambda: _has_failed(run))
        await virtual_clock.advance(10)
        await until(lambda: ("flaky", 2) in attempts)
    stuck[0] = False
    async with opened(journal_path, virtual_clock) as rt:
        run = rt.get_run(run.run_id)
        assert await run.result(5) == ([3, 2] if flow is beside else 3)
        assert await causes(run, "interruptions.flaky") == ["failed", "interrupted"]
        # What begins at once needs no record of its own.
        assert ("step_started" in await kinds(run)) is (flow is not at_once)


async def test_beginning_of_a_delayed_attempt_is_on_record(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """At the time when it begins; also of a run that has left memory meanwhile."""

    @workflow
    async def other() -> None:
        await sleep(1000)

    async with opened(journal_path, virtual_clock, idle_runs=1) as rt:
        run = await rt.start(alone)
        await quiet(rt)
        await rt.start(other)
        await quiet(rt)
        assert rt._engine.scheduler.get(run.run_id) is None
        await elapse(rt, virtual_clock, 11, 1)
        assert await run.result(5) == 2
        shown = [e for e in await run.events() if e.ref is not None]
        assert [e.kind for e in shown] == ["step_retrying", "step_started", "step_completed"]
        assert shown[0].due == shown[1].at


async def test_process_that_dies_after_a_resume_has_interrupted_nothing(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """What was cut off when the run was parked stays so, though the run was not loaded yet."""

    @workflow(name="interruptions.missing")
    async def missing() -> int:
        return await slow()

    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(missing)
        await until(lambda: attempts)
    with without_workflow(missing):
        async with crashing(journal_path, virtual_clock) as rt:
            await quiet(rt)
            assert await rt.get_run(run.run_id).status() == "blocked"
    async with commanding(journal_path) as port:
        await port.resume(run.run_id)
    async with opened(journal_path, virtual_clock) as rt:
        run = rt.get_run(run.run_id)
        assert await run.result(5) == 2
        assert await causes(run, "interruptions.slow") == ["parked"]


async def test_resumed_run_is_due_again_when_its_code_wants_it(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """And not at every opening until then."""

    @workflow(name="interruptions.sleeper")
    async def sleeper() -> str:
        await sleep(1000)
        return "awake"

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper)
        await quiet(rt)
    with without_workflow(sleeper):
        async with opened(journal_path, virtual_clock) as rt:
            assert await rt.get_run(run.run_id).wake_up() == 0
            assert await rt.get_run(run.run_id).status() == "blocked"
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        assert await rt.get_run(run.run_id).status() == "running"
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        assert rt._engine.scheduler.get(run.run_id) is None
        await elapse(rt, virtual_clock, 1000, 500)
        assert await rt.get_run(run.run_id).result(5) == "awake"


@step(name="interruptions.narrow", concurrency=1)
async def narrow(number: int) -> int:
    """Hang, one at a time, while the test says so."""
    attempts.append((f"narrow {number}", get_step_metadata().attempt))
    if stuck[0]:
        await asyncio.Event().wait()
    return number


@workflow(name="interruptions.queue")
async def queue() -> list[int]:
    """Two steps of which only one may run."""
    return await asyncio.gather(narrow(1), narrow(2))


async def test_step_that_waited_for_its_turn_is_not_counted_as_interrupted(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Its code was not running, so that it cannot have killed the process."""
    stuck[0] = True
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(queue)
        await until(lambda: attempts)
    stuck[0] = False
    async with opened(journal_path, virtual_clock) as rt:
        assert await rt.get_run(run.run_id).result(5) == [1, 2]
        events = await rt.get_run(run.run_id).events()
        assert [e.name for e in events if e.kind == "step_retrying"] == ["interrupted", "parked"]
