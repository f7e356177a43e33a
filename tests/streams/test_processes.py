"""Streams between processes: readers and writers elsewhere, owners that are killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable import Runtime
from durable.errors import StreamClosedError, WorkflowRunNotFoundError
from tests.ownership.peers import Peer, PeerError, Peers, peers_on
from tests.streams import flows
from tests.streams.flows import collect

PRELUDE = "from tests.streams.flows import *"


@pytest.fixture
async def peers(journal_path: Path) -> Any:
    """Starts processes on the test's journal, and ends them with the test."""
    async with peers_on(journal_path) as peers:
        yield peers


@pytest.fixture(autouse=True)
def gates() -> Iterator[Any]:
    """Each test begins with closed gates."""
    flows.gates.clear()
    yield flows.gates
    flows.gates.clear()


@pytest.mark.both_loops
async def test_reader_in_another_process_follows(peers: Peers, journal_path: Path) -> None:
    """It is woken for each chunk by the owner, and ends with the run."""
    owner = await peers.start(prelude=PRELUDE)
    async with Runtime(journal_path) as client:
        assert not client.is_owner
        run = await client.start(flows.gated, 3)
        stream = run.stream()
        for number in range(3):
            waiting = asyncio.create_task(anext(stream))
            assert await run.tail_index() == number - 1
            owner.tell(f"open_gate({number})")
            assert await waiting == number
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert await run.result() == "done"


async def test_reader_goes_on_when_the_owner_is_killed(peers: Peers, journal_path: Path) -> None:
    """The next owner, here the reader's own process, wakes it; it reads nothing twice."""
    owner = await peers.start(prelude=PRELUDE)
    async with Runtime(journal_path) as client:
        run = await client.start(flows.gated, 4)
        owner.tell("open_gate(0)")
        owner.tell("open_gate(1)")
        stream = run.stream()
        assert [await anext(stream), await anext(stream)] == [0, 1]
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        await owner.kill()
        for number in range(4):  # the step begins anew, and its chunks are appended
            flows.open_gate(number)
        assert await waiting == 0
        assert await collect(stream) == [1, 2, 3]
        assert client.is_owner


async def test_cancelled_reader_elsewhere_leaves_nothing_at_the_owner(
    peers: Peers, journal_path: Path
) -> None:
    """Giving up the wait ends it there as well, and the same reader may ask again."""
    owner = await peers.start(prelude=PRELUDE)
    async with Runtime(journal_path) as client:
        run = await client.start(flows.gated, 1)
        stream = run.stream()
        waiting = asyncio.create_task(anext(stream))
        held = f"sum(s.holds for n in rt._engine._streams._live.get({run.run_id!r}, {{}}).values()"
        held = held.replace("for n in", "for s in") + ")"
        while await owner.ask(held) < 2:  # the step's and the reader's
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        while await owner.ask(held) > 1:
            await asyncio.sleep(0)
        owner.tell("open_gate(0)")
        assert await collect(stream) == [0]


async def test_writer_in_another_process(peers: Peers, journal_path: Path) -> None:
    """Its chunks are durable when `write` returns, and are those of nobody's attempt."""
    await peers.start(prelude=PRELUDE)
    async with Runtime(journal_path) as client:
        run = await client.start(flows.gated, 1)
        out = run.get_writable("from outside")
        await out.write({"n": 1})
        assert await run.tail_index("from outside") == 0
        await asyncio.gather(*(out.write(number) for number in range(700)))
        assert await out.write_from([b"x", "y"]) == 2
        await out.close()
        with pytest.raises(StreamClosedError, match="from outside"):
            await out.write("late")
        chunks = await collect(run.stream("from outside").chunks())
        assert [chunk.value for chunk in chunks] == [{"n": 1}, *range(700), b"x", "y"]
        assert {(chunk.step_id, chunk.attempt) for chunk in chunks} == {(None, 0)}
        with pytest.raises(WorkflowRunNotFoundError):
            await client.get_run("nobody").get_writable().write(1)


async def test_writer_whose_owner_is_killed_writes_nothing_twice(
    peers: Peers, journal_path: Path
) -> None:
    """A question that was repeated at the next owner finds what the last one recorded."""
    owner = await peers.start(prelude=PRELUDE)
    async with Runtime(journal_path) as client:
        run = await client.start(flows.gated, 1)
        out = run.get_writable("w")

        async def write_all() -> None:
            for number in range(120):
                await out.write(number)
                if number == 60:
                    killing.append(asyncio.create_task(owner.kill()))

        killing: list[asyncio.Task[None]] = []
        await write_all()
        await asyncio.gather(*killing)
        assert client.is_owner
        assert await collect(run.stream("w", follow=False)) == [*range(120)]


async def test_errors_cross_to_other_processes(peers: Peers, journal_path: Path) -> None:
    """A client that writes to a finished run is told so by the owner."""
    async with Runtime(journal_path) as rt:
        flows.open_gate(0)
        run = await rt.start(flows.gated, 1)
        await run.result()
        peer = await peers.start(prelude=PRELUDE)
        with pytest.raises(PeerError, match="its run has ended") as refused:
            await peer.ask(f"run({run.run_id!r}).get_writable().write(1)")
        assert refused.value.kind == "StreamClosedError"
        assert await peer.ask(f"collect(run({run.run_id!r}).stream())") == [0]
        assert await peer.leave() == 0


# --- kill -9 ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_kills_lose_nothing_that_was_promised_and_double_nothing(
    peers: Peers, journal_path: Path, tmp_path: Path, seed: int
) -> None:
    """Processes are killed one after the other at any moment of a run that streams all ways."""
    draw, ledger, count = random.Random(seed), tmp_path / "promises", 60
    owner = await peers.start(prelude=PRELUDE)
    await owner.ask(f"(await rt.start(busy.options(run_id='b'), {str(ledger)!r}, {count})).run_id")
    for _ in range(5):
        await asyncio.sleep(draw.random() * 0.12)
        await owner.kill()
        async with reading(journal_path) as run:
            await check(run, ledger, count)
        owner = await peers.start(prelude=PRELUDE)
        await owner.ask("run('b').resume()")  # a step that met three kills was set aside
    result = await finish(owner)
    await owner.leave()
    assert result == [[*range(count)], count]
    async with reading(journal_path) as run:
        await check(run, ledger, count)
        assert await collect(run.stream("items")) == [*range(count)]
        assert await collect(run.stream("counted")) == [*range(count)]
        logged = [number for number in range(count) if number % 20 == 0]
        assert await collect(run.stream("log")) == ["begin", *logged, "end"]


async def finish(owner: Peer) -> Any:
    """Bring the run to its end, though a step may have been set aside."""
    while True:
        try:
            return await owner.ask("run('b').result()")
        except PeerError as error:
            if error.kind != "WorkflowRunBlockedError":
                raise
            await owner.ask("run('b').resume()")


def reading(journal_path: Path) -> Any:
    """Open the journal for looking only."""
    from durable import Run
    from durable._surface.bystander import Bystander

    class Looking:
        async def __aenter__(self) -> Run[Any]:
            self.access = Bystander(journal_path)
            await self.access.open()
            return Run("b", self.access)

        async def __aexit__(self, *error: object) -> None:
            await self.access.close()

    return Looking()


async def check(run: Any, ledger: Path, count: int) -> None:
    """Hold the journal against the ledger of those who died.

    Chunks that drain() promised are there in order; items of generators and chunks of the
    body are there once; a recorded step has all its chunks.
    """
    events = await run.events()
    completed = {event.ref for event in events if event.kind == "step_completed"}
    named = {event.seq: event.name for event in events if event.kind == "step_created"}
    done = {named[seq].rpartition(".")[2] for seq in completed if seq is not None}
    promised = await collect(run.stream("promised", follow=False))
    per_attempt: dict[int, list[int]] = {}
    for attempt, number in promised:
        per_attempt.setdefault(attempt, []).append(number)
    for attempt, numbers in per_attempt.items():
        assert numbers == [*range(len(numbers))], f"attempt {attempt}"
    assert sorted(promised) == promised
    for line in ledger.read_text().splitlines() if ledger.exists() else []:
        attempt, number = map(int, line.split())
        assert len(per_attempt.get(attempt, ())) > number, f"promised {line} is lost"
    if "emit_promised" in done:
        assert len(per_attempt[max(per_attempt)]) == count
    items = await collect(run.stream("items", follow=False))
    assert items == [event.value for event in events if event.kind == "step_yielded"]
    assert items == [*range(len(items))]
    counted = await collect(run.stream("counted", follow=False))
    assert counted == [*range(len(counted))]
    assert len(items) == count or "yield_numbers" not in done
    assert len(counted) == count or "yield_more" not in done
