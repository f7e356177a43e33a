"""Frozen coroutines are freed without running their clean-up code."""

from __future__ import annotations

import asyncio
import gc
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from durable._replay import freeze as module
from durable._replay.freeze import freeze, supported

SCRIPT = Path(__file__).with_name("frozen_bodies.py")
BODIES = runpy.run_path(str(SCRIPT))
NAMES = sorted(BODIES["BODIES"])


def interpreters() -> list[str]:
    """Return the CPythons of this machine, this one first."""
    found = {sys.version_info[:2]: sys.executable}
    for minor in range(11, 16):
        path = shutil.which(f"python3.{minor}")
        if path and subprocess.run([path, "-c", ""], check=False).returncode == 0:
            found.setdefault((3, minor), path)
        for other in Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"):
            found.setdefault((3, minor), str(other))
    return list(found.values())


def run_script(python: str, *args: str) -> str:
    """Run the bodies as a script and return what it printed, errors included."""
    command = [python, "-W", "ignore::ResourceWarning", str(SCRIPT), str(module.__file__), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_dropped_frozen_body_runs_no_cleanup_and_frees_its_locals(name: str) -> None:
    """Neither code of the body nor a complaint of asyncio's; and no leak."""
    log = BODIES["drop"](name, freeze)
    assert log.ran == []
    assert log.alive() == 0


@pytest.mark.parametrize("name", NAMES)
def test_unfrozen_body_shows_what_freezing_prevents(name: str) -> None:
    """The control: without `freeze` the same bodies do run clean-up code when dropped."""
    assert BODIES["drop"](name, lambda _: True).ran != []


@pytest.mark.parametrize("mode", ["drop", "exit", "exit-pinned"])
def test_other_pythons_run_no_cleanup_when_dropped_or_at_exit(mode: str) -> None:
    """Dropped, alive at exit, and alive at exit where the interpreter cannot freeze."""
    outputs = {python: run_script(python, mode) for python in interpreters()}
    assert outputs == dict.fromkeys(outputs, "ok\n")


def test_freezing_is_supported_on_the_interpreters_we_name() -> None:
    """On the CPythons with a GIL nothing is pinned."""
    assert supported()
    assert freeze([])
    assert module._pinned == []


def test_tasks_of_another_loop_are_not_frozen() -> None:
    """A body that holds a future of the host does not silence the host's clean-up."""
    ran: list[str] = []

    async def host_work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ran.append("host")

    async def body(held: object) -> None:
        await asyncio.get_running_loop().create_future()
        print(held)

    host, inner = asyncio.new_event_loop(), asyncio.new_event_loop()
    host_task = host.create_task(host_work())
    task = inner.create_task(body([host_task]))
    for loop in (host, inner):
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert freeze([task])
    assert gc.is_finalized(task.get_coro())
    assert not gc.is_finalized(host_task.get_coro())
    host_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        host.run_until_complete(host_task)
    assert ran == ["host"]
    host.close()
    inner.close()


def test_closing_a_frozen_coroutine_by_hand_still_runs_its_finally() -> None:
    """Freezing concerns garbage only."""
    log = BODIES["Log"]()
    loop, tasks = BODIES["suspend"]("nested_awaits", log)
    assert freeze(tasks)
    (task,) = tasks
    coroutine = task.get_coro()
    coroutine.close()
    assert log.ran
    loop.close()


def test_freezing_twice_changes_nothing() -> None:
    """It is idempotent, so that stopping may overlap with eviction."""
    log = BODIES["Log"]()
    loop, tasks = BODIES["suspend"]("in_task_group", log)
    assert freeze(tasks) and freeze(tasks)
    loop.close()
    del tasks, loop
    gc.collect()
    assert (log.ran, log.alive()) == ([], 0)


def test_body_that_holds_a_large_object_graph_is_frozen_quickly() -> None:
    """The walk is bounded outside of frames, and frames are never cut off by that."""
    log = BODIES["Log"]()

    async def body(graph: list[list[object]]) -> None:
        await BODIES["BODIES"]["in_gather"](log)
        print(graph)

    loop = asyncio.new_event_loop()
    tasks = {loop.create_task(body([[[]] for _ in range(200_000)]))}
    for _ in range(12):
        loop.call_soon(loop.stop)
        loop.run_forever()
    tasks |= asyncio.all_tasks(loop)
    began = time.thread_time()  # a busy machine takes none of it; unbounded it takes minutes
    assert freeze(tasks)
    assert time.thread_time() - began < 5.0
    loop.close()
    del tasks, loop
    gc.collect()
    assert (log.ran, log.alive()) == ([], 0)
