"""`cancel_runs`: many at once, an outcome for each, and no run by accident."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from durable import CancelOutcome, SyncRuntime, cancel_runs, get_run, sleep, start, step, workflow
from durable._surface.cancelling import PORTION_RUNS
from durable.errors import DurableError
from durable.testing import VirtualClock
from tests.engine.rig import assert_cancelled, elapse, kinds, opened, quiet

WAIT = 30.0


@workflow(name="bulk.napping")
async def napping() -> None:
    await sleep("1 day")


@workflow(name="bulk.quick")
async def quick() -> str:
    return "done"


@step
async def tidy() -> None:
    await asyncio.sleep(0)


@workflow(name="bulk.careful")
async def careful() -> str:
    try:
        await sleep("1 day")
    finally:
        await sleep(10)
        await tidy()
    return "never"


@workflow(name="bulk.fertile")
async def fertile() -> None:
    """Starts another of its kind when it is cancelled."""
    try:
        await sleep("1 day")
    finally:
        await start(fertile)


def told(outcomes: list[CancelOutcome]) -> dict[str, str]:
    """Outcomes by run id."""
    return {each.run_id: each.outcome for each in outcomes}


async def test_each_run_gets_an_outcome(journal_path: Path, virtual_clock: VirtualClock) -> None:
    """Asleep, delayed, finished, unknown, named twice."""
    async with opened(journal_path, virtual_clock) as rt:
        asleep = await rt.start(napping.options(run_id="asleep"))
        delayed = await rt.start(napping.options(run_id="delayed", delay="1h"))
        done = await rt.start(quick.options(run_id="done"))
        await done.result(WAIT)
        outcomes = await cancel_runs([asleep, "delayed", done, "nobody", "asleep"], reason="enough")
        assert told(outcomes) == {
            "asleep": "requested", "delayed": "requested", "done": "finished",
            "nobody": "not_found",
        }  # fmt: skip
        assert [each.run_id for each in outcomes] == ["asleep", "delayed", "done", "nobody"]
        assert "'nobody'" in str(outcomes[-1].message)
        await assert_cancelled(asleep, "enough")
        await assert_cancelled(delayed, "enough")
        assert await done.result(WAIT) == "done"
        again = await cancel_runs(["asleep", "done"])
        assert told(again) == {"asleep": "finished", "done": "finished"}


async def test_runs_are_cancelled_by_filters_in_portions(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """More than one portion, the finished ones left out, those in rows brought in."""
    count = 2 * PORTION_RUNS + 7
    async with opened(journal_path, virtual_clock, idle_runs=20) as rt:
        chosen = napping.options(attributes={"tenant": "acme"})
        await rt.start_many(chosen, [() for _ in range(count)])
        other = await rt.start(napping)
        await (await rt.start(quick.options(attributes={"tenant": "acme"}))).result(WAIT)
        await quiet(rt)
        outcomes = await rt.cancel_runs(attributes={"tenant": "acme"}, reason="closed")
        assert len(outcomes) == count
        assert {each.outcome for each in outcomes} == {"requested"}
        await quiet(rt)
        assert await rt.count_runs(status="cancelled") == count
        assert await other.status() == "running"
        assert await rt.cancel_runs(attributes={"tenant": "acme"}) == []
        everything = await rt.cancel_runs(attributes={"tenant": "acme"}, status="completed")
        assert [each.outcome for each in everything] == ["finished"]


async def test_run_that_cleans_up_is_not_cut_short_by_another_request(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Unlike a second `run.cancel()`: a bulk request may be repeated by whoever asked."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(careful)
        await quiet(rt)
        for _ in range(3):
            assert told(await rt.cancel_runs(workflow=careful)) == {run.run_id: "requested"}
        assert await run.status() == "running"
        await elapse(rt, virtual_clock, 20)
        await assert_cancelled(run)
        assert "step_completed" in [event.kind for event in await run.events()]


async def test_runs_that_appear_meanwhile_are_left_alone(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Cancelling ends, even if each cancelled run starts another one."""
    async with opened(journal_path, virtual_clock) as rt:
        first = await rt.start_many(fertile, [()] * (PORTION_RUNS + 10))
        await quiet(rt)
        outcomes = await rt.cancel_runs(workflow=fertile)
        assert set(told(outcomes)) == {run.run_id for run in first}
        await quiet(rt)
        assert await rt.count_runs(workflow=fertile, status="running") == len(first)


@pytest.mark.parametrize(
    ("runs", "filters", "error", "match"),
    [
        (None, {}, ValueError, "needs runs or a filter"),
        (None, {"workflow": None}, ValueError, "needs runs or a filter"),
        (["a"], {"workflow": "w"}, ValueError, "not both"),
        ("abc", {}, TypeError, r"give \['abc'\]"),
        ([7], {}, TypeError, "neither a run"),
        ([""], {}, ValueError, "run"),
        (None, {"colour": "red"}, TypeError, "unknown filter 'colour'"),
        (None, {"status": "done"}, ValueError, "status='done'"),
        (["a"], {"reason": 7}, TypeError, "reason=7"),
    ],
)
async def test_unclear_requests_are_refused_and_cancel_nothing(
    journal_path: Path, runs: Any, filters: dict[str, Any], error: type[Exception], match: str
) -> None:
    """Above all: no request means every run there is, unless it says so."""
    async with opened(journal_path) as rt:
        run = await rt.start(napping)
        with pytest.raises(error, match=match):
            await rt.cancel_runs(runs, **filters)
        assert await run.status() in {"pending", "running"}
        assert await rt.cancel_runs([]) == []


UNCLEAR: list[tuple[str, Any, type[Exception], str]] = [
    ("cancel", 7, TypeError, "reason=7 must be a text"),
    ("cancel", b"why", TypeError, "reason=b'why' must be a text"),
    ("cancel", "a\udc80", ValueError, "no valid text"),
    ("cancel", "x" * 100_000, ValueError, "100,000 characters, the limit is 65,536"),
    ("pause", 7, TypeError, "reason=7 must be a text"),
    ("pause", "a\udc80", ValueError, "no valid text"),
    ("wake_up", 5, TypeError, r"correlation_ids=5 .* such as \[5\]"),
    ("wake_up", "5", TypeError, "correlation_ids='5'"),
    ("wake_up", [True], TypeError, "numbers of wait_created events"),
]


@workflow(name="bulk.asking")
async def asking(run_id: str, method: str, given: Any) -> tuple[str, str]:
    """Ask another run in a way that is refused."""
    try:
        await getattr(get_run(run_id), method)(given)
    except (TypeError, ValueError) as error:
        return type(error).__name__, str(error)
    return "none", "it was taken"


@pytest.mark.parametrize(("method", "given", "error", "match"), UNCLEAR, ids=range(len(UNCLEAR)))
async def test_unclear_request_to_one_run_is_refused_and_changes_nothing(
    journal_path: Path, method: str, given: Any, error: type[Exception], match: str
) -> None:
    """In a body nothing of it is recorded, and nothing is tried again."""
    async with opened(journal_path) as rt:
        run = await rt.start(napping)
        with pytest.raises(error, match=match):
            await getattr(run, method)(given)
        assert await run.status() in {"pending", "running"}
        body = await rt.start(asking, run.run_id, method, given)
        kind, message = await body.result(WAIT)
        assert kind == error.__name__
        assert re.search(match, message)
        assert "step_created" not in await kinds(body)


async def test_trouble_with_one_run_is_its_outcome(journal_path: Path) -> None:
    """The others are cancelled."""
    from durable._engine.management import Cancellations

    async with opened(journal_path) as rt:
        runs = await rt.start_many(napping, [(), (), ()])
        engine = rt._engine

        async def cancel(run_id: str, reason: str | None) -> None:
            if run_id == runs[1].run_id:
                raise DurableError("the disk smells")
            await engine.cancel(run_id, reason)

        room = Cancellations(engine._commands, engine._loader, cancel)
        outcomes = await room.cancel_runs([run.run_id for run in runs], None)
        assert outcomes == [("requested", None), ("error", "the disk smells"), ("requested", None)]


@workflow(name="bulk.boss")
async def boss() -> list[str]:
    outcomes = await cancel_runs(workflow=napping)
    return [each.outcome for each in outcomes]


async def test_body_cancels_runs_as_a_recorded_step(journal_path: Path) -> None:
    """Replay sees the outcomes that were recorded."""
    async with opened(journal_path) as rt:
        await rt.start_many(napping, [(), ()])
        await quiet(rt)
        assert await (await rt.start(boss)).result(WAIT) == ["requested", "requested"]


def test_sync_runtime_cancels_many(journal_path: Path) -> None:
    """The blocking form."""
    with SyncRuntime(journal_path) as rt:
        runs = rt.start_many(napping, [(), ()])
        outcomes = rt.cancel_runs(runs, reason="enough")
        assert [each.outcome for each in outcomes] == ["requested"] * 2
        assert rt.cancel_runs(workflow=napping) == []
