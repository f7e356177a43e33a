"""Failed runs that are tried again, in place, from the step that failed them."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import Run, get_step_metadata, now, sleep, step, workflow
from durable.errors import (
    RunStateError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
)
from durable.testing import VirtualClock
from tests.engine.rig import AT_ONCE, WAIT, crash, elapse, kinds, make, opened, quiet, until

CALLS: Counter[str] = Counter()
ATTEMPTS: list[tuple[str, int]] = []
BROKEN: set[str] = set()  # what fails for now
GATES: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def _clean() -> None:
    CALLS.clear()
    ATTEMPTS.clear()
    BROKEN.clear()
    GATES.clear()


async def act(name: str) -> str:
    """Note the attempt; wait for the gate if there is one; fail if it is broken."""
    CALLS[name] += 1
    ATTEMPTS.append((name, get_step_metadata().attempt))
    if name in GATES:
        await GATES[name].wait()
    if name in BROKEN:
        raise ValueError(name)
    return name.upper()


@step(name="retry.once", max_retries=0)
async def once(name: str) -> str:
    """One attempt."""
    return await act(name)


@step(name="retry.thrice", max_retries=2, backoff=AT_ONCE)
async def thrice(name: str) -> str:
    """Three attempts."""
    return await act(name)


@workflow(name="retry.line")
async def line(*names: str) -> list[str]:
    """One step after the other."""
    return [await thrice(name) for name in names]


async def failed(run: Run[Any]) -> WorkflowRunFailedError:
    """Wait for the run's failure."""
    with pytest.raises(WorkflowRunFailedError) as error:
        await run.result(WAIT)
    return error.value


async def test_retried_run_goes_on_from_its_failed_step(journal_path: Path) -> None:
    """The completed steps do not run again; the failed one has all its attempts again."""
    BROKEN.add("b")
    async with opened(journal_path) as rt:
        run = await rt.start(line.options(run_id="r"), "a", "b", "c")
        await failed(run)
        assert CALLS == {"a": 1, "b": 3}
        await run.retry()
        await failed(run)
        assert CALLS == {"a": 1, "b": 6}
        BROKEN.clear()
        await run.retry()
        assert await run.result(WAIT) == ["A", "B", "C"]
        assert CALLS == {"a": 1, "b": 7, "c": 1}
        numbers = [number for name, number in ATTEMPTS if name == "b"]
        assert numbers == sorted(set(numbers))


async def test_failure_and_retries_stay_visible_in_the_history(journal_path: Path) -> None:
    """Nothing is deleted: the history tells of every failure and of every new try."""
    BROKEN.add("a")
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a")
        await failed(run)
        before = await run.events()
        assert before[-1].kind == "run_failed"
        assert before[-1].ref == 3
        BROKEN.clear()
        await run.retry()
        await run.result(WAIT)
        after = await run.events()
        assert after[: len(before)] == before
        assert [event.kind for event in after[len(before) :]] == [
            "run_rewound", "step_completed", "run_completed",
        ]  # fmt: skip
        mark = after[len(before)]
        assert (mark.name, mark.ref) == ("step", before[-2].seq)
        assert [event.seq for event in after] == list(range(1, len(after) + 1))


async def test_status_and_times_are_those_of_a_run_that_goes_on(journal_path: Path) -> None:
    """While it is tried again it is running, and has not ended; then it has the new end."""
    BROKEN.add("a")
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a")
        await failed(run)
        assert await run.completed_at() is not None
        BROKEN.clear()
        GATES["a"] = asyncio.Event()
        await run.retry()
        assert await run.status() == "running"
        assert await run.completed_at() is None
        waiting = asyncio.create_task(run.result(WAIT))
        await until(lambda: CALLS["a"] == 4)
        GATES["a"].set()
        assert await waiting == ["A"]
        assert await run.status() == "completed"


@workflow(name="retry.pair")
async def pair(one: str, other: str) -> list[str]:
    """Two at the same time; the first failure calls the other off."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(once(one)), group.create_task(thrice(other))]
    return [task.result() for task in tasks]


async def test_step_that_was_called_off_by_the_failure_is_attempted_again(
    journal_path: Path,
) -> None:
    """It existed when the run failed and has no outcome, so it is wanted again."""
    BROKEN.add("bad")
    GATES["slow"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(pair, "bad", "slow")
        await failed(run)
        BROKEN.clear()
        GATES["slow"].set()
        await run.retry()
        assert await run.result(WAIT) == ["BAD", "SLOW"]
        assert CALLS == {"bad": 2, "slow": 2}
        assert [n for name, n in ATTEMPTS if name == "slow"] == [1, 2]


@workflow(name="retry.amends")
async def amends() -> str:
    """Make amends after a failure, while another step completes; then fail all the same."""
    other = asyncio.create_task(once("other"))
    try:
        await once("bad")
    except ValueError:
        await once("amends")
        await other
        raise
    return await other + await once("last")


async def test_outcome_that_came_after_the_failure_is_kept(journal_path: Path) -> None:
    """The other step completed after the failure, and does not run again; amends are forgotten."""
    BROKEN.add("bad")
    GATES["other"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(amends)
        await until(lambda: CALLS["amends"])
        GATES["other"].set()
        await failed(run)
        BROKEN.clear()
        await run.retry()
        assert await run.result(WAIT) == "OTHERLAST"
        assert CALLS == {"bad": 2, "other": 1, "amends": 1, "last": 1}


async def test_handler_runs_again_when_the_step_fails_again(journal_path: Path) -> None:
    """What the body did about the first failure is forgotten; a second one needs it anew."""
    BROKEN.add("bad")
    async with opened(journal_path) as rt:
        run = await rt.start(amends)
        await failed(run)
        await run.retry()
        await failed(run)
        assert CALLS == {"bad": 2, "other": 1, "amends": 2}


MENDED: list[bool] = []


@workflow(name="retry.buggy")
async def buggy(names: list[str]) -> str:
    """Two steps, and a mistake in between that is mended later."""
    first = await once(names[0])
    if not MENDED:
        raise KeyError("mistake")
    return first + await once(names[1])


async def test_run_that_failed_by_its_own_mistake_goes_on_with_mended_code(
    journal_path: Path,
) -> None:
    """The same code fails again; the mended code goes on, and no step runs twice."""
    MENDED.clear()
    async with opened(journal_path) as rt:
        run = await rt.start(buggy, ["a", "b"])
        assert isinstance((await failed(run)).__cause__, KeyError)
        await run.retry()
        await failed(run)
        MENDED.append(True)
        await run.retry()
        assert await run.result(WAIT) == "AB"
        assert CALLS == {"a": 1, "b": 1}


@workflow(name="retry.caught")
async def caught() -> str:
    """A failure that is dealt with, further steps, and then a mistake."""
    try:
        await once("bad")
    except ValueError:
        await once("instead")
    if not MENDED:
        raise KeyError("mistake")
    return await once("last")


async def test_failure_that_was_dealt_with_is_not_tried_again(journal_path: Path) -> None:
    """It is not what the run failed with, so it stays as it is, with all that came after."""
    MENDED.clear()
    BROKEN.add("bad")
    async with opened(journal_path) as rt:
        run = await rt.start(caught)
        await failed(run)
        MENDED.append(True)
        await run.retry()
        assert await run.result(WAIT) == "LAST"
        assert CALLS == {"bad": 1, "instead": 1, "last": 1}


@workflow(name="retry.collected")
async def collected(*names: str) -> list[str]:
    """All of them, whatever happens to some; then fail with what went wrong."""
    found = await asyncio.gather(*map(once, names), return_exceptions=True)
    if wrong := [each for each in found if isinstance(each, Exception)]:
        raise ExceptionGroup("some failed", wrong)
    return [str(each) for each in found]


async def test_all_failed_steps_of_a_group_are_tried_again_and_only_they(
    journal_path: Path,
) -> None:
    """The others have completed, some of them after the first failure."""
    BROKEN.update({"b", "d"})
    async with opened(journal_path) as rt:
        run = await rt.start(collected, "a", "b", "c", "d", "e")
        await failed(run)
        BROKEN.clear()
        await run.retry()
        assert await run.result(WAIT) == ["A", "B", "C", "D", "E"]
        assert CALLS == {"a": 1, "b": 2, "c": 1, "d": 2, "e": 1}


async def test_retry_survives_a_crash_and_a_restart(journal_path: Path) -> None:
    """Set back, crashed while trying, opened again: it goes on as if nothing had been."""
    BROKEN.update({"b", "d"})
    clock = VirtualClock()
    rt = make(journal_path, clock)
    await rt.open()
    run = await rt.start(collected.options(run_id="r"), "a", "b", "c", "d", "e")
    await failed(run)
    BROKEN.clear()
    GATES["b"] = asyncio.Event()
    await run.retry()
    await until(lambda: CALLS["d"] == 2)
    await crash(rt)
    async with opened(journal_path, clock) as rt:
        GATES["b"].set()
        assert await rt.get_run("r").result(WAIT) == ["A", "B", "C", "D", "E"]
        assert (CALLS["a"], CALLS["c"], CALLS["e"]) == (1, 1, 1)
        events = await rt.get_run("r").events()
        assert [e.seq for e in events] == list(range(1, len(events) + 1))


async def test_replays_of_a_retried_run_follow_what_counts(journal_path: Path) -> None:
    """Retried twice, then left in a sleep: the next process finds the same place."""
    clock = VirtualClock()
    BROKEN.add("bad")

    async with opened(journal_path, clock) as rt:
        run = await rt.start(sleepy.options(run_id="r"))
        await failed(run)
        await run.retry()
        await failed(run)
        BROKEN.clear()
        await run.retry()
        await until(lambda: CALLS["bad"] == 3)
        await quiet(rt)
    async with opened(journal_path, clock) as rt:
        await quiet(rt)
        assert await rt.get_run("r").status() == "running"
        await elapse(rt, clock, 3700, 3700)
        assert await rt.get_run("r").result(WAIT) == "BADEND"
        assert CALLS == {"first": 1, "bad": 3, "end": 1}


@workflow(name="retry.sleepy")
async def sleepy() -> str:
    """Three steps, with an hour before the last."""
    await once("first")
    value = await once("bad")
    await sleep("1h")
    return value + await once("end")


@workflow(name="retry.timed")
async def timed() -> str:
    """A step within a minute."""
    async with asyncio.timeout(60):
        return await once("bad")


async def test_time_limits_of_the_body_go_on_with_the_time_that_was_left(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Retried a day later, the step has its minute, and no more than that."""
    BROKEN.add("bad")
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(timed)
        await failed(run)
        await virtual_clock.advance(86400)
        BROKEN.clear()
        GATES["bad"] = asyncio.Event()
        await run.retry()
        await until(lambda: CALLS["bad"] == 2)
        await virtual_clock.advance(59)
        assert await run.status() == "running"
        await virtual_clock.advance(2)
        assert isinstance((await failed(run)).__cause__, TimeoutError)


async def test_timeout_of_the_run_counts_anew(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A run that failed at its deadline has the same time again, and again."""
    GATES["a"] = asyncio.Event()
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(line.options(timeout="1h"), "a", "b")
        for _ in range(3):
            await virtual_clock.advance(3700)
            assert isinstance((await failed(run)).__cause__, TimeoutError)
            await virtual_clock.advance(86400)
            await run.retry()
            await virtual_clock.advance(3500)
            assert await run.status() == "running"
        GATES["a"].set()
        assert await run.result(WAIT) == ["A", "B"]


@workflow(name="retry.dated")
async def dated() -> str:
    """Journal time, before and after."""
    before = now()
    await once("bad")
    assert now() >= before + timedelta(days=1)
    return "ok"


async def test_journal_time_goes_on_after_a_retry(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """It does not stand still at the failure."""
    BROKEN.add("bad")
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(dated)
        await failed(run)
        await virtual_clock.advance(86400)
        BROKEN.clear()
        await run.retry()
        assert await run.result(WAIT) == "ok"


@pytest.mark.parametrize("state", ["completed", "cancelled", "running", "blocked"])
async def test_only_a_failed_run_can_be_retried(journal_path: Path, state: str) -> None:
    """The error names the status and what helps; nothing is recorded."""
    GATES["a"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a")
        await until(lambda: CALLS["a"])
        if state == "completed":
            GATES["a"].set()
            await run.result(WAIT)
        elif state == "cancelled":
            await run.cancel()
            await until(lambda: _is(run, "cancelled"))
        elif state == "blocked":
            await run.pause()
        before = await run.events()
        with pytest.raises(RunStateError, match=state) as refused:
            await run.retry()
        assert refused.value.status == state
        assert await run.events() == before
        with pytest.raises(WorkflowRunNotFoundError):
            await rt.get_run("nobody").retry()


async def _is(run: Run[Any], status: str) -> bool:
    return await run.status() == status


@workflow(name="retry.retrier")
async def retrier(run_id: str) -> Any:
    """Have another run tried again, and wait for it."""
    other: Run[Any] = Run(run_id)
    await other.retry()
    return await other.result()


async def test_body_retries_another_run_durably(journal_path: Path) -> None:
    """A crash in between does not have it retried twice."""
    clock = VirtualClock()
    BROKEN.add("b")
    GATES["c"] = asyncio.Event()
    rt = make(journal_path, clock)
    await rt.open()
    await failed(await rt.start(line.options(run_id="r"), "a", "b", "c"))
    BROKEN.clear()
    await rt.start(retrier.options(run_id="p"), "r")
    await until(lambda: CALLS["c"])
    await crash(rt)
    async with opened(journal_path, clock) as rt:
        GATES["c"].set()
        assert await rt.get_run("p").result(WAIT) == ["A", "B", "C"]
        shown = await kinds(rt.get_run("r"))
        assert shown.count("run_rewound") == 1
