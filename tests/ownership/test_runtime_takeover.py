"""An owner that ends, stops or dies, and the client that comes after it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from durable import Runtime, get_run, start
from durable.errors import RunExistsError, RuntimeClosedError
from tests.ownership.flows import Here, held, napping, overlaps, sleeps, total
from tests.ownership.peers import Peers, until

TAKE_OVER_SECONDS_MAX = 2.5  # less than the patience with an owner that is silent


@pytest.mark.both_loops
async def test_waiting_client_takes_over_at_once_when_the_owner_is_killed(
    peers: Peers, journal_path: Path, here: Here
) -> None:
    """It recovers the run and its own wait resolves; what had completed is not done again."""
    owner = await peers.start()
    async with Runtime(journal_path) as client:
        run = await start(held, "a", before=2)
        await owner.happens("began")
        waiting = asyncio.create_task(run.result())
        began = asyncio.Event()
        here.announce = lambda tag: began.set()
        await asyncio.sleep(0)
        await owner.kill()
        async with asyncio.timeout(TAKE_OVER_SECONDS_MAX):
            await began.wait()
        assert client.is_owner
        assert not waiting.done()
        here.gates["a"].set()
        assert await waiting == os.getpid()
        events = await run.events()
    assert [event.name for event in events if event.kind == "step_retrying"] == ["interrupted"]
    facts = here.ledger.facts()
    assert not list(overlaps(facts))
    assert [(fact.what, fact.pid) for fact in facts if fact.step == "hold a"] == [
        ("begin", owner.pid), ("begin", os.getpid()), ("end", os.getpid()),
    ]  # fmt: skip


async def test_idle_client_takes_over_too(peers: Peers, journal_path: Path, here: Here) -> None:
    """Runs go on though the client that is left asks for nothing."""
    owner = await peers.start()
    async with Runtime(journal_path) as client:
        await owner.ask("(await rt.start(held, 'a')).run_id")
        await owner.happens("began")
        began = asyncio.Event()
        here.announce = lambda tag: began.set()
        await owner.kill()
        async with asyncio.timeout(10):
            await began.wait()
        assert client.is_owner
        here.gates["a"].set()


async def test_exactly_one_of_several_waiting_clients_takes_over(peers: Peers, here: Here) -> None:
    """The others follow it: their waits resolve through the new owner."""
    owner = await peers.start()
    clients = [await peers.start() for _ in range(3)]
    run_id = await clients[0].ask("(await rt.start(held, 'a', 2)).run_id")
    await owner.happens("began")
    waiting = [client.tell(f"run({run_id!r}).result()") for client in clients]
    assert [await client.ask("rt.is_owner") for client in clients] == [False] * 3
    await owner.kill()
    beginning = [asyncio.create_task(client.happens("began")) for client in clients]
    done, others = await asyncio.wait(beginning, return_when=asyncio.FIRST_COMPLETED)
    (first,) = done
    successor = clients[beginning.index(first)]
    sums = [await client.ask("(await rt.start(total, 1, 2)).result()") for client in clients]
    assert sums == [3, 3, 3]
    assert [await client.ask("rt.is_owner") for client in clients] == [
        client is successor for client in clients
    ]
    await successor.ask("here.gates['a'].set()")
    assert await asyncio.gather(*waiting) == [successor.pid] * 3
    for one in others:
        assert not one.done()
        one.cancel()
    assert not list(overlaps(here.ledger.facts()))


async def test_client_takes_over_from_an_owner_that_closes(
    peers: Peers, journal_path: Path, here: Here
) -> None:
    """What was asked of the old owner is asked again, so no caller notices."""
    owner = await peers.start(drain_seconds=0.05)
    async with Runtime(journal_path) as client:
        run = await start(held, "a", before=1)
        await owner.happens("began")
        waits = [asyncio.create_task(run.result()) for _ in range(3)]
        await asyncio.sleep(0)
        leaving = asyncio.create_task(owner.leave())
        starts = [asyncio.create_task(start(total, n, 1)) for n in range(20)]
        here.gates["a"].set()
        assert await asyncio.gather(*waits) == [os.getpid()] * 3
        runs = await asyncio.gather(*starts)
        assert await asyncio.gather(*[run.result() for run in runs]) == list(range(1, 21))
        assert client.is_owner
        assert await leaving == 0
    assert not list(overlaps(here.ledger.facts()))


# An owner that dies with a new run on record and its answer unsent.
DYING = """
import durable._engine.remote as remote, signal
class Dying(remote.Created):
    def __getattribute__(self, name):
        os.kill(os.getpid(), signal.SIGKILL) if name == "existing" else None
        return super().__getattribute__(name)
import durable._engine.births as births
births.Created = Dying
"""


@pytest.mark.parametrize(
    "options", [{}, {"on_conflict": "raise"}, {"on_conflict": "raise", "run_id": "mine"}]
)
async def test_start_that_the_dying_owner_had_recorded_makes_no_second_run(
    peers: Peers, journal_path: Path, here: Here, options: dict[str, Any]
) -> None:
    """The client asks again under the same id, and knows its own run, which is no conflict."""
    owner = await peers.start(prelude=DYING)
    async with Runtime(journal_path) as client:
        here.gates["a"].set()
        run = await start(held.options(**options), "a", before=3)
        assert await run == os.getpid()
        assert client.is_owner
        assert await owner.gone() == -signal.SIGKILL
        assert await client.reader.max_pk() == 1
        if "run_id" in options:
            with pytest.raises(RunExistsError):  # the next one is not its own
                await start(held.options(**options), "a", before=3)
    facts = here.ledger.facts()
    assert not list(overlaps(facts))
    assert len([fact for fact in facts if fact.what == "end"]) == 4


async def test_two_processes_that_open_a_new_journal_at_once_share_it(
    peers: Peers, journal_path: Path
) -> None:
    """One makes it; the others wait until it is there instead of failing."""
    started = [await peers.begin() for _ in range(4)]
    owns = [await peer.happens("opened") for peer in started]
    assert sorted(owns) == [False, False, False, True]
    answers = [peer.ask("(await rt.start(total, 1, 2)).result()") for peer in started]
    assert await asyncio.gather(*answers) == [3] * 4


async def test_reading_goes_on_while_the_owner_changes(peers: Peers, journal_path: Path) -> None:
    """Status and history come from the file, whoever owns it at the moment."""
    owner = await peers.start()
    async with Runtime(journal_path) as client:
        run = await start(napping, 86400.0)
        await until(lambda: sleeps(run))
        await owner.kill()
        while not client.is_owner:
            assert await run.status() == "running"
            assert len(await run.events()) == 3
        assert await run.wake_up() == 1
        assert await run == "slept"


async def test_client_that_is_closed_while_it_takes_over_lets_the_journal_go(
    peers: Peers, journal_path: Path
) -> None:
    """Half an owner closes like a whole one, and who waits is told of it."""
    owner = await peers.start()
    async with Runtime(journal_path) as client:
        run = await client.start(napping, 86400.0)
        asked = asyncio.create_task(run.result())
        await until(lambda: sleeps(run))
        await owner.kill()
        lock_file = Path(f"{journal_path}.lock")
        await until(lambda: f'"pid": {owner.pid}' not in lock_file.read_text())
    with pytest.raises(RuntimeClosedError):
        await asked
    async with Runtime(journal_path, client=False) as successor:
        assert await successor.get_run(run.run_id).wake_up() == 1


async def test_opening_that_is_cancelled_anywhere_leaves_nothing_behind(
    journal_path: Path,
) -> None:
    """Neither the lock nor a descriptor nor a thread, and the next one can open it."""
    async with Runtime(journal_path):
        pass
    descriptors, given_up = len(os.listdir("/proc/self/fd")), 0
    for turns in range(40):
        opening = asyncio.create_task((runtime := Runtime(journal_path)).open())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        given_up += opening.cancelled()
        await runtime.close()
        assert len(os.listdir("/proc/self/fd")) == descriptors
    assert given_up > 10
    async with Runtime(journal_path, client=False) as runtime:
        assert runtime.is_owner


# --- an owner that does not answer --------------------------------------------------


async def test_stopped_owner_makes_clients_wait_and_not_fail(
    peers: Peers, journal_path: Path
) -> None:
    """It lives, so nobody may take over; when it goes on, everything asked is done."""
    owner = await peers.start()
    async with Runtime(journal_path) as client:
        run = await start(held, "a")
        await owner.happens("began")
        await owner.stop()
        later = Runtime(journal_path)
        asked = [asyncio.create_task(one) for one in (run.result(), start(total, 1, 2))]
        opening = asyncio.create_task(later.open())
        assert await run.status() == "running"
        with pytest.raises(TimeoutError):
            await run.result(timeout=0.2)
        assert not any(one.done() for one in (*asked, opening))
        owner.tell("here.gates['a'].set()")
        owner.signal(signal.SIGCONT)
        await opening
        assert await asked[0] == owner.pid
        assert await (await asked[1]) == 3
        assert not client.is_owner
        await later.close()


async def test_opening_that_waits_for_a_stopped_owner_can_be_given_up(
    peers: Peers, journal_path: Path
) -> None:
    """A timeout around it ends it and leaves nothing behind."""
    owner = await peers.start()
    await owner.stop()
    descriptors = len(os.listdir("/proc/self/fd"))
    waiting = Runtime(journal_path)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await waiting.open()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    owner.signal(signal.SIGCONT)
    async with Runtime(journal_path) as client:
        assert await get_run("nobody").exists() is False
        assert not client.is_owner


async def test_owner_killed_while_it_is_stopped_is_succeeded(
    peers: Peers, journal_path: Path, here: Here
) -> None:
    """Waiting for it ends with its life, though it never read what it was asked."""
    owner = await peers.start()
    async with Runtime(journal_path):
        run = await start(held, "a")
        await owner.happens("began")
        await owner.stop()
        asked = asyncio.create_task(run.result())
        here.gates["a"].set()
        with pytest.raises(TimeoutError):
            await run.result(timeout=0.05)  # so that both have been sent
        await owner.kill()
        assert await asked == os.getpid()
