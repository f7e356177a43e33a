"""Drivers: functions run in order, whole, whatever happens to waiters, loops and processes."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest

from durable._journal.driver import InlineDriver, ThreadDriver
from durable.errors import ForkedJournalError, JournalError
from durable.testing import VirtualClock

KINDS = pytest.mark.parametrize("kind", [ThreadDriver, InlineDriver])


@pytest.fixture
def uri(journal_path):
    """Opens a database, creating it."""
    return f"file:{journal_path}?mode=rwc"


@KINDS
async def test_functions_run_in_order_and_report_in_order(kind, uri):
    """What is submitted first is done and reported first."""
    driver = kind(uri, False)
    await driver.open()
    ran, reported = [], []
    for number in range(100):
        driver.submit(lambda c, number=number: ran.append(number), lambda *_: reported.append(1))
    await driver.call(lambda c: None)
    await driver.close()
    assert ran == list(range(100))
    assert len(reported) == 100


@KINDS
async def test_error_of_a_function_reaches_its_submitter_only(kind, uri):
    """The next function runs as if nothing had happened."""
    driver = kind(uri, False)
    await driver.open()
    with pytest.raises(ZeroDivisionError):
        await driver.call(lambda c: 1 // 0)
    assert await driver.call(lambda c: c.execute("SELECT 5").fetchone()) == (5,)
    await driver.close()


@KINDS
async def test_reopening_gives_another_connection(kind, uri):
    """`release` closes, `reopen` connects again, in the order of the queue."""
    driver = kind(uri, False)
    await driver.open()
    first = await driver.call(lambda c: c)
    outcomes = []
    driver.release(outcomes.append)
    with pytest.raises(Exception, match="closed"):
        await driver.call(lambda c: c)
    driver.reopen(outcomes.append)
    assert await driver.call(lambda c: c) is not first
    assert outcomes == [None, None]
    await driver.close()
    await driver.close()


@KINDS
async def test_closed_driver_takes_nothing_in(kind, uri):
    """A function that would never run is refused."""
    driver = kind(uri, False)
    await driver.open()
    await driver.close()
    with pytest.raises(JournalError, match="closed"):
        driver.submit(lambda c: None, lambda *_: None)


async def test_cancelled_caller_does_not_stop_the_function(uri):
    """The function runs to its end; only its answer is dropped."""
    driver = ThreadDriver(uri, False)
    await driver.open()
    gate, ran = threading.Event(), []
    caller = asyncio.ensure_future(driver.call(lambda c: (gate.wait(5), ran.append(1))))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    gate.set()
    await driver.call(lambda c: None)
    assert ran == [1]
    await driver.close()


def test_closed_loop_does_not_stop_the_thread(uri):
    """Work queued when the loop closes is done; its outcome is dropped in silence."""
    gate, ran = threading.Event(), []
    driver = ThreadDriver(uri, False)

    async def leave_work_behind():
        await driver.open()
        driver.submit(lambda c: gate.wait(5), lambda *_: None)
        for number in range(10):
            driver.submit(lambda c, number=number: ran.append(number), lambda *_: None)

    asyncio.run(leave_work_behind())
    gate.set()
    driver.abandon()
    driver.wait_stopped(5)
    assert ran == list(range(10))


def test_forgotten_driver_makes_no_noise(uri):
    """Leaving a journal open is legal: no warning, and the thread ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        async def forget():
            driver = ThreadDriver(uri, False)
            await driver.open()
            return driver._thread

        thread = asyncio.run(forget())
        thread.join(5)
        assert not thread.is_alive()


async def test_failing_open_leaves_no_thread(journal_path):
    """A path that cannot be opened raises SQLite's error."""
    driver = ThreadDriver(f"file:{journal_path}/no/such?mode=ro", True)
    with pytest.raises(Exception, match="unable to open"):
        await driver.open()
    driver.wait_stopped(5)
    assert not driver._thread.is_alive()


async def test_forked_child_cannot_use_the_connection(uri):
    """In the child every use raises; the parent's connection goes on."""
    driver = ThreadDriver(uri, False)
    await driver.open()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads, on purpose
        child = os.fork()
    if child == 0:
        try:
            driver.submit(lambda c: None, lambda *_: None)
        except ForkedJournalError:
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(child, 0)  # noqa: ASYNC222  # it ends at once
    assert os.waitstatus_to_exitcode(status) == 7
    assert await driver.call(lambda c: c.execute("SELECT 1").fetchone()) == (1,)
    await driver.close()


async def test_inline_latency_is_the_same_for_the_same_seed(uri):
    """A simulation repeats itself: outcomes come on the clock, in order."""

    async def trace():
        clock, draws = VirtualClock(), random.Random(3)
        driver = InlineDriver(uri, False, clock=clock, latency=draws.random)
        await driver.open()
        seen = []
        for number in range(5):
            driver.submit(
                lambda c, number=number: number,
                lambda result, _: seen.append((result, clock.boot())),
            )
        await clock.advance(10)
        driver.abandon()
        return seen

    first, second = await trace(), await trace()
    assert [number for number, _ in first] == [0, 1, 2, 3, 4]
    assert first == second
    assert first[0][1] < first[1][1] < first[4][1]


EXIT = """
    import asyncio, sys
    from durable._base.clock import SystemClock
    from durable._journal.journal import Journal
    from tests.journal.rig import event, new_run, write

    async def main():
        journal = await Journal.open(sys.argv[1], clock=SystemClock())
        pk, first = new_run(journal, "a")
        await journal.perform(first)
        for seq in range(2, 200):
            journal.submit(write(events=[event(pk, "a", seq)],
                                 done=lambda error, seq=seq: print(seq, flush=True)))
        if sys.argv[2] == "wait":
            await journal.perform(write())
        keep.append(journal)

    keep = []
    {run}
"""


@pytest.mark.parametrize("way", ["asyncio.run(main())", "ASK.run_until_complete(main())"])
@pytest.mark.parametrize("wait", ["wait", "leave"])
def test_interpreter_exits_promptly_without_closing(journal_path, way, wait):
    """No hang, no noise, and everything acknowledged is there afterwards."""
    run = way.replace("ASK", "asyncio.new_event_loop()")
    program = textwrap.dedent(EXIT).replace("{run}", run)
    flags = ["-W", "ignore:unclosed event loop:ResourceWarning"]
    ended = subprocess.run(
        [sys.executable, "-W", "error", *flags, "-c", program, str(journal_path), wait],
        capture_output=True,
        text=True,
        timeout=20,  # a thread that is not stopped holds it up for ever
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    acknowledged = [int(line) for line in ended.stdout.split()]
    connection = sqlite3.connect(journal_path)
    recorded = {seq for (seq,) in connection.execute("SELECT seq FROM events")}
    connection.close()
    assert recorded >= {1, *acknowledged}
    assert len(acknowledged) == (198 if wait == "wait" else len(acknowledged))
