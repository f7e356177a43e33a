"""Sleeps, delays and deadlines: never early, prompt, whatever the clocks do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import now, sleep, step, workflow
from durable.errors import (
    DurationError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WorkflowTimeoutError,
)
from durable.testing import VirtualClock
from tests.engine.rig import count_rows, crashing, elapse, kinds, opened, quiet

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = 3600
FORMS = [
    (90, 90),
    (0.5, 0.5),
    (timedelta(days=2), 2 * 86400),
    ("1h30m", 5400),
    (START + timedelta(minutes=7), 420),
    (START - timedelta(days=1), 0),
    (0, 0),
]
UNUSABLE: list[Any] = [
    -1,
    float("nan"),
    float("inf"),
    timedelta(seconds=-1),
    "soon",
    "1m1h",
    True,
    None,
    datetime(2030, 1, 1),  # noqa: DTZ001  # naive on purpose
    200 * 366 * 86400,
    datetime(2200, 1, 1, tzinfo=UTC),
]


@workflow
async def sleeper(duration: Any) -> float:
    """Sleep, and tell when it woke, in seconds since the start of time."""
    await sleep(duration)
    return (now() - START).total_seconds()


# --- sleeping -------------------------------------------------------------------------


@pytest.mark.parametrize(("duration", "seconds"), FORMS)
async def test_sleep_takes_any_form_and_wakes_at_its_time(
    journal_path: Path, virtual_clock: VirtualClock, duration: Any, seconds: float
) -> None:
    """Not a moment before."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper, duration)
        await quiet(rt)
        if seconds:
            await virtual_clock.advance(seconds - 0.001)
            assert await run.status() == "running"
        await virtual_clock.advance(0.001)
        assert await run.result() == seconds


@pytest.mark.parametrize("duration", UNUSABLE, ids=repr)
async def test_unusable_duration_is_refused_at_the_call_and_nothing_is_recorded(
    journal_path: Path, duration: Any
) -> None:
    """The body may catch the error and go on."""

    @workflow
    async def flow() -> str:
        try:
            await sleep(duration)
        except DurationError as error:
            return str(error)
        return "slept"

    async with opened(journal_path) as rt:
        run = await rt.start(flow)
        assert await run.result() != "slept"
        assert await kinds(run) == ["run_created", "run_started", "run_completed"]


async def test_asyncio_waits_are_durable_waits(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """`asyncio.sleep`, `timeout` and `wait_for` follow the same clock and survive a crash."""

    @workflow
    async def flow() -> list[str]:
        seen = []
        await asyncio.sleep(10)
        try:
            async with asyncio.timeout(10):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("timeout")
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 10)
        except TimeoutError:
            seen.append("wait_for")
        return seen

    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await elapse(rt, virtual_clock, 15, 5)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await elapse(rt, virtual_clock, 10, 5)
        run = rt.get_run(run.run_id)
        assert await run.status() == "running"
        await elapse(rt, virtual_clock, 5, 5)
        assert await run.result() == ["timeout", "wait_for"]


async def test_sleeps_wake_in_the_order_of_their_times(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Within a run and across runs."""
    woken = []

    @step
    async def note(name: str) -> None:
        woken.append(name)

    async def nap(name: str, seconds: float) -> None:
        await sleep(seconds)
        await note(name)

    @workflow
    async def flow(offset: float) -> None:
        await asyncio.gather(*[nap(f"{offset + n}", offset + n) for n in (30, 10, 20)])

    async with opened(journal_path, virtual_clock) as rt:
        runs = [await rt.start(flow, offset) for offset in (5, 0)]
        await quiet(rt)
        await elapse(rt, virtual_clock, 40, 5)
        for run in runs:
            await run.result()
    assert woken == ["10", "15", "20", "25", "30", "35"]


# --- clocks that jump -----------------------------------------------------------------


@pytest.mark.parametrize("jump", [-10 * 365 * 86400, -HOUR, HOUR, 10 * 365 * 86400])
@pytest.mark.parametrize("before", [True, False])
async def test_wall_clock_jumps_change_no_duration(
    journal_path: Path, virtual_clock: VirtualClock, jump: int, *, before: bool
) -> None:
    """Whether the clock is set before the sleep begins or during it."""
    woken = []

    @workflow
    async def flow() -> None:
        await sleep(1)  # the journal has seen the old time
        await sleep(100)
        woken.append(virtual_clock.boot())

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(flow.options(timeout=10_000))
        await quiet(rt)
        await virtual_clock.advance(0.5 if before else 50)
        virtual_clock.set_wall(virtual_clock.wall_us() + jump * 1_000_000)
        await elapse(rt, virtual_clock, 200, 0.5)
        await run.result()
        moments = [event.at for event in await run.events()]
    assert woken == [101]
    assert moments == sorted(moments)


async def test_sleep_until_an_instant_follows_the_wall_clock(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Set forward it is due at once, set back it waits for its time to come again."""
    virtual_clock.tick_seconds_max = 1.0  # as the system's clock: jumps are noticed
    async with opened(journal_path, virtual_clock) as rt:
        runs = [await rt.start(sleeper, START + timedelta(hours=h)) for h in (1, 2)]
        await quiet(rt)
        virtual_clock.set_wall(virtual_clock.wall_us() + HOUR * 1_000_000)
        await elapse(rt, virtual_clock, 1, 1)
        assert await runs[0].status() == "completed"
        virtual_clock.set_wall(virtual_clock.wall_us() - HOUR * 1_000_000)
        await elapse(rt, virtual_clock, HOUR + 10, 60)
        assert await runs[1].status() == "running"
        await elapse(rt, virtual_clock, HOUR, 60)
        assert await runs[1].status() == "completed"


async def test_what_fell_due_during_a_suspend_fires_promptly_after_it(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Sleeps, retries and delayed starts; nothing waits a second time."""

    @step
    async def once_failing() -> str:
        ran.append(1)
        if len(ran) == 1:
            raise ValueError
        return "done"

    @workflow
    async def retrying() -> str:
        return await once_failing()

    ran: list[int] = []
    async with opened(journal_path, virtual_clock) as rt:
        runs = [
            await rt.start(sleeper, HOUR),
            await rt.start(retrying),
            await rt.start(sleeper.options(delay=HOUR), 0),
        ]
        await quiet(rt)
        virtual_clock.suspend(8 * HOUR)
        await virtual_clock.advance(1)
        await quiet(rt)
        assert [await run.status() for run in runs] == ["completed"] * 3


async def test_sleep_that_fell_due_while_nothing_ran_ends_at_the_next_opening(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """And one that is not due yet waits for the rest of its time only."""
    async with crashing(journal_path, virtual_clock) as rt:
        runs = [await rt.start(sleeper, seconds) for seconds in (100, 300)]
        await quiet(rt)
    virtual_clock.suspend(200)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await virtual_clock.advance(0)
        assert await rt.get_run(runs[0].run_id).result() == 200
        await elapse(rt, virtual_clock, 99)
        assert await rt.get_run(runs[1].run_id).status() == "running"
        await elapse(rt, virtual_clock, 1)
        assert await rt.get_run(runs[1].run_id).result() == 300


# --- delay and at ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"delay": 60}, {"delay": "1m"}, {"at": START + timedelta(minutes=1)}],
    ids=["seconds", "text", "at"],
)
async def test_delayed_run_is_pending_until_its_time(
    journal_path: Path, virtual_clock: VirtualClock, options: Any
) -> None:
    """In the same process or in a later one."""
    async with opened(journal_path, virtual_clock) as rt:
        here = await rt.start(sleeper.options(**options), 0)
        await elapse(rt, virtual_clock, 59)
        assert await here.status() == "pending"
        assert len(rt._engine.scheduler) == 0
        await elapse(rt, virtual_clock, 1)
        assert await here.result() == 60
        assert (await here.created_at(), await here.started_at()) == (
            START,
            START + timedelta(seconds=60),
        )


async def test_delayed_run_starts_in_a_later_process(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """On time, or as soon as it can be when its time has passed."""
    async with crashing(journal_path, virtual_clock) as rt:
        runs = [await rt.start(sleeper.options(delay=seconds), 0) for seconds in (50, 150)]
    virtual_clock.suspend(100)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        assert await rt.get_run(runs[0].run_id).result() == 100
        await elapse(rt, virtual_clock, 50)
        assert await rt.get_run(runs[1].run_id).result() == 150


@pytest.mark.parametrize("duration", [value for value in UNUSABLE if value is not None], ids=repr)
async def test_unusable_delay_timeout_or_retention_is_refused(
    journal_path: Path, duration: Any
) -> None:
    """Where the option is given; nothing can be started with it."""
    if isinstance(duration, datetime):
        with pytest.raises((DurationError, TypeError)):
            sleeper.options(delay=duration)  # type: ignore[arg-type]
        return
    for option in ("delay", "timeout", "retention"):
        with pytest.raises(DurationError):
            sleeper.options(**{option: duration})
    with pytest.raises(DurationError):
        sleeper.options(at=datetime(2030, 1, 1))  # noqa: DTZ001  # naive on purpose
    async with opened(journal_path) as rt:
        assert await count_rows(rt) == 0


# --- waking up early ------------------------------------------------------------------


async def test_wake_up_ends_all_sleeps_of_a_run(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """And tells how many; timers that belong to asyncio are left alone."""

    @workflow
    async def flow() -> list[float]:
        async with asyncio.timeout(5000):
            await asyncio.gather(sleep(100), asyncio.sleep(200), sleep(START + timedelta(days=1)))
        return [(now() - START).total_seconds()]

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        await virtual_clock.advance(10)
        assert await run.wake_up() == 3
        assert await run.result() == [10]
        ended = [e for e in await run.events() if e.kind == "wait_completed"]
        assert [e.name for e in ended] == ["woken"] * 3


async def test_wake_up_ends_chosen_sleeps_only(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """By the number of their event; unknown, repeated and ended ones do not count."""

    @workflow
    async def flow() -> None:
        await asyncio.gather(sleep(100), sleep(200))

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(flow)
        await quiet(rt)
        waits = [e.seq for e in await run.events() if e.kind == "wait_created"]
        assert await run.wake_up([waits[1], waits[1], 999, 1]) == 1
        assert await run.wake_up([waits[1]]) == 0
        first, second = await asyncio.gather(run.wake_up(), run.wake_up())
        assert first + second == 1
        await run.result()


async def test_wake_up_without_a_sleep_ends_nothing(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Pending, finished and busy runs answer 0."""
    async with opened(journal_path, virtual_clock) as rt:
        done = await rt.start(sleeper, 0)
        await done.result()
        delayed = await rt.start(sleeper.options(delay=10), 0)
        assert [await done.wake_up(), await delayed.wake_up()] == [0, 0]
        assert await delayed.status() == "pending"


async def test_evicted_sleeper_can_be_woken(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """It is brought back for it, and the wake-up survives a crash."""
    async with crashing(journal_path, virtual_clock, idle_runs=1) as rt:
        runs = [await rt.start(sleeper, 1000) for _ in range(3)]
        await quiet(rt)
        assert await runs[0].wake_up() == 1
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        assert await rt.get_run(runs[0].run_id).result() == 0
        assert await rt.get_run(runs[1].run_id).status() == "running"


# --- deadlines ------------------------------------------------------------------------


async def assert_timed_out(run: Any, seconds: int) -> None:
    """The run failed at its deadline, so long after the clock's beginning, and says so."""
    with pytest.raises(WorkflowRunFailedError) as failed:
        await run.result(5)
    assert isinstance(failed.value.__cause__, WorkflowTimeoutError)
    assert isinstance(failed.value.__cause__, TimeoutError)
    moment = (datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()
    assert f"its deadline came, at {moment}" in str(failed.value.__cause__)


async def test_run_fails_at_its_deadline_after_its_clean_up(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The body is cancelled as on request; an early end keeps its result."""
    seen = []

    @workflow
    async def flow(seconds: float) -> str:
        try:
            await sleep(seconds)
        finally:
            await sleep(1)
            seen.append(seconds)
        return "in time"

    async with opened(journal_path, virtual_clock) as rt:
        runs = [await rt.start(flow.options(timeout="1m"), seconds) for seconds in (50, 500)]
        await quiet(rt)
        await elapse(rt, virtual_clock, 59, 1)
        assert await runs[0].result() == "in time"
        assert await runs[1].status() == "running"
        await elapse(rt, virtual_clock, 3, 1)
        await assert_timed_out(runs[1], 60)
    assert seen == [50, 500]


@pytest.mark.parametrize("downtime", [10, 1000])
async def test_deadline_survives_a_restart(
    journal_path: Path, virtual_clock: VirtualClock, downtime: float
) -> None:
    """It neither starts again nor is forgotten, and falls due while nothing runs."""
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper.options(timeout=100), 5000)
        await quiet(rt)
    virtual_clock.suspend(downtime)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        run = rt.get_run(run.run_id)
        if downtime < 100:
            await elapse(rt, virtual_clock, 80)
            assert await run.status() == "running"
        await elapse(rt, virtual_clock, 10)
        await assert_timed_out(run, 100)


async def test_run_whose_deadline_passed_before_it_began_fails_without_beginning(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Nothing of its body runs; the deadline counts from its planned start."""
    ran = []

    @workflow
    async def flow() -> None:
        ran.append(1)

    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(flow.options(delay=50, timeout=100))
    virtual_clock.suspend(151)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        run = rt.get_run(run.run_id)
        await assert_timed_out(run, 150)
        assert await kinds(run) == ["run_created", "run_failed"]
    assert ran == []


async def test_deadline_of_a_delayed_run_counts_from_its_start(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A timeout shorter than the delay makes sense."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper.options(delay=100, timeout=10), 5)
        await elapse(rt, virtual_clock, 105, 5)
        assert await run.result() == 105


async def test_cancelling_at_the_deadline_has_one_end(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Whichever request comes first names the end."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper.options(timeout=10), 500)
        await quiet(rt)
        await asyncio.gather(run.cancel("user"), virtual_clock.advance(10))
        await quiet(rt)
        with pytest.raises((WorkflowRunFailedError, WorkflowRunCancelledError)):
            await run.result()
        assert len([k for k in await kinds(run) if k in {"run_failed", "run_cancelled"}]) == 1
