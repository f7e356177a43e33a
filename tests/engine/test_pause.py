"""Paused runs: nothing of them goes on before they are resumed, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durable import Run, get_step_metadata, sleep, start, step, workflow
from durable._journal.driver import InlineDriver
from durable.errors import RunStateError, WorkflowRunNotFoundError
from durable.testing import VirtualClock, settle
from tests.engine.rig import (
    AT_ONCE,
    WAIT,
    Disk,
    Request,
    assert_cancelled,
    crash,
    elapse,
    kinds,
    make,
    opened,
    quiet,
    until,
    without_workflow,
)  # fmt: skip

CALLS: Counter[str] = Counter()
ATTEMPTS: list[int] = []
GATES: dict[str, asyncio.Event] = {}
FAILS: Counter[str] = Counter()  # how often a step is still to fail


@pytest.fixture(autouse=True)
def _clean() -> None:
    for each in (CALLS, ATTEMPTS, GATES, FAILS):
        each.clear()


@step(name="pause.act", backoff=AT_ONCE)
async def act(name: str) -> str:
    """Wait for the gate if there is one."""
    CALLS[name] += 1
    ATTEMPTS.append(get_step_metadata().attempt)
    if name in GATES:
        await GATES[name].wait()
    if FAILS[name]:
        FAILS[name] -= 1
        raise ValueError(name)
    return name.upper()


@workflow(name="pause.line")
async def line(*names: str) -> list[str]:
    """One step after the other."""
    return [await act(name) for name in names]


@workflow(name="pause.tidy")
async def tidy(name: str) -> str:
    """Clean up when it is cancelled."""
    try:
        return await act(name)
    finally:
        await act("tidy")


@workflow(name="pause.sleeper")
async def sleeper() -> str:
    """An hour, then a step."""
    await sleep("1h")
    return await act("late")


async def test_running_attempt_ends_and_nothing_follows_until_resume(journal_path: Path) -> None:
    """Its outcome is recorded while the run is paused; the body learns of it afterwards."""
    GATES["a"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a", "b")
        await until(lambda: CALLS["a"])
        await run.pause("a holiday")
        status = await run.status()
        assert (status, status.reason) == ("blocked", "paused: a holiday")
        GATES["a"].set()
        await until(lambda: _has(run, "step_completed"))
        await quiet(rt)
        assert (await kinds(run))[-1] == "step_completed"
        await run.resume()
        assert await run.result(WAIT) == ["A", "B"]
        assert CALLS == {"a": 1, "b": 1}
        assert "run_rewound" in await kinds(run)


async def _has(run: Run[Any], kind: str) -> bool:
    return kind in await kinds(run)


async def test_pause_is_repeated_and_undone_without_harm(journal_path: Path) -> None:
    """Twice is once; resuming what runs does nothing."""
    GATES["a"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a", "b")
        await until(lambda: CALLS["a"])
        await run.pause()
        await run.pause("again")
        assert (await run.status()).reason == "paused"
        await run.resume()
        await run.resume()
        assert await run.status() == "running"
        GATES["a"].set()
        assert await run.result(WAIT) == ["A", "B"]
        assert CALLS == {"a": 1, "b": 1}


async def test_attempt_outlives_a_pause_that_was_short(journal_path: Path) -> None:
    """Resumed while it still runs, the attempt belongs to the run again: it is not repeated."""
    GATES["a"] = asyncio.Event()
    FAILS["a"] = 1
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a", "b")
        await until(lambda: CALLS["a"])
        for _ in range(3):
            await run.pause()
            await run.resume()
        assert CALLS == {"a": 1}
        GATES["a"].set()
        assert await run.result(WAIT) == ["A", "B"]
        assert CALLS == {"a": 2, "b": 1}
        assert ATTEMPTS == [1, 2, 1]


async def test_failed_attempt_is_not_retried_while_paused(journal_path: Path) -> None:
    """The failure counts; the next attempt comes with the resumption."""
    GATES["a"] = asyncio.Event()
    FAILS["a"] = 1
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a")
        await until(lambda: CALLS["a"])
        await run.pause()
        GATES["a"].set()
        await until(lambda: _has(run, "step_retrying"))
        await quiet(rt)
        assert CALLS == {"a": 1}
        await run.resume()
        assert await run.result(WAIT) == ["A"]
        assert CALLS == {"a": 2}


async def test_paused_run_stays_paused_over_a_crash(journal_path: Path) -> None:
    """Neither the next opening nor its clock lets it go on; what was recorded is kept."""
    clock = VirtualClock()
    GATES["a"] = asyncio.Event()
    rt = make(journal_path, clock)
    await rt.open()
    run = await rt.start(line.options(run_id="r"), "a", "b")
    await until(lambda: CALLS["a"])
    await run.pause()
    GATES["a"].set()
    await until(lambda: _has(run, "step_completed"))
    await crash(rt)
    async with opened(journal_path, clock) as rt:
        run = rt.get_run("r")
        await elapse(rt, clock, 3600, 3600)
        assert await run.status() == "blocked"
        await run.resume()
        assert await run.result(WAIT) == ["A", "B"]
        assert CALLS == {"a": 1, "b": 1}


async def test_attempt_that_a_crash_cut_off_while_paused_runs_again(journal_path: Path) -> None:
    """It has no outcome; its next attempt has the next number."""
    clock = VirtualClock()
    GATES["a"] = asyncio.Event()
    rt = make(journal_path, clock)
    await rt.open()
    run = await rt.start(line.options(run_id="r"), "a")
    await until(lambda: CALLS["a"])
    await run.pause()
    for attempt in rt._engine._pauses._working["r"].attempts.values():
        attempt.task.cancel()
    await crash(rt)
    GATES["a"].set()
    async with opened(journal_path, clock) as rt:
        await rt.get_run("r").resume()
        assert await rt.get_run("r").result(WAIT) == ["A"]
        assert ATTEMPTS == [1, 2]


async def test_closing_waits_for_the_attempts_of_paused_runs(journal_path: Path) -> None:
    """What they come to within the drain time is recorded."""
    clock = VirtualClock()
    GATES["a"] = asyncio.Event()
    async with opened(journal_path, clock, drain_seconds=5) as rt:
        run = await rt.start(line.options(run_id="r"), "a", "b")
        await until(lambda: CALLS["a"])
        await run.pause()
        asyncio.get_running_loop().call_soon(GATES["a"].set)
    async with opened(journal_path, clock) as rt:
        assert "step_completed" in await kinds(rt.get_run("r"))
        await rt.get_run("r").resume()
        assert await rt.get_run("r").result(WAIT) == ["A", "B"]
        assert CALLS == {"a": 1, "b": 1}


@pytest.mark.parametrize("idle_runs", [0, 10])
async def test_sleep_that_falls_due_meanwhile_ends_at_resume(
    journal_path: Path, virtual_clock: VirtualClock, idle_runs: int
) -> None:
    """In memory or not; and a sleep that does not fall due goes on to its own end."""
    async with opened(journal_path, virtual_clock, idle_runs=idle_runs) as rt:
        runs = [await rt.start(sleeper) for _ in range(3)]
        for run in runs:
            await run.pause()
        await elapse(rt, virtual_clock, 1800, 1800)
        await runs[0].resume()
        await quiet(rt)
        assert await runs[0].status() == "running"
        await elapse(rt, virtual_clock, 1900, 1900)
        assert await runs[0].status() == "completed"
        assert await runs[1].status() == "blocked"
        await runs[1].resume()
        await elapse(rt, virtual_clock, 1)
        assert await runs[1].result(WAIT) == "LATE"
        assert CALLS == {"late": 2}


async def test_delayed_run_that_is_paused_does_not_begin(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Its start falls due, and happens once it is resumed."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(line.options(delay="1h"), "a")
        await run.pause()
        await elapse(rt, virtual_clock, 7200, 7200)
        assert not CALLS
        await run.resume()
        assert await run.result(WAIT) == ["A"]


async def test_who_waits_for_a_paused_run_waits_on(journal_path: Path) -> None:
    """A pause is no error: those who wait get the result, whenever they began to wait."""
    GATES["a"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a")
        early = asyncio.create_task(run.result(WAIT))
        await until(lambda: CALLS["a"])
        await run.pause()
        late = asyncio.create_task(run.result(WAIT))
        GATES["a"].set()
        await quiet(rt)
        assert not early.done() and not late.done()
        await run.resume()
        assert await early == await late == ["A"]


async def test_paused_run_that_is_cancelled_cleans_up(journal_path: Path) -> None:
    """The cancellation lifts the pause; no further attempt of a step begins before it."""
    GATES["a"] = asyncio.Event()
    FAILS["a"] = 1
    async with opened(journal_path) as rt:
        run = await rt.start(tidy, "a")
        await until(lambda: CALLS["a"])
        await run.pause()
        GATES["a"].set()
        await until(lambda: _has(run, "step_retrying"))
        await run.cancel("enough")
        await assert_cancelled(run, "enough")
        assert CALLS == {"a": 1, "tidy": 1}


async def test_paused_run_that_had_not_begun_is_cancelled_at_once(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """There is nothing to clean up."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(tidy.options(delay="1h"), "a")
        await run.pause()
        await run.cancel("enough")
        await assert_cancelled(run, "enough")
        assert not CALLS


async def test_run_that_waits_for_its_code_can_be_paused(journal_path: Path) -> None:
    """The code that comes does not let it go on; resuming does."""
    clock = VirtualClock()
    async with opened(journal_path, clock) as rt:
        await rt.start(sleeper.options(run_id="r"))
    with without_workflow(sleeper):
        async with opened(journal_path, clock) as rt:
            run = rt.get_run("r")
            await elapse(rt, clock, 3700, 3700)
            await until(lambda: _has_reason(run, "no workflow named"))
            await run.pause()
            assert (await run.status()).reason == "paused"
    async with opened(journal_path, clock) as rt:
        run = rt.get_run("r")
        await quiet(rt)
        assert await run.status() == "blocked"
        await run.resume()
        await elapse(rt, clock, 1)
        assert await run.result(WAIT) == "LATE"


@workflow(name="pause.stubborn")
async def stubborn() -> str:
    """Wait a day; clean up for as long as it takes, whoever says what."""
    try:
        await sleep("1 day")
    finally:
        while True:
            try:
                await act("tidy")
                break
            except asyncio.CancelledError:
                CALLS["told again"] += 1
    return "never"


async def test_second_request_ends_a_run_that_was_paused_while_it_cleaned_up(
    journal_path: Path,
) -> None:
    """It ends without its consent, as any run does at a second request."""
    GATES["tidy"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(stubborn)
        await until(lambda: _has(run, "wait_created"))
        await run.cancel("first")
        await until(lambda: CALLS["tidy"])
        await run.pause()
        await run.cancel("second")
        await assert_cancelled(run, "first")
        await quiet(rt)
        assert CALLS["told again"] == 0


@workflow(name="pause.leaves")
async def leaves() -> None:
    """Start a child that ends with its parent, and end a second later."""
    await start(stubborn.options(run_id="child", on_parent_close="cancel"))
    await sleep(1)


async def test_child_that_cleans_up_after_its_parent_stays_paused_over_a_restart(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """What its parent's end asked of it before is not asked again when the journal is opened."""
    GATES["tidy"] = asyncio.Event()
    async with opened(journal_path, virtual_clock) as rt:
        await rt.start(leaves)
        await until(rt.get_run("child").exists)
        await until(lambda: _has(rt.get_run("child"), "wait_created"))
        await virtual_clock.advance(1)
        await until(lambda: CALLS["tidy"])
        await rt.get_run("child").pause()
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await until(lambda: not rt._engine._spawned)
        assert await rt.get_run("child").status() == "blocked"
        assert CALLS["told again"] == 0
        GATES["tidy"].set()
        await rt.get_run("child").resume()
        await assert_cancelled(rt.get_run("child"), "its parent run has ended")


async def _has_reason(run: Run[Any], text: str) -> bool:
    return text in ((await run.status()).reason or "")


async def test_run_that_has_ended_cannot_be_paused(journal_path: Path) -> None:
    """The error names the status; there has to be a run at all."""
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a")
        await run.result(WAIT)
        with pytest.raises(RunStateError, match="completed"):
            await run.pause()
        with pytest.raises(WorkflowRunNotFoundError):
            await rt.get_run("nobody").pause()


async def test_attempt_that_a_crash_has_cut_off_counts_though_its_run_is_paused_at_once(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Before anybody has brought the run into memory: the next attempt has a number of its own."""

    async def pass_time() -> None:
        while True:
            await virtual_clock.advance(0.5)

    GATES["a"] = asyncio.Event()
    rt = make(journal_path, virtual_clock)
    await rt.open()
    await rt.start(line.options(run_id="one"), "a")
    await until(lambda: CALLS["a"])
    await crash(rt)
    del GATES["a"]
    slow = partial(InlineDriver, clock=virtual_clock, latency=lambda: 1.0)
    passing = asyncio.ensure_future(pass_time())
    async with opened(journal_path, virtual_clock, driver=slow) as rt:
        run = rt.get_run("one")
        await run.pause()
        assert CALLS["a"] == 1
        await run.resume()
        assert await run.result(WAIT) == ["A"]
    passing.cancel()
    assert ATTEMPTS == [1, 2]


@workflow(name="pause.warden")
async def warden(run_id: str) -> list[str]:
    """Pause another run, look at it, and let it go on."""
    other: Run[list[str]] = Run(run_id)
    await other.pause("a look")
    seen = await other.status()
    await other.resume()
    return [str(seen), str(seen.reason), *await other.result()]


async def test_body_pauses_and_resumes_another_run(journal_path: Path) -> None:
    """As steps of its own, so that replay does not repeat them."""
    GATES["a"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(line, "a")
        await until(lambda: CALLS["a"])
        watching = await rt.start(warden, run.run_id)
        await until(lambda: _waits(watching))
        GATES["a"].set()
        assert await watching.result(WAIT) == ["blocked", "paused: a look", "A"]


async def _waits(run: Run[Any]) -> bool:
    return any("run.result" in each for each in (await run.status()).waiting_for)


@workflow(name="pause.race")
async def race() -> str:
    """The first of two steps; the other one is given up."""
    steps = [asyncio.create_task(act(name)) for name in ("slow", "quick")]
    done, _ = await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
    steps[0].cancel()
    await act("last")
    return done.pop().result()


async def test_step_that_was_given_up_has_no_other_outcome_if_its_run_is_paused_just_then(
    journal_path: Path,
) -> None:
    """Its attempt goes on until that is on record, and what it comes to is nobody's business."""
    disk, held = Disk(), list[Request]()

    def hold_writes(request: Request) -> None:
        (request.perform if request.reads else partial(held.append, request))()

    GATES.update(slow=asyncio.Event(), quick=asyncio.Event())
    async with opened(journal_path, driver=disk) as rt:
        run = await rt.start(race)
        await until(lambda: CALLS["slow"] and CALLS["quick"])
        disk.meddle = hold_writes
        GATES["quick"].set()
        await until(lambda: held)
        pausing = asyncio.ensure_future(run.pause())
        await settle(20)
        disk.let_go(held)
        await pausing
        GATES["slow"].set()
        await settle(20)
        await run.resume()
        assert await run.result(WAIT) == "QUICK"
        events = await run.events()
    outcomes = [e.kind for e in events if e.ref == 3 and e.kind != "step_retrying"]
    assert outcomes == ["step_cancelled"]


async def test_pausing_a_run_that_is_being_loaded_waits_without_turning_in_circles(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A slow disk is asked once, not as often as the processor can."""
    GATES["a"] = asyncio.Event()
    async with opened(journal_path, virtual_clock) as rt:
        await rt.start(line.options(run_id="one"), "a")
        await until(lambda: CALLS["a"])

    def on_slow_disk(uri: str, read_only: bool) -> InlineDriver:
        seconds = 60.0 if read_only else 0.0
        return InlineDriver(uri, read_only, clock=virtual_clock, latency=lambda: seconds)

    passing = asyncio.ensure_future(virtual_clock.advance(3600))
    async with opened(journal_path, virtual_clock, driver=on_slow_disk) as rt:
        await until(lambda: rt._engine._loader.is_busy("one"))
        before = rt.journal.disk.commits
        await rt.get_run("one").pause()
        assert rt.journal.disk.commits - before < 10
    passing.cancel()
