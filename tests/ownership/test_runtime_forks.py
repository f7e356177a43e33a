"""A child made by fork has nothing of its parent's runtime, and can open its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from durable import Runtime
from durable.errors import JournalLockedError
from tests.ownership.flows import Here
from tests.ownership.peers import until

# The child goes on inside its parent's coroutine: os.fork() in the middle of a program.
INSIDE = """
    import asyncio, json, os, sys, warnings
    from durable import Runtime, get_run, start, start_many
    from tests.ownership.flows import total

    warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
    path, other_path = sys.argv[1:]

    def stats():
        files = (f"{path}{end}" for end in ("", "-wal", "-shm", ".lock", ".sock"))
        return [(os.stat(f).st_size, os.stat(f).st_mtime_ns, os.stat(f).st_ino) for f in files]

    async def child(rt, run):
        calls = [
            lambda: rt.start(total, 1, 2), lambda: rt.start_many(total, [(1, 2)]), rt.open,
            run.result, lambda: run.result(timeout=1), run.exists, run.status, run.events,
            run.workflow_name, run.created_at, run.started_at, run.completed_at,
            run.attributes, run.parent_id, run.cancel, run.wake_up, run.resume,
            lambda: start(total, 1, 2), lambda: start_many(total, [(1, 2)]),
            get_run("x").status, get_run("x").result, lambda: asyncio.sleep(0, rt.reader),
        ]
        errors = []
        for call in calls:
            try:
                errors.append(repr(await call()))
            except Exception as error:
                errors.append(type(error).__name__)
        await rt.close()
        print(json.dumps(errors), flush=True)
        print(asyncio.run(own()), flush=True)

    async def own():
        async with Runtime(other_path) as rt:
            return await (await start(total, 3, 4))

    async def main():
        async with Runtime(path) as rt:
            run = await rt.start(total, 1, 2)
            await run.result()
            before = stats()
            if os.fork() == 0:
                await child(rt, run)
                os._exit(0)
            os.wait()
            print(before == stats(), rt.is_owner, flush=True)
            print(await (await rt.start(total, 5, 6)), flush=True)

    asyncio.run(main())
"""


def test_every_call_in_a_forked_child_is_refused(
    journal_path: Path, tmp_path: Path, process: Callable
) -> None:
    """The child touches no file of the journal; its own one, elsewhere, works."""
    program = process(INSIDE, str(journal_path), str(tmp_path / "child.db"))
    errors = json.loads(program.line())
    assert errors == ["ForkedJournalError"] * len(errors)
    assert len(errors) > 20
    assert program.line() == "7"
    assert program.line() == "True True"
    assert program.line() == "11"


# The child is made between two uses of the loop, and ends like any program.
OUTSIDE = """
    import asyncio, os, sys, warnings
    from durable import Runtime
    from tests.ownership.flows import total

    warnings.simplefilter("ignore", DeprecationWarning)
    loop = asyncio.new_event_loop()
    unused = Runtime(sys.argv[2])
    rt = Runtime(sys.argv[1])
    loop.run_until_complete(rt.open())

    async def attempt():
        try:
            await rt.start(total, 1, 2)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        async with unused:
            print(await (await unused.start(total, 3, 4)), flush=True)

    if os.fork() == 0:
        print(os.getpid(), flush=True)
        asyncio.run(attempt())
        input()
        sys.exit(7)
    _, status = loop.run_until_complete(loop.run_in_executor(None, os.wait))
    print(os.waitstatus_to_exitcode(status), flush=True)
    print(loop.run_until_complete(loop.run_until_complete(rt.start(total, 5, 6)).result()))
    loop.run_until_complete(rt.close())
    loop.close()
"""


async def test_lock_stays_with_the_parent_when_the_child_comes_and_goes(
    journal_path: Path, tmp_path: Path, process: Callable
) -> None:
    """The child ends as programs end, and the parent goes on as if nothing had been."""
    program = process(OUTSIDE, str(journal_path), str(tmp_path / "child.db"))
    child = int(await asyncio.to_thread(program.line))
    refusal = await asyncio.to_thread(program.line)
    assert refusal.startswith("ForkedJournalError the journal ")
    assert f"opened by process {program.pid} before a fork" in refusal
    assert await asyncio.to_thread(program.line) == "7"
    with pytest.raises(JournalLockedError) as caught:
        await Runtime(journal_path, client=False).open()
    assert caught.value.pid == program.pid
    async with Runtime(journal_path) as client:
        os.kill(child, 0)
        program.proceed()
        assert await asyncio.to_thread(program.line) == "7"
        assert not client.is_owner
        assert await asyncio.to_thread(program.line) == "11"


async def test_orphan_of_a_killed_owner_does_not_keep_the_journal(
    journal_path: Path, tmp_path: Path, process: Callable, here: Here
) -> None:
    """The client takes over though a child of the dead owner lives on."""
    program = process(OUTSIDE, str(journal_path), str(tmp_path / "child.db"))
    child = int(await asyncio.to_thread(program.line))
    async with Runtime(journal_path) as client:
        assert not client.is_owner
        program.kill()
        async with asyncio.timeout(10):
            await until(lambda: client.is_owner)
        os.kill(child, signal.SIGKILL)


def test_blocking_runtime_refuses_a_forked_child(journal_path: Path, process: Callable) -> None:
    """Its thread is not there in the child, so the call would never come back."""
    program = process(
        """
        import os, sys, warnings
        from durable._surface.sync import SyncRuntime
        from tests.ownership.flows import total

        warnings.simplefilter("ignore", DeprecationWarning)
        with SyncRuntime(sys.argv[1]) as rt:
            run = rt.start(total, 1, 2)
            print(run.result(), flush=True)
            if os.fork() == 0:
                for call in (lambda: rt.start(total, 1, 2), run.result, run.status):
                    try:
                        call()
                    except Exception as error:
                        print(type(error).__name__, flush=True)
                rt.close()
                os._exit(0)
            os.wait()
            print(run.status(), flush=True)
        """,
        str(journal_path),
    )
    expected = ["3", *["ForkedJournalError"] * 3, "completed"]
    assert [program.line() for _ in expected] == expected


# Hooks that are registered later run earlier, so the fork is about to happen when it asks.
BUSY = """
    import asyncio, os, threading
    from durable._journal.driver import ThreadDriver

    entered, forking, order = threading.Event(), threading.Event(), []
    os.register_at_fork(before=forking.set)

    def inside(conn):
        entered.set()
        forking.wait()
        for _ in range(1000):
            conn.execute("SELECT 1").fetchone()
        order.append("out of SQLite")

    def fork():
        entered.wait()
        child = os.fork()
        if child == 0:
            os._exit(0)
        order.append("forked")
        os.waitpid(child, 0)

    async def main():
        driver = ThreadDriver("file::memory:", False)
        await driver.open()
        await asyncio.gather(driver.call(inside), asyncio.to_thread(fork))
        await driver.close()
        print(order, flush=True)

    asyncio.run(main())
"""


async def test_fork_waits_until_no_thread_is_inside_sqlite(process: Callable) -> None:
    """Else the child would inherit SQLite's locks as held, and hang in its first statement."""
    program = process(BUSY)
    assert await asyncio.to_thread(program.line) == "['out of SQLite', 'forked']"
