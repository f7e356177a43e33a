"""SIGTERM while a runtime is open: heard in any thread, and only where nobody else hears it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable import Runtime, SyncRuntime
from tests.surface.programs import Program, spawn

SECONDS_MAX = 4.0

PROGRAM = """
import asyncio, os, signal, sys, threading, time
import durable
from durable import Runtime


def end_in_a_thread():
    time.sleep(0.3)  # by then the loop waits for events
    print("now", flush=True)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)


async def wait():
    async with Runtime("app.db"):
        threading.Thread(target=end_in_a_thread, daemon=True).start()
        await asyncio.Event().wait()


async def fork():
    async with Runtime("app.db"):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        await asyncio.sleep(0.05)
        print("child", os.waitstatus_to_exitcode(status), flush=True)


def wakeup_descriptor():
    number = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(number)
    return number


async def leave():
    async with Runtime("first.db"):
        pass  # it makes the pipe, which the process keeps
    before, interrupt = wakeup_descriptor(), signal.getsignal(signal.SIGINT)
    descriptors = len(os.listdir("/proc/self/fd"))
    async with Runtime("one.db"):
        async with Runtime("two.db"):
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) is interrupt
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert wakeup_descriptor() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


runner = asyncio.run if sys.argv[1] == "asyncio" else durable.run
runner(globals()[sys.argv[2]]())
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path, PROGRAM)


@pytest.fixture
def default_handler() -> Iterator[None]:
    """No handler for SIGTERM, as programs begin."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_signal_that_another_thread_receives_ends_a_waiting_program(
    loop: str, program: Program
) -> None:
    """Nothing interrupts the loop's wait then; the owner still leaves its note."""
    with spawn(program, loop, "wait") as process:
        process.until("now")
        assert process.ends_within(SECONDS_MAX) == -signal.SIGTERM, process.lines
    assert '"ended": "SIGTERM"' in (program.folder / "app.db.lock").read_text()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_signal_to_a_forked_child_does_not_end_its_parent(loop: str, program: Program) -> None:
    """They share the pipe that wakes the loop."""
    with spawn(program, loop, "fork") as process:
        assert process.end() == 0, process.lines
        assert process.lines[-1] == "child -15"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_runtimes_leave_the_signals_as_they_found_them(loop: str, program: Program) -> None:
    """Once the last one is closed, nothing of theirs is left; Ctrl-C they never touch."""
    # In a program of its own: a runtime that another test has left open would be the last one.
    with spawn(program, loop, "leave") as process:
        assert process.end() == 0, process.lines


OUTLIVED = """
import asyncio
import durable
from durable._surface import endings


class Abandoned:
    def going_down(self, cause): ...
    def abandon(self): ...


async def open_only(runtime):
    endings.watch(runtime)


async def close():
    async with durable.Runtime("app.db"):
        abandoned.clear()  # the collector takes it


abandoned = [Abandoned()]
asyncio.run(open_only(abandoned[0]))
durable.run(close())
"""


def test_a_runtime_that_outlived_its_loop_does_not_break_the_next_loop(tmp_path: Path) -> None:
    """uvloop puts back the descriptor that it found, so that one has to be there still."""
    with spawn(Program(tmp_path, OUTLIVED)) as process:
        assert process.end() == 0, process.lines


@pytest.mark.usefixtures("default_handler")
def test_handler_and_wakeup_of_the_program_are_kept(tmp_path: Path) -> None:
    """A program that handles SIGTERM goes on doing so, before, meanwhile and afterwards."""
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    mine = signal.getsignal(signal.SIGTERM)

    async def use() -> None:
        async with Runtime(tmp_path / "one.db"):
            assert signal.getsignal(signal.SIGTERM) is mine
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        async with Runtime(tmp_path / "two.db"):
            signal.signal(signal.SIGTERM, mine)
        assert signal.getsignal(signal.SIGTERM) is mine

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        before = signal.set_wakeup_fd(ours.fileno())
        asyncio.run(use())
        assert signal.set_wakeup_fd(before) == ours.fileno()
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


@pytest.mark.usefixtures("default_handler")
def test_sync_runtime_installs_no_handler(tmp_path: Path) -> None:
    """Its loop is in another thread, where Python hears no signals."""
    with SyncRuntime(tmp_path / "app.db"):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
