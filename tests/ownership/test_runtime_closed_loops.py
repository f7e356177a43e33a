"""A journal whose event loop was closed, or is about to end, while its runtime was open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from durable import Runtime, SyncRuntime, get_run, start
from durable.errors import DurationError, JournalLockedError
from tests.ownership import flows
from tests.ownership.flows import Here, held, total
from tests.ownership.peers import Peers, until

Way = Callable[[Coroutine[Any, Any, None]], None]


def by_hand(main: Coroutine[Any, Any, None]) -> None:
    """Close the loop with everything in it still going on."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main)
    loop.close()


def by_hand_on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    """The same, with the loop that closes its descriptors itself."""
    loop = pytest.importorskip("uvloop").new_event_loop()
    loop.run_until_complete(main)
    loop.close()


@pytest.fixture
def default_journal(journal_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DURABLE_JOURNAL", str(journal_path))
    return journal_path


async def begin_held(tag: str) -> None:
    """Start a run with that id, and return when its step is held."""
    began = asyncio.Event()
    flows.here.announce = lambda _: began.set()
    await start(held.options(run_id=tag), tag)
    await began.wait()


async def end_held(tag: str) -> None:
    """See the run to its end."""
    flows.here.gates[tag].set()
    await get_run(tag).result()


@pytest.mark.parametrize("way", [by_hand, by_hand_on_uvloop], ids=["asyncio", "uvloop"])
def test_journal_of_a_closed_loop_can_be_opened_again(
    way: Way, default_journal: Path, here: Here
) -> None:
    """Its runs go on in the next loop of the process, and its steps are not blamed."""
    way(begin_held("a"))
    here.gates.clear()

    async def go_on() -> None:
        await end_held("a")
        events = await get_run("a").events()
        assert [e.name for e in events if e.kind == "step_retrying"] == ["parked"]

    asyncio.run(go_on())


def test_runtime_that_outlived_its_asyncio_run_makes_way(journal_path: Path, here: Here) -> None:
    """`asyncio.run` twice, the first without closing: the second finds everything."""

    async def leave_open() -> None:
        await Runtime(journal_path).open()
        await begin_held("a")

    async def go_on() -> None:
        async with Runtime(journal_path) as runtime:
            assert runtime.is_owner
            await end_held("a")

    asyncio.run(leave_open())
    here.gates.clear()
    asyncio.run(go_on())


def test_runtime_of_a_loop_that_can_run_again_keeps_its_journal(journal_path: Path) -> None:
    """Stopped is not closed; the error tells what can be done, and that helps."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(Runtime(journal_path).open())
    with pytest.raises(JournalLockedError, match=r"close it \(or its event loop\) first"):
        asyncio.run(Runtime(journal_path).open())
    loop.close()

    async def use() -> None:
        async with Runtime(journal_path):
            assert await (await start(total, 1, 2)) == 3

    asyncio.run(use())


async def test_client_of_a_closed_loop_turns_to_the_next_owner(
    peers: Peers, journal_path: Path
) -> None:
    """While nobody answers it waits and says for whom; then it goes on, whoever comes."""
    loop = asyncio.new_event_loop()
    await asyncio.to_thread(loop.run_until_complete, Runtime(journal_path).open())
    loop.close()
    client = await peers.begin()
    async with Runtime(journal_path) as runtime:
        await client.happens("opened")
        assert await client.ask("(await rt.start(total, 1, 2)).result()") == 3
        assert runtime.is_owner is not await client.ask("rt.is_owner")


async def test_silent_owner_is_named_while_it_is_waited_for(
    peers: Peers, journal_path: Path, caplog: pytest.LogCaptureFixture, virtual_clock: Any
) -> None:
    """A stopped process, or one whose loop is gone, keeps its connections waiting."""
    owner = await peers.start()
    await owner.stop()
    client = Runtime(journal_path, clock=virtual_clock)
    opening = asyncio.create_task(client.open())
    await until(lambda: bool(virtual_clock._timers))
    await virtual_clock.advance(60)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"process {owner.pid} " in caplog.text
    assert "does not answer" in caplog.text
    await owner.kill()
    await opening
    assert client.is_owner
    await client.close()


# --- options that cannot be ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"drain_seconds": "x"}, TypeError, "drain_seconds is 'x', .*such as 5.0"),
        ({"drain_seconds": -1}, ValueError, "drain_seconds is -1: .*0 or more"),
        ({"drain_seconds": float("nan")}, ValueError, "drain_seconds is nan: .*finite"),
        ({"threads": 0}, ValueError, "threads is 0, which is too few: give 1 or more"),
        ({"threads": "8"}, TypeError, "threads is '8', which is no whole number"),
        ({"processes": True}, TypeError, "processes is True"),
        ({"processes": -2}, ValueError, "processes is -2"),
        ({"idle_runs": 1.5}, TypeError, "idle_runs is 1.5"),
        ({"idle_runs": -1}, ValueError, "idle_runs is -1, .* give 0 or more"),
        ({"codec": "json"}, TypeError, "codec is 'json', .*Codec\\(format=\"json\"\\)"),
        ({"durability": "none"}, ValueError, 'durability is \'none\', .*"full" or "process"'),
        ({"grace": "soon"}, DurationError, "grace"),
        ({"retention": "x"}, DurationError, "retention"),
    ],
)
def test_option_that_cannot_be_is_refused_when_the_runtime_is_made(
    options: dict[str, Any], kind: type[Exception], told: str, journal_path: Path
) -> None:
    """With the value, what is wrong with it and what to give; nothing is left behind."""
    with pytest.raises(kind, match=told):
        Runtime(journal_path, **options)
    with pytest.raises(kind, match=told):
        SyncRuntime(journal_path, **options).open()
    assert not list(journal_path.parent.glob("app.db*"))
    with SyncRuntime(journal_path) as runtime:
        assert runtime.start(total, 1, 2).result() == 3
