"""Children: bound to their parent or not, awaited at no cost, asked by its body."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from durable import Run, get_workflow_metadata, sleep, start, start_many, step, workflow
from durable.errors import (
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
    WrongContextError,
)
from durable.testing import VirtualClock
from tests.engine.rig import WAIT, crash, kinds, make, opened, quiet, until

CALLS: Counter[str] = Counter()
GATES: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def _clean() -> None:
    CALLS.clear()
    GATES.clear()


@step(name="children.act", max_retries=0)
async def act(name: str) -> str:
    """Wait for the gate if there is one."""
    CALLS[name] += 1
    if name in GATES:
        await GATES[name].wait()
    if name == "bad":
        raise ValueError(name)
    return name.upper()


@workflow(name="children.child")
async def child(name: str) -> str:
    """Sleep an hour; tidy up when cancelled."""
    try:
        await sleep("1h")
        return await act(name)
    finally:
        await act(f"tidy {name}")


BOUND = child.options(on_parent_close="cancel")


@workflow(name="children.middle")
async def middle() -> str:
    """Start a bound child and wait for it."""
    grand: Run[str] = await start(BOUND.options(run_id="grand"), "grand")
    return await grand.result()


@workflow(name="children.parent")
async def parent(how: str) -> str:
    """Start a bound child, a free one, and a bound one with a child of its own; then end."""
    await start(BOUND.options(run_id="bound"), "bound")
    await start(child.options(run_id="free"), "free")
    await start(middle.options(run_id="middle", on_parent_close="cancel"))
    if how == "fail":
        await act("bad")
    if how == "cancel":
        await sleep("1 day")
    return "done"


async def statuses(rt: Any, *names: str) -> list[str]:
    """Return the statuses of these runs."""
    return [str(await rt.get_run(name).status()) for name in names]


async def ended(rt: Any, *names: str) -> bool:
    """Whether these runs have all ended."""
    return set(await statuses(rt, *names)) <= {"cancelled", "completed", "failed"}


@pytest.mark.parametrize("how", ["complete", "fail", "cancel", "terminate"])
async def test_bound_children_end_with_their_parent(journal_path: Path, how: str) -> None:
    """However it ends, and theirs with them; they clean up. The free child goes on."""
    async with opened(journal_path) as rt:
        run = await rt.start(parent.options(run_id="p"), "cancel" if how == "terminate" else how)
        await until(lambda: _exists(rt, "grand"))
        await quiet(rt)
        if how in ("cancel", "terminate"):
            await run.cancel()
        if how == "terminate":
            await run.cancel()
        await until(lambda: ended(rt, "p", "bound", "middle", "grand"))
        assert await statuses(rt, "bound", "middle", "grand") == ["cancelled"] * 3
        assert await rt.get_run("free").status() == "running"
        assert CALLS["tidy bound"] == CALLS["tidy grand"] == 1
        with pytest.raises(WorkflowRunCancelledError, match="parent run has ended"):
            await rt.get_run("bound").result(WAIT)


async def _exists(rt: Any, run_id: str) -> bool:
    return await rt.get_run(run_id).exists()


async def test_cascade_that_a_crash_cut_off_is_completed_at_the_next_opening(
    journal_path: Path,
) -> None:
    """The parent's end is on record, those of its children are not."""
    clock = VirtualClock()
    rt = make(journal_path, clock)
    await rt.open()
    run = await rt.start(parent.options(run_id="p"), "cancel")
    await until(lambda: _exists(rt, "grand"))
    await quiet(rt)
    rt._engine._families._spawn = _drop  # the process dies before it comes to that
    await run.cancel()
    await until(lambda: ended(rt, "p"))
    assert await statuses(rt, "bound", "middle", "grand") == ["running"] * 3
    await crash(rt)
    async with opened(journal_path, clock) as rt:
        await until(lambda: ended(rt, "bound", "middle", "grand"))
        assert await statuses(rt, "bound", "middle", "grand") == ["cancelled"] * 3
        assert await rt.get_run("free").status() == "running"
        assert CALLS["tidy bound"] == 1


def _drop(work: Any) -> None:
    work.close()


async def test_cascade_does_not_hurry_a_child_that_cleans_up(journal_path: Path) -> None:
    """Its request is on record; the next opening does not make a second one of it."""
    clock = VirtualClock()
    GATES["tidy bound"] = asyncio.Event()
    rt = make(journal_path, clock)
    await rt.open()
    run = await rt.start(parent.options(run_id="p"), "cancel")
    await until(lambda: _exists(rt, "grand"))
    await run.cancel()
    await until(lambda: CALLS["tidy bound"])
    await crash(rt)
    async with opened(journal_path, clock) as rt:
        await until(lambda: CALLS["tidy bound"] == 2)
        GATES["tidy bound"].set()
        await until(lambda: ended(rt, "bound"))
        shown = await kinds(rt.get_run("bound"))
        assert shown.count("cancel_requested") == 1
        assert shown.count("step_completed") == 1


async def test_children_are_found_by_their_parent(journal_path: Path) -> None:
    """In the order of their start, and only its own."""
    async with opened(journal_path) as rt:
        run = await rt.start(parent.options(run_id="p"), "complete")
        await until(lambda: _exists(rt, "grand"))
        assert [each.run_id for each in await run.children()] == ["bound", "free", "middle"]
        assert [each.run_id for each in await rt.get_run("middle").children()] == ["grand"]
        assert await rt.get_run("free").children() == []
        assert await rt.get_run("free").parent_id() == "p"
        with pytest.raises(WorkflowRunNotFoundError):
            await rt.get_run("nobody").children()


async def test_unknown_policy_is_refused_before_anything_is_recorded(journal_path: Path) -> None:
    """The message names the value and what there is."""
    with pytest.raises(ValueError, match=r"on_parent_close='kill' .*'cancel' or 'abandon'"):
        child.options(on_parent_close="kill")  # type: ignore[call-overload]


# --- waiting ------------------------------------------------------------------------------


@workflow(name="children.one")
async def one(name: str) -> str:
    """One step."""
    return await act(name)


@workflow(name="children.crowd")
async def crowd(count: int) -> list[str]:
    """Many children, awaited together."""
    runs = await start_many(one, [(f"c{n}",) for n in range(count)])
    return await asyncio.gather(*(run.result() for run in runs))


@pytest.mark.parametrize("count", [300])
async def test_parent_that_waits_leaves_memory_and_comes_back(
    journal_path: Path, count: int
) -> None:
    """It costs no attempt while it waits, no coroutine once it is out of memory."""
    for n in range(count):
        GATES[f"c{n}"] = asyncio.Event()
    async with opened(journal_path, idle_runs=1) as rt:
        run = await rt.start(crowd.options(run_id="p"), count)
        await until(lambda: len(CALLS) == count)
        assert len(rt._engine._executor._running) == count  # the children's steps, and no more
        for _ in range(2):
            await (await rt.start(one, "other")).result(WAIT)
        others = [await rt.start(child, f"idle {n}") for n in range(2)]
        await until(lambda: rt._engine.scheduler.get("p") is None)
        assert len(rt._engine._families._waiting) == 0
        for n in range(count):
            GATES[f"c{n}"].set()
        assert await run.result(WAIT) == [f"C{n}" for n in range(count)]
        assert not rt._engine._families._asleep or all(
            not names for names in rt._engine._families._asleep.values()
        )
        del others


async def test_parent_that_waits_is_found_again_after_a_crash(journal_path: Path) -> None:
    """Children that end before it is back, while it comes back, and after."""
    clock = VirtualClock()
    for n in range(20):
        GATES[f"c{n}"] = asyncio.Event()
    rt = make(journal_path, clock)
    await rt.open()
    await rt.start(crowd.options(run_id="p"), 20)
    await until(lambda: len(CALLS) == 20)
    for n in range(10):
        GATES[f"c{n}"].set()
    await crash(rt)
    async with opened(journal_path, clock) as rt:
        for n in range(20):
            GATES[f"c{n}"].set()
        assert await rt.get_run("p").result(WAIT) == [f"C{n}" for n in range(20)]
        assert "step_retrying" not in await kinds(rt.get_run("p"))


@workflow(name="children.impatient")
async def impatient(run_id: str) -> str:
    """Wait a minute for another run, then for as long as it takes."""
    other: Run[str] = Run(run_id)
    try:
        return await other.result(timeout="1m")
    except TimeoutError as error:
        return f"{await other.result()} after {error}"


async def test_time_limit_of_waiting_in_a_body_is_durable(journal_path: Path) -> None:
    """It goes on over a crash, and what was waited for goes on in any case."""
    clock = VirtualClock()
    GATES["slow"] = asyncio.Event()
    rt = make(journal_path, clock)
    await rt.open()
    await rt.start(one.options(run_id="slow"), "slow")
    await rt.start(impatient.options(run_id="p"), "slow")
    await until(lambda: _waits(rt, "p"))
    await clock.advance(30)
    await crash(rt)
    async with opened(journal_path, clock) as rt:
        await until(lambda: CALLS["slow"] == 2)
        await clock.advance(31)
        GATES["slow"].set()
        found = await rt.get_run("p").result(WAIT)
        assert found == "SLOW after run slow has not ended within 60 s: it goes on, ask again"


async def _waits(rt: Any, run_id: str) -> bool:
    return any("run.result" in each for each in (await rt.get_run(run_id).status()).waiting_for)


@workflow(name="children.asker")
async def asker(run_id: str) -> list[str]:
    """Tell how waiting for another run has ended."""
    try:
        return [await Run[str](run_id).result()]
    except WorkflowRunFailedError as error:
        return ["failed", type(error.__cause__).__name__]
    except WorkflowRunCancelledError as error:
        return ["cancelled", str(error.reason)]
    except (WorkflowRunNotFoundError, WrongContextError) as error:
        return [type(error).__name__]


async def test_every_end_of_a_run_reaches_the_body_that_waits(journal_path: Path) -> None:
    """Its result, its failure with the cause, its cancellation with the reason, its absence."""
    async with opened(journal_path) as rt:
        await rt.start(one.options(run_id="good"), "good")
        await rt.start(one.options(run_id="bad"), "bad")
        await rt.start(child.options(run_id="late"), "late")
        waiting = await rt.start(asker, "late")
        await rt.get_run("late").cancel("enough")
        assert await waiting.result(WAIT) == ["cancelled", "enough"]
        assert await (await rt.start(asker, "late")).result(WAIT) == ["cancelled", "enough"]
        assert await (await rt.start(asker, "good")).result(WAIT) == ["GOOD"]
        assert await (await rt.start(asker, "bad")).result(WAIT) == ["failed", "ValueError"]
        nobody = await rt.start(asker, "nobody")
        assert await nobody.result(WAIT) == ["WorkflowRunNotFoundError"]
        itself = await rt.start(asker.options(run_id="self"), "self")
        assert await itself.result(WAIT) == ["WrongContextError"]


@workflow(name="children.racer")
async def racer(run_id: str) -> str:
    """Give up waiting for another run."""
    waiting = asyncio.create_task(Run[str](run_id).result())
    await sleep("1m")
    waiting.cancel()
    return "gave up"


async def test_waiting_that_is_given_up_is_forgotten(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The step counts as cancelled; the run's end reaches nobody."""
    GATES["slow"] = asyncio.Event()
    async with opened(journal_path, virtual_clock) as rt:
        await rt.start(one.options(run_id="slow"), "slow")
        run = await rt.start(racer, "slow")
        await until(lambda: CALLS["slow"])
        await virtual_clock.advance(61)
        assert await run.result(WAIT) == "gave up"
        assert not rt._engine._families._waiting
        assert not rt._engine._families._hot
        GATES["slow"].set()
        assert await rt.get_run("slow").result(WAIT) == "SLOW"


@workflow(name="children.meta")
async def meta() -> list[str | None]:
    """What a run is told about its family."""
    own = get_workflow_metadata()
    return [own.parent_id, own.root_id, own.first_run_id]


@workflow(name="children.meta_parent")
async def meta_parent() -> Any:
    """Ask a child."""
    return await (await start(meta.options(run_id="kid"))).result()


async def test_child_knows_its_parent_and_the_root(journal_path: Path) -> None:
    """From its metadata."""
    async with opened(journal_path) as rt:
        run = await rt.start(meta_parent.options(run_id="top"))
        assert await run.result(WAIT) == ["top", "top", "kid"]
