"""Runs that start and await other runs, and batches of them."""

from __future__ import annotations

import asyncio
import gc
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from durable import Run, continue_as_new, receive, sleep, start, start_many, step, workflow
from durable._authoring import registry
from durable.errors import RunConflictError
from durable.testing import VirtualClock
from tests.engine.rig import crashing, make, opened, quiet, until, without_workflow


@step
async def echo(value: Any) -> Any:
    """Return what it is given."""
    return value


@workflow
async def child(value: Any) -> Any:
    """One step."""
    return await echo(value)


@workflow
async def parent(value: Any) -> Any:
    """Start a child and wait for it."""
    run = await start(child, value)
    return await run.result()


@workflow
async def parent_by_name(name: str) -> Any:
    """Start a child by its name and wait for it."""
    run: Run[Any] = await start(name)
    return await run.result()


async def test_parents_that_wait_leave_room_for_their_children(journal_path: Path) -> None:
    """More waiting parents than runs are allowed in memory: all of them finish."""
    rt = make(journal_path)
    rt._options = replace(rt._options, runs_max=10)
    async with rt:
        runs = await rt.start_many(parent, [(n,) for n in range(40)])
        assert [await run.result(timeout=10) for run in runs] == list(range(40))


@workflow(name="families.waits_for_word")
async def waits_for_word(left: int = 2) -> Any:
    """Return what is sent, as the last run of a chain."""
    word = await receive("word") if left == 2 else left
    if left:
        continue_as_new(left - 1)
    return word


@workflow(name="families.starts_two")
async def starts_two(name: str) -> list[Any]:
    """Wait for two children at once."""
    names = [f"{name}-{number}" for number in range(2)]
    runs = [await start(waits_for_word.options(run_id=each)) for each in names]
    return list(await asyncio.gather(*(run.result() for run in runs)))


async def test_waiting_parents_do_not_drive_each_other_out_of_memory(journal_path: Path) -> None:
    """One that is brought back stays until it has heard of the ends that brought it back."""
    async with opened(journal_path, idle_runs=1) as rt:
        runs = [await rt.start(starts_two, f"p{number}") for number in range(6)]
        await quiet(rt)
        for child_number in range(2):
            for number in range(6):
                await rt.send(f"p{number}-{child_number}", "word", child_number)
        assert [await run.result(timeout=10) for run in runs] == [[0, 0]] * 6


@workflow(name="families.late")
async def late() -> str:
    """Sleep, then one step: at the next opening its code is needed."""
    await sleep(60)
    return await echo("late")


async def test_a_parent_waits_through_the_parking_of_its_child(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The child is parked because its code comes late; the parent is told of the end only."""
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(parent_by_name.options(run_id="p"), "families.late")
        await until(lambda: _waits_for_its_child(run))
    with without_workflow(late):
        async with opened(journal_path, virtual_clock) as rt:
            await virtual_clock.advance(120)
            await until(lambda: _is_blocked(rt.get_run("p.3")))
            assert await rt.get_run("p").status() == "running"
            registry.register_workflow(late)
            ending = asyncio.ensure_future(rt.get_run("p").result())
            await until(lambda: virtual_clock.pending)
            await virtual_clock.advance(1)
            assert await ending == "late"


async def _is_blocked(run: Run[Any]) -> bool:
    return await run.status() == "blocked"


async def _waits_for_its_child(run: Run[Any]) -> bool:
    return any("durable.run.result" in each for each in (await run.status()).waiting_for)


async def test_a_batch_that_names_one_id_twice_makes_one_whole_run(journal_path: Path) -> None:
    """Both handles are of the same run, whose history begins with its first event."""
    async with opened(journal_path) as rt:
        first, second = await rt.start_many(child.options(run_id="one"), [(1,), (1,)])
        assert first == second
        assert await first == 1
        assert [event.kind for event in await first.events()][:2] == ["run_created", "run_started"]


async def test_a_batch_that_contradicts_itself_records_nothing(journal_path: Path) -> None:
    """The same id with other arguments is refused before anything is written."""
    async with opened(journal_path) as rt:
        with pytest.raises(RunConflictError, match="twice"):
            await rt.start_many(child.options(run_id="one"), [(1,), (2,)])
        assert not await rt.get_run("one").exists()


async def test_a_finished_run_leaves_no_cyclic_garbage(journal_path: Path) -> None:
    """Everything of a run goes with its last reference, without the garbage collector."""
    async with opened(journal_path) as rt:
        await (await rt.start(child, 0))
        await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        try:
            for n in range(10):
                await (await rt.start(child, n))
            for _ in range(5):
                await asyncio.sleep(0)
            assert gc.collect() < 10
        finally:
            gc.enable()


def test_ctrl_c_in_a_body_loses_no_run(journal_path: Path) -> None:
    """The host gets its KeyboardInterrupt; the run is brought back from its history."""
    turns = []

    @workflow(name="families.hit")
    async def hit() -> str:
        await echo(1)
        turns.append(1)
        if len(turns) == 1:
            signal.raise_signal(signal.SIGINT)
        await echo(2)
        return "done"

    async def main() -> str:
        async with make(journal_path) as rt:
            return await (await rt.start(hit.options(run_id="hit")))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        assert loop.run_until_complete(task) == "done"
        assert len(turns) == 2
    finally:
        loop.close()
        signal.signal(signal.SIGINT, before)


async def test_start_many_inside_a_body_starts_children_once(journal_path: Path) -> None:
    """Their ids are derived from the parent's, one for each."""

    @workflow(name="families.many")
    async def many() -> list[Any]:
        runs = await start_many(child, [(1,), (2,), (3,)])
        return [run.run_id for run in runs] + [await run.result() for run in runs]

    async with opened(journal_path) as rt:
        *ids, one, two, three = await (await rt.start(many.options(run_id="m")))
        assert [one, two, three] == [1, 2, 3]
        assert len(set(ids)) == 3
        assert all(each.startswith("m.") for each in ids)
