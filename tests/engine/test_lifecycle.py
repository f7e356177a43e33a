"""A runtime in its program: opening, closing, loops, what it reports, what it contains."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from durable import Runtime, get_run, logger, now, sleep, start, step, workflow
from durable._journal.codec import Codec
from durable.errors import (
    JournalLockedError,
    RuntimeClosedError,
    RuntimeNotRunningError,
    WorkflowRunBlockedError,
)
from durable.testing import VirtualClock, settle
from tests.engine.rig import (
    WAIT,
    crashing,
    elapse,
    make,
    messages,
    opened,
    quiet,
    until,
)


@step(name="tests.lifecycle.one")
async def one(value: Any = 1) -> Any:
    """Return what came."""
    return value


@step(name="tests.lifecycle.in_thread")
def in_thread(value: Any = 1) -> Any:
    """Return what came."""
    return value


@workflow
async def simple(value: Any = 1) -> Any:
    """An async and a sync step."""
    return await in_thread(await one(value))


@workflow
async def sleeper() -> None:
    """Sleep for long."""
    await sleep(1000)


# --- closing --------------------------------------------------------------------------


async def test_closing_twice_is_fine(journal_path: Path) -> None:
    """One after the other or both at once."""
    rt = make(journal_path)
    await rt.open()
    await asyncio.gather(rt.close(), rt.close())
    await rt.close()
    async with opened(journal_path) as again:
        assert await (await again.start(simple)).result() == 1


async def test_every_operation_after_closing_raises_runtime_closed_error(
    journal_path: Path,
) -> None:
    """With the path and the cure; nothing hangs."""
    async with opened(journal_path) as rt:
        run = await rt.start(sleeper)
    calls = [
        lambda: rt.start(simple),
        lambda: rt.start_many(simple, [()]),
        run.result,
        run.status,
        run.events,
        run.exists,
        run.cancel,
        run.wake_up,
        run.resume,
    ]
    for call in calls:
        with pytest.raises(RuntimeClosedError, match="open it again"):
            await call()


async def test_waiters_are_told_when_the_runtime_closes(journal_path: Path) -> None:
    """`result()` ends with an error; the run itself goes on after the next opening."""
    async with opened(journal_path) as rt:
        run = await rt.start(sleeper)
        waiting = asyncio.ensure_future(run.result())
        await settle()
    with pytest.raises(RuntimeClosedError):
        await waiting


async def test_cancelled_waiter_does_not_touch_the_run(journal_path: Path) -> None:
    """As when a notebook cell is interrupted, or `timeout` is over."""
    async with opened(journal_path) as rt:
        run = await rt.start(sleeper)
        waiting = asyncio.ensure_future(run.result())
        await settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(TimeoutError):
            await run.result(timeout=0)
        assert await run.status() == "running"
        assert rt._engine._waiters._waiters == {}


async def test_runtime_that_is_not_open_in_this_loop_says_so(journal_path: Path) -> None:
    """Before opening, opened a second time, and from another loop."""
    rt = make(journal_path)
    with pytest.raises(RuntimeNotRunningError, match="async with"):
        await rt.start(simple)
    async with rt:
        with pytest.raises(RuntimeNotRunningError, match="opened once"):
            await rt.open()

        def elsewhere() -> None:
            asyncio.run(rt.start(simple))

        with pytest.raises(RuntimeNotRunningError, match="another event loop"):
            await asyncio.to_thread(elsewhere)


async def test_step_that_outlives_its_runtime_cannot_start_runs(journal_path: Path) -> None:
    """It is told so, whatever else is open in the loop."""
    said: list[BaseException] = []
    began, gate = asyncio.Event(), asyncio.Event()

    @step
    async def stubborn() -> None:
        began.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                gate.set()
        try:
            await start(simple)
        except RuntimeNotRunningError as error:
            said.append(error)

    @workflow
    async def flow() -> None:
        await stubborn()

    async with opened(journal_path) as rt:
        await rt.start(flow)
        await began.wait()
    await until(lambda: said)
    assert isinstance(said[0], RuntimeClosedError)


# --- several --------------------------------------------------------------------------


async def test_two_journals_in_one_loop_do_not_meet(tmp_path: Path) -> None:
    """Each run belongs to its own; the one opened last is the default."""
    async with opened(tmp_path / "a.db") as first, opened(tmp_path / "b.db") as second:
        runs = [await first.start(simple, "a"), await second.start(simple, "b")]
        assert [await run.result() for run in runs] == ["a", "b"]
        assert not await second.get_run(runs[0].run_id).exists()
        default = await start(simple, "c")
        assert await get_run(default.run_id).result() == "c"
        assert await second.get_run(default.run_id).exists()
        assert not await first.get_run(default.run_id).exists()


async def test_one_journal_is_opened_once_in_a_process(journal_path: Path) -> None:
    """The second runtime is refused, the first goes on."""
    async with opened(journal_path) as rt:
        with pytest.raises(JournalLockedError):
            await make(journal_path).open()
        assert await (await rt.start(simple)).result() == 1


def test_runtimes_in_two_loops_of_one_process_work_side_by_side(tmp_path: Path) -> None:
    """Each in its thread, on its journal, with the same definitions."""
    results: dict[str, list[Any]] = {}
    both = threading.Barrier(2)

    async def main(name: str) -> None:
        async with Runtime(tmp_path / f"{name}.db", durability="process"):
            await asyncio.to_thread(both.wait, WAIT)
            runs = [await start(simple, f"{name}{n}") for n in range(10)]
            results[name] = [await run.result(WAIT) for run in runs]

    threads = [threading.Thread(target=lambda n=n: asyncio.run(main(n))) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert results == {name: [f"{name}{n}" for n in range(10)] for name in "ab"}


def test_journal_can_be_opened_in_one_loop_after_another(journal_path: Path) -> None:
    """As tests and notebooks do; a loop that ended without closing does not stand in the way."""

    async def main(n: int) -> list[Any]:
        async with Runtime(journal_path, durability="process") as rt:
            return [await (await rt.start(simple, n)).result(), rt.journal.boot_number]

    assert [asyncio.run(main(n)) for n in range(3)] == [[0, 1], [1, 2], [2, 3]]


# --- reports --------------------------------------------------------------------------


async def test_body_that_blocks_its_loop_is_reported_with_its_stack(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Once, by another thread, while it blocks; with the line it is at."""
    reported = threading.Event()
    records: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())
            reported.set()

    listener = Listener(logging.WARNING)
    logging.getLogger("durable").addHandler(listener)

    @workflow
    async def blocking() -> bool:
        virtual_clock.suspend(2)
        return reported.wait(WAIT)

    try:
        async with opened(journal_path, virtual_clock) as rt:
            run = await rt.start(blocking)
            assert await run.result() is True
    finally:
        logging.getLogger("durable").removeHandler(listener)
    assert len(records) == 1
    assert run.run_id in records[0]
    assert "return reported.wait(WAIT)" in records[0]


async def test_work_left_behind_at_return_is_cancelled_with_a_warning(
    journal_path: Path, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the line that waits; replay does not warn again."""
    seen = []

    async def forgotten() -> None:
        try:
            await sleep(500)  # the line
        finally:
            seen.append("cancelled")

    @workflow
    async def hasty() -> str:
        task = asyncio.create_task(forgotten(), name="forgotten")
        await sleep(10)
        return str(task.done())

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(hasty)
        await quiet(rt)
        await virtual_clock.advance(10)
        assert await run.result() == "False"
        assert virtual_clock.pending <= 1  # the sweeper's
    assert seen == ["cancelled"]
    (text,) = messages(caplog)
    assert "forgotten" in text
    assert "test_lifecycle.py:" in text


async def test_log_of_a_body_is_silent_while_it_replays(
    journal_path: Path, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each line once over all processes, with the run's id; steps log as they run."""
    caplog.set_level(logging.INFO)

    @step
    async def noisy() -> None:
        logger.info("in the step")

    @workflow
    async def talker() -> None:
        logger.info("first")
        await noisy()
        await sleep(10)
        logger.info("second")

    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(talker)
        await quiet(rt)
    for _ in range(2):
        async with crashing(journal_path, virtual_clock) as rt:
            await quiet(rt)
            await elapse(rt, virtual_clock, 4)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await elapse(rt, virtual_clock, 10)
        await rt.get_run(run.run_id).result()
    records = [r for r in caplog.records if r.name == "durable.workflow"]
    assert [record.getMessage() for record in records] == ["first", "in the step", "second"]
    assert {record.run_id for record in records} == {run.run_id}  # type: ignore[attr-defined]
    assert records[1].step_id == f"{run.run_id}:3"  # type: ignore[attr-defined]


# --- what it contains -----------------------------------------------------------------


class BrokenCodec(Codec):
    """A codec with a defect: it does not decode one value."""

    def decode(self, payload: bytes) -> Any:
        """Decode all but one."""
        value = super().decode(payload)
        if value == ["unlucky"]:
            raise ZeroDivisionError("a defect")
        return value


async def test_defect_that_one_run_meets_parks_it_and_no_other(
    journal_path: Path, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Live and on replay; its turn in the queue is not lost for those behind it."""
    gate = asyncio.Event()

    @step
    async def gated(value: Any) -> Any:
        await gate.wait()
        return value

    @workflow
    async def flow(value: Any) -> Any:
        return await gated(value)

    async with opened(journal_path, virtual_clock, codec=BrokenCodec()) as rt:
        runs = [await rt.start(flow, [name]) for name in ("unlucky", "a", "b")]
        await settle(20)
        gate.set()
        with pytest.raises(WorkflowRunBlockedError, match="please report it"):
            await runs[0].result(5)
        assert [await run.result(5) for run in runs[1:]] == [["a"], ["b"]]
    assert "a defect" in caplog.text


async def test_defect_met_while_a_run_is_brought_back_parks_it_and_no_other(
    journal_path: Path, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The recovery of the others goes on, and its caller does not wait for ever."""

    @workflow
    async def flow(name: str) -> Any:
        value = await one([name])
        await sleep(10)
        return value

    async with opened(journal_path, virtual_clock) as rt:
        runs = [await rt.start(flow, name) for name in ("a", "unlucky", "b")]
        await quiet(rt)
    virtual_clock.suspend(20)
    async with opened(journal_path, virtual_clock, codec=BrokenCodec()) as rt:
        await quiet(rt)
        await virtual_clock.advance(0)
        first, unlucky, last = [rt.get_run(run.run_id) for run in runs]
        assert [await first.result(5), await last.result(5)] == [["a"], ["b"]]
        with pytest.raises(WorkflowRunBlockedError, match="please report it"):
            await unlucky.result(5)
    async with opened(journal_path, virtual_clock) as rt:
        await rt.get_run(runs[1].run_id).resume()
        await quiet(rt)
        await virtual_clock.advance(0)
        assert await rt.get_run(runs[1].run_id).result(5) == ["unlucky"]


async def test_many_interleaved_runs_keep_their_own_context(journal_path: Path) -> None:
    """Time, randomness and results of one never show up in another."""

    @workflow
    async def mixed(n: int) -> tuple[int, int]:
        seen = [await one(n) for _ in range(3)]
        got = await asyncio.gather(*[one(n) for _ in range(3)])
        assert now() is not None
        return sum(seen), sum(got)

    async with opened(journal_path) as rt:
        runs = await rt.start_many(mixed, [(n,) for n in range(100)])
        assert [await run.result() for run in runs] == [(3 * n, 3 * n) for n in range(100)]
