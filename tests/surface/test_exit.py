"""Ending a program in any way: promptly, without a body's `finally`, and with nothing lost."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import pytest

from tests.surface.programs import Process, Program, spawn

EXIT_SECONDS_MAX = 4.0

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, os, sys, threading
import durable
from durable import Runtime, get_run, sleep, start, step, workflow

MODE = sys.argv[1]
HANGS = not MODE.startswith("finish")
RUNS = ["one", "two", "three"]


@step
async def on_the_loop(name):
    if HANGS:
        await asyncio.sleep(3600)


@step
def in_a_thread(name):
    if HANGS:
        threading.Event().wait()


@workflow(name="exit.body")
async def exit_body(name):
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(on_the_loop(name))
            group.create_task(in_a_thread(name))
        await sleep(0.01)
    finally:
        print("finally in", MODE, flush=True)
    return name


async def begin(start):
    handles = [await start(exit_body.options(run_id=name), name) for name in RUNS]
    for run in handles:
        while len((await run.status()).waiting_for) < 2:
            await asyncio.sleep(0.01)
    print("ending" if len(sys.argv) < 3 else "ready", flush=True)


async def no_close():
    runtime = Runtime("app.db")
    await runtime.open()
    await begin(runtime.start)
    if MODE == "error":
        raise LookupError("on purpose")
    if MODE == "exit":
        sys.exit(3)


async def default_runtime():
    await begin(start)


async def wait_for_ever():
    async with Runtime("app.db") as runtime:
        await begin(runtime.start)
        await asyncio.gather(*[runtime.get_run(name).result() for name in RUNS])


async def wait_with_the_default():
    await begin(start)
    await get_run(RUNS[0]).result()


async def finish():
    for name in RUNS:
        print(await get_run(name).result(), flush=True)


def by_hand(close):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(no_close())
    if close:
        loop.close()


WAYS = {
    "returns": lambda: asyncio.run(no_close()),
    "error": lambda: asyncio.run(no_close()),
    "exit": lambda: asyncio.run(no_close()),
    "uvloop": lambda: durable.run(no_close()),
    "loop-closed": lambda: by_hand(True),
    "loop-left": lambda: by_hand(False),
    "default": lambda: asyncio.run(default_runtime()),
    "default-uvloop": lambda: durable.run(default_runtime()),
    "waits": lambda: asyncio.run(wait_for_ever()),
    "waits-uvloop": lambda: durable.run(wait_for_ever()),
    "waits-default": lambda: asyncio.run(wait_with_the_default()),
    "finish": lambda: asyncio.run(finish()),
    "finish-uvloop": lambda: durable.run(finish()),
}
os.environ["DURABLE_JOURNAL"] = "app.db"
WAYS[MODE]()
"""

# The ways in which programs end by themselves, with their exit codes.
ENDINGS = {
    "returns": 0,
    "error": 1,
    "exit": 3,
    "uvloop": 0,
    "loop-closed": 0,
    "loop-left": 0,
    "default": 0,
    "default-uvloop": 0,
}


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path, PROGRAM)


def assert_nothing_was_undone(process: Process, mode: str) -> None:
    """No body saw the end of its process as the end of its run."""
    assert f"finally in {mode}" not in process.lines, process.lines


def assert_all_runs_go_on(program: Program, mode: str) -> None:
    """Every run that was acknowledged completes in a later process."""
    with spawn(program, mode) as process:
        assert process.end() == 0, process.lines
        results = [line for line in process.lines if line in {"one", "two", "three"}]
        assert results == ["one", "two", "three"], process.lines


@pytest.mark.timeout(180)
def test_programs_that_end_without_closing_exit_at_once(program: Program) -> None:
    """However they end, one after the other, in the middle of the same steps; nothing is lost."""
    for mode, code in ENDINGS.items():
        with spawn(program, mode) as process:
            process.until("ending")
            assert process.ends_within(EXIT_SECONDS_MAX) == code, (mode, process.lines)
            assert_nothing_was_undone(process, mode)
    assert_all_runs_go_on(program, "finish")


@pytest.mark.timeout(180)
def test_signals_end_programs_at_once_and_no_step_is_blamed(program: Program) -> None:
    """Six stops in the middle of the same steps, as a container makes them; then all complete."""
    for mode, number in itertools.product(["waits", "waits-uvloop", "waits-default"], SIGNALS):
        with spawn(program, mode, "wait") as process:
            process.until("ready")
            process.signal(number)
            code = process.ends_within(EXIT_SECONDS_MAX)
            assert code != 0, (mode, number)
            assert_nothing_was_undone(process, mode)
            if number == signal.SIGTERM and mode == "waits":
                # Whoever supervises it sees it end by the signal, as without a runtime.
                assert code == -signal.SIGTERM
    assert_all_runs_go_on(program, "finish-uvloop")
