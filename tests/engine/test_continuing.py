"""Runs that end by going on as a new one, with an empty history."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from durable import (
    RunOrigin,
    continue_as_new,
    get_workflow_metadata,
    sleep,
    start,
    step,
    workflow,
)
from durable.errors import (
    RunStateError,
    SerializationError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WrongContextError,
)
from durable.testing import VirtualClock
from tests.engine.rig import (
    WAIT,
    crash,
    elapse,
    kinds,
    make,
    messages,
    opened,
    quiet,
    result_of,
    until,
)

CALLS: Counter[str] = Counter()
GATES: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def _clean() -> None:
    CALLS.clear()
    GATES.clear()


@step(name="continuing.act", max_retries=0)
async def act(name: str) -> str:
    """Wait for the gate if there is one."""
    CALLS[name] += 1
    if name in GATES:
        await GATES[name].wait()
    return name.upper()


@workflow(name="continuing.count")
async def count(number: int, *, to: int = 3) -> str:
    """One step in each run, until the number is reached."""
    await act(f"n{number}")
    if number < to:
        continue_as_new(number + 1, to=to)
    return f"counted to {number}"


async def test_result_is_that_of_the_last_run_of_the_chain(journal_path: Path) -> None:
    """Whichever run of the chain is asked; each has a short history of its own."""
    async with opened(journal_path) as rt:
        run = await rt.start(count.options(run_id="c", attributes={"who": "me"}), 1)
        assert await run.result(WAIT) == "counted to 3"
        assert CALLS == {"n1": 1, "n2": 1, "n3": 1}
        assert await run.status() == "continued"
        assert (await kinds(run))[-1] == "run_continued"
        second = await run.continued_as()
        assert second is not None
        assert (await run.events())[-1].value == second.run_id
        third = await second.continued_as()
        assert third is not None and await third.continued_as() is None
        assert await second.result(WAIT) == await third.result(WAIT) == "counted to 3"
        assert await run.origin() is None
        assert await third.origin() == RunOrigin("continued", second.run_id)
        assert await third.attributes() == {"who": "me"}
        assert await third.workflow_name() == "continuing.count"
        assert len({run, second, third}) == 3
        assert (await kinds(third))[:2] == ["run_created", "run_started"]


@workflow(name="continuing.meta")
async def meta(left: int, seen: list[Any]) -> list[Any]:
    """Collect what each run of the chain is told about itself."""
    own = get_workflow_metadata()
    seen = [*seen, (own.run_id, own.parent_id, own.root_id, own.first_run_id)]
    if left:
        continue_as_new(left - 1, seen)
    return seen


@workflow(name="continuing.boss")
async def boss() -> Any:
    """Wait for a child that continues."""
    run = await start(meta.options(run_id="kid"), 2, [])
    return await run.result()


async def test_chain_keeps_its_parent_and_root(journal_path: Path) -> None:
    """A parent that awaits its child gets the result of the last one."""
    async with opened(journal_path) as rt:
        seen = await (await rt.start(boss.options(run_id="top"))).result(WAIT)
        assert [facts[1:] for facts in seen] == [("top", "top", "kid")] * 3
        alone = await (await rt.start(meta.options(run_id="own"), 1, [])).result(WAIT)
        assert [facts[1:] for facts in alone] == [(None, "own", "own")] * 2


async def test_chain_goes_on_over_crashes(journal_path: Path) -> None:
    """Wherever it dies; nothing runs twice that was completed."""
    clock = VirtualClock()
    for number in range(1, 6):
        GATES[f"n{number}"] = asyncio.Event()
        rt = make(journal_path, clock)
        await rt.open()
        if number == 1:
            await rt.start(count.options(run_id="c"), 1, to=5)
        await until(lambda name=f"n{number}": CALLS[name])
        if number > 1:
            assert CALLS[f"n{number - 1}"] == 2
        await crash(rt)
        GATES[f"n{number}"].set()
    async with opened(journal_path, clock) as rt:
        assert await rt.get_run("c").result(WAIT) == "counted to 5"


@workflow(name="continuing.tidy")
async def tidy(number: int) -> str:
    """Clean up before going on, with a step; an `except Exception` is no obstacle."""
    try:
        if number:
            continue_as_new(number - 1)
    except Exception:
        return "caught"
    finally:
        await act(f"tidy{number}")
    return "done"


async def test_finally_runs_before_the_run_ends_and_except_exception_does_not_catch_it(
    journal_path: Path,
) -> None:
    """The clean-up is part of the run that ends."""
    async with opened(journal_path) as rt:
        run = await rt.start(tidy, 1)
        assert await run.result(WAIT) == "done"
        assert CALLS == {"tidy1": 1, "tidy0": 1}
        assert (await kinds(run))[2:] == ["step_created", "step_completed", "run_continued"]


@workflow(name="continuing.leftover")
async def leftover(number: int) -> str:
    """Leave something un-awaited, in a group and outside."""
    if number:
        task = asyncio.create_task(act("never"))
        await act("first")
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(3600))
            await act("second")
            continue_as_new(number - 1)
        await task
    return "done"


async def test_what_was_not_awaited_is_cancelled_with_a_warning(
    journal_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As at any other end; from within a TaskGroup it works as well."""
    GATES["never"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(leftover, 1)
        assert await run.result(WAIT) == "done"
        assert "step_cancelled" in await kinds(run)
        assert any("still waiting" in message for message in messages(caplog))


@workflow(name="continuing.task")
async def from_task(number: int) -> str:
    """Continue from a task of the body."""

    async def inner() -> None:
        if number:
            continue_as_new(number - 1)

    await asyncio.gather(inner(), act("other"))
    return "done"


async def test_task_of_the_body_may_continue_the_run(journal_path: Path) -> None:
    """It reaches the body like an exception of the task."""
    assert await result_of(journal_path, from_task, 1) == "done"


async def test_outside_a_body_it_is_refused() -> None:
    """With what to do instead."""
    with pytest.raises(WrongContextError, match=r"await start"):
        continue_as_new(1)


@workflow(name="continuing.wrong")
async def wrong(kind: str) -> str:
    """Continue with arguments that are not possible; the body may deal with that."""
    try:
        if kind == "arity":
            continue_as_new(1, 2, 3)
        if kind == "value":
            continue_as_new(number for number in range(3))
    except (TypeError, SerializationError) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


@pytest.mark.parametrize(
    ("kind", "told"), [("arity", "TypeError: continuing.wrong"), ("value", "SerializationError: ")]
)
async def test_arguments_that_are_not_possible_are_refused_at_the_call(
    journal_path: Path, kind: str, told: str
) -> None:
    """Nothing has ended; the body goes on."""
    async with opened(journal_path) as rt:
        run = await rt.start(wrong, kind)
        assert (await run.result(WAIT)).startswith(told)
        assert await run.status() == "completed"


@workflow(name="continuing.sleeper")
async def sleeper(number: int) -> str:
    """An hour in each run."""
    try:
        await sleep("1h")
    finally:
        await act(f"tidy{number}")
    if number < 10:
        continue_as_new(number + 1)
    return "done"


async def test_cancelling_reaches_the_run_that_is_open(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Through the first handle; waiting for the result tells of it."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper, 1)
        await elapse(rt, virtual_clock, 7300, 3650)
        assert await run.status() == "continued"
        await run.cancel("enough")
        with pytest.raises(WorkflowRunCancelledError, match="enough"):
            await run.result(WAIT)
        assert CALLS == {"tidy1": 1, "tidy2": 1, "tidy3": 1}
        for ask in (run.pause, run.retry):
            with pytest.raises(RunStateError, match="continued"):
                await ask()


@workflow(name="continuing.stubborn")
async def stubborn(number: int) -> str:
    """Try to go on though it was cancelled."""
    try:
        await sleep("1h")
    finally:
        continue_as_new(number + 1)


async def test_run_that_was_asked_to_cancel_does_not_continue(journal_path: Path) -> None:
    """It ends as cancelled, and nothing goes on under another name."""
    async with opened(journal_path) as rt:
        run = await rt.start(stubborn, 1)
        await quiet(rt)
        await run.cancel("enough")
        with pytest.raises(WorkflowRunCancelledError, match="enough"):
            await run.result(WAIT)
        assert await run.continued_as() is None


async def test_timeout_counts_for_the_whole_chain(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The successor has what is left of it."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper.options(timeout="90m"), 1)
        await elapse(rt, virtual_clock, 3610, 3610)
        assert await run.status() == "continued"
        await elapse(rt, virtual_clock, 1900, 1900)
        with pytest.raises(WorkflowRunFailedError) as failed:
            await run.result(WAIT)
        assert isinstance(failed.value.__cause__, TimeoutError)
        assert failed.value.run_id == (await run.continued_as()).run_id


@workflow(name="continuing.parent")
async def parent(number: int) -> str:
    """Start a bound child in the first run; end in the second."""
    if number == 1:
        await start(sleeper.options(run_id="bound", on_parent_close="cancel"), 10)
        continue_as_new(2)
    await act("second")
    return "done"


async def test_bound_children_stay_with_the_chain_until_it_ends(journal_path: Path) -> None:
    """Not the end of the run that started them counts, but that of the last one."""
    clock = VirtualClock()
    GATES["second"] = asyncio.Event()
    rt = make(journal_path, clock)
    await rt.open()
    await rt.start(parent.options(run_id="p"), 1)
    await until(lambda: CALLS["second"])
    assert await rt.get_run("bound").status() == "running"
    await crash(rt)
    async with opened(journal_path, clock) as rt:
        await until(lambda: CALLS["second"] == 2)
        assert await rt.get_run("bound").status() == "running"
        GATES["second"].set()
        run = rt.get_run("p")
        assert await run.result(WAIT) == "done"
        with pytest.raises(WorkflowRunCancelledError, match="parent"):
            await rt.get_run("bound").result(WAIT)


async def test_closure_continues_in_the_process_that_has_it(journal_path: Path) -> None:
    """The very workflow that was started, though another one has got its name since."""
    found: list[str] = []

    def make_flow(label: str) -> Any:
        @workflow(name="continuing.closure")
        async def closure(number: int) -> str:
            found.append(label)
            if number:
                continue_as_new(number - 1)
            return label

        return closure

    async with opened(journal_path) as rt:
        first = make_flow("first")
        make_flow("second")
        assert await (await rt.start(first, 2)).result(WAIT) == "first"
        assert found == ["first"] * 3


async def test_retention_of_each_run_of_the_chain_is_its_own(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The first is deleted in its time; the later ones stay to be asked."""
    async with opened(journal_path, virtual_clock, retention="1h") as rt:
        run = await rt.start(sleeper, 9)
        await elapse(rt, virtual_clock, 3700, 3700)
        later = await run.continued_as()
        await elapse(rt, virtual_clock, 3600, 900)
        assert await later.result(WAIT) == "done"
        await elapse(rt, virtual_clock, 3300, 1100)
        assert not await run.exists()
        assert await later.exists()
