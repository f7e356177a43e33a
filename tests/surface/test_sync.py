"""`SyncRuntime` gives programs without an event loop all that `Runtime` and `Run` do."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from durable import Run, Runtime, sleep, step, workflow
from durable._surface.sync import RuntimeOptions, SyncRun, SyncRuntime
from durable.errors import (
    DurationError,
    JournalLockedError,
    RuntimeClosedError,
    RuntimeNotRunningError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WrongContextError,
)

WAIT = 30.0  # seconds until a test gives up


@step
async def double(value: int) -> int:
    return value * 2


@workflow
async def sync_double(value: int) -> int:
    return await double(value)


@workflow
async def sync_fail() -> None:
    raise ValueError("on purpose")


@workflow
async def sync_wait() -> str:
    await sleep("1 day")
    return "awake"


@pytest.fixture
def rt(journal_path: Path) -> Iterator[SyncRuntime]:
    with SyncRuntime(journal_path) as runtime:
        yield runtime


def test_result_and_facts_of_a_run_come_back_without_a_loop(rt: SyncRuntime) -> None:
    """Every method of `Run` in its blocking form."""
    run = rt.start(sync_double, 21)
    assert run.result(WAIT) == 42
    assert run.exists()
    assert run.status() == "completed"
    assert run.workflow_name().endswith("sync_double")
    started, completed = run.started_at(), run.completed_at()
    assert started is not None
    assert completed is not None
    assert run.created_at() <= started <= completed
    assert run.attributes() == {}
    assert run.parent_id() is None
    assert [event.kind for event in run.events()][-1] == "run_completed"
    assert rt.get_run(run.run_id) == run
    assert not rt.get_run("unknown").exists()


def test_every_method_and_option_of_the_async_side_exists_here() -> None:
    """Nothing is forgotten when `Run` or `Runtime` grows."""

    def public(cls: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(cls, callable) if name[0] != "_"}

    assert public(SyncRun) == public(Run)
    assert set(get_type_hints(RuntimeOptions)) == set(inspect.signature(Runtime).parameters) - {
        "path"
    }


def test_many_runs_are_started_together(rt: SyncRuntime) -> None:
    """The iterable is consumed by the caller's thread."""
    runs = rt.start_many(sync_double, ((n,) for n in range(20)))
    assert [run.result(WAIT) for run in runs] == [n * 2 for n in range(20)]


@workflow
async def sync_sum(runs: list[Run[int]]) -> int:
    """Ask the runs that were given."""
    return sum([await run.result() for run in runs])


def test_handle_can_be_given_to_a_workflow(rt: SyncRuntime) -> None:
    """Bodies and steps have an event loop, so it is a `Run` there."""
    runs: list[Any] = [rt.start(sync_double, n) for n in (1, 2)]
    assert rt.start(sync_sum, runs).result(WAIT) == 6


def test_errors_are_raised_in_the_calling_thread(rt: SyncRuntime) -> None:
    """A failed run raises like the async `result`, a bad call like the async `start`."""
    with pytest.raises(WorkflowRunFailedError) as caught:
        rt.start(sync_fail).result(WAIT)
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(TypeError):
        rt.start(sync_double)  # type: ignore[call-overload]


def test_time_limit_of_result_ends_the_wait_and_not_the_run(rt: SyncRuntime) -> None:
    """The run sleeps on, can be woken up, and another cancelled."""
    run = rt.start(sync_wait)
    with pytest.raises(TimeoutError):
        run.result(0.05)
    assert run.wake_up() == 1
    assert run.result(WAIT) == "awake"
    other = rt.start(sync_wait)
    other.cancel("enough")
    with pytest.raises(WorkflowRunCancelledError, match="enough"):
        other.result(WAIT)


def test_several_threads_may_call_at_once(rt: SyncRuntime) -> None:
    """Each waits for its own run."""
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(rt.start(sync_double, n).result(WAIT)))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(results) == [n * 2 for n in range(8)]


def test_run_goes_on_when_the_journal_is_opened_again(journal_path: Path) -> None:
    """Closing parks; the same object may be opened a second time."""
    runtime = SyncRuntime(journal_path)
    with runtime:
        run_id = runtime.start(sync_wait).run_id
    with runtime:
        run = runtime.get_run(run_id)
        assert run.status() in {"running", "pending"}
        assert run.wake_up() == 1
        assert run.result(WAIT) == "awake"


def test_closed_or_unopened_runtime_says_so(journal_path: Path) -> None:
    """Instead of waiting for ever."""
    runtime = SyncRuntime(journal_path)
    runtime.close()
    with pytest.raises(RuntimeNotRunningError, match="with"):
        runtime.start(sync_wait)
    with runtime:
        run = runtime.start(sync_wait)
        with pytest.raises(RuntimeError, match="open already"):
            runtime.open()
    runtime.close()
    with pytest.raises(RuntimeClosedError):
        run.status()


def test_call_that_waits_when_the_runtime_is_closed_is_told(journal_path: Path) -> None:
    """A thread blocked in `result` does not hang for ever."""
    errors: list[BaseException] = []
    entered = threading.Event()
    runtime = SyncRuntime(journal_path, drain_seconds=0)
    runtime.open()
    run = runtime.start(sync_wait)

    def wait() -> None:
        entered.set()
        try:
            run.result()
        except RuntimeClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert entered.wait(WAIT)
    run.status()  # a round trip, behind the other call most of the time
    runtime.close()
    thread.join(WAIT)
    assert len(errors) == 1


def test_call_from_the_runtimes_own_loop_is_refused(rt: SyncRuntime) -> None:
    """It would wait for itself; the message names the way out."""
    seen: list[BaseException] = []

    @step
    async def calls_back() -> None:
        try:
            rt.get_run("x").exists()
        except WrongContextError as error:
            seen.append(error)

    @workflow
    async def sync_calls_back() -> None:
        await calls_back()

    rt.start(sync_calls_back).result(WAIT)
    assert "with `await` there" in str(seen[0])


def test_failure_to_open_is_raised_and_leaves_no_thread(journal_path: Path) -> None:
    """For instance when the same process has it open already."""
    before = threading.active_count()
    with SyncRuntime(journal_path):
        inside = threading.active_count()
        with pytest.raises(JournalLockedError):
            SyncRuntime(journal_path, client=False).open()
        assert threading.active_count() == inside
    assert threading.active_count() <= before + 1


PROGRAM = """
import signal, sys, threading
from durable import workflow, sleep
from durable._surface.sync import SyncRuntime

# A shell starts what runs in its background with Ctrl-C ignored, and Python keeps to that.
signal.signal(signal.SIGINT, signal.default_int_handler)

@workflow
async def sync_program():
    try:
        await sleep("1 day")
    finally:
        print("finally")
    return "done"
"""


def run_program(end: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + end, str(path)], stdout=subprocess.PIPE, text=True
    )


def test_ctrl_c_in_a_blocked_result_leaves_the_run_going(journal_path: Path) -> None:
    """KeyboardInterrupt reaches the program at once; the run can be waited for again."""
    program = run_program(
        "with SyncRuntime(sys.argv[1]) as rt:\n"
        "    run = rt.start(sync_program)\n"
        "    try:\n"
        "        while not run.status().waiting_for: pass\n"
        "        print('waiting', flush=True)\n"
        "        run.result()\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', run.status() in {'running', 'pending'}, run.wake_up())\n"
        f"    print(run.result({WAIT}))\n",
        journal_path,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "waiting\n"
    program.send_signal(signal.SIGINT)
    out, _ = program.communicate(timeout=WAIT)
    assert sorted(out.splitlines()) == ["done", "finally", "interrupted True 1"]


began, gate = threading.Event(), threading.Event()


@step
def held() -> str:
    """Run until the test lets it go."""
    began.set()
    gate.wait(2 * WAIT)
    return "done"


@workflow
async def sync_held() -> str:
    """One step that is running when the block is left."""
    return await held()


def test_ctrl_c_in_the_block_does_not_wait_for_running_steps(journal_path: Path) -> None:
    """The program is about to end; an error in the block waits for them as its end does."""
    for kind in (KeyboardInterrupt, SystemExit, ValueError):
        began.clear()
        gate.clear()
        lately = threading.Timer(0.2 if kind is ValueError else WAIT, gate.set)
        with pytest.raises(kind), SyncRuntime(journal_path, drain_seconds=2 * WAIT) as rt:
            run = rt.start(sync_held)
            began.wait(WAIT)
            lately.start()
            raise kind
        assert gate.is_set() is (kind is ValueError)
        lately.cancel()
        gate.set()
        with SyncRuntime(journal_path) as rt:
            again = rt.get_run(run.run_id)
            assert again.result(WAIT) == "done"
            notes = [event.name for event in again.events() if event.kind == "step_retrying"]
            assert notes == ([] if kind is ValueError else ["parked"])


def test_program_that_ends_without_closing_ends_at_once_and_loses_nothing(
    journal_path: Path,
) -> None:
    """No `finally` of the body runs, and the run goes on in the next process."""
    program = run_program(
        "rt = SyncRuntime(sys.argv[1])\nrt.open()\nprint(rt.start(sync_program).run_id)\n",
        journal_path,
    )
    out, _ = program.communicate(timeout=WAIT)
    assert program.returncode == 0
    (run_id,) = out.split()

    async def exists() -> bool:
        async with Runtime(journal_path) as runtime:
            return await runtime.get_run(run_id).exists()

    assert asyncio.run(exists())


@pytest.mark.parametrize("limit", ["50ms", timedelta(milliseconds=50), 0.05])
def test_time_limit_of_result_is_a_duration_and_named_when_it_is_over(
    rt: SyncRuntime, limit: Any
) -> None:
    """The error tells which run, and how long was waited."""
    run = rt.start(sync_wait)
    with pytest.raises(TimeoutError, match=rf"^run {run.run_id} has not ended within 0[.]05 s"):
        run.result(limit)
    with pytest.raises(DurationError, match=r"^timeout: "):
        run.result("soon")
