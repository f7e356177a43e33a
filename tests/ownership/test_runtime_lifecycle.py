"""Runs are retried, made anew, paused and resumed from another process than their owner's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from durable import RunOrigin, Runtime, start
from durable.errors import ForkError, RunStateError, WorkflowRunFailedError
from tests.ownership import flows
from tests.ownership.flows import doomed, held, outcome, total
from tests.ownership.peers import Peers, until


async def test_client_retries_a_run_that_failed(peers: Peers, journal_path: Path) -> None:
    """The owner attempts the step again; what cannot be done is told by its own error."""
    await peers.start()
    async with Runtime(journal_path):
        run = await start(doomed, "gone")
        for _ in range(2):
            with pytest.raises(WorkflowRunFailedError):
                await run.result()
            await run.retry()
        with pytest.raises(WorkflowRunFailedError):
            await run.result()
        assert [event.kind for event in await run.events()].count("step_failed") == 3
        fine = await start(total, 1, 2)
        await fine.result()
        with pytest.raises(RunStateError, match="completed") as refused:
            await fine.retry()
        assert refused.value.status == "completed"


async def test_client_makes_a_run_anew(peers: Peers, journal_path: Path) -> None:
    """The owner executes the new run."""
    await peers.start()
    async with Runtime(journal_path):
        run = await start(total.options(run_id="t"), 1, 2)
        again = await run.rerun(run_id="t2")
        assert await again.result() == 3
        assert await again.origin() == RunOrigin("rerun", "t")


async def test_client_forks_a_run(peers: Peers, journal_path: Path) -> None:
    """With an edited result; what is wrong is told by the client's own kinds of error."""
    owner = await peers.start()
    async with Runtime(journal_path):
        run = await start(held, "a", 2)
        assert await owner.happens("began") == "a"
        made = await run.fork(results={"hold": 17}, run_id="f")
        assert await made.result() == 17
        with pytest.raises(ForkError, match="no step named 'nothing'"):
            await run.fork(at="nothing")
        owner.tell("here.gates['a'].set()")
        assert await run.result() == owner.pid


async def test_client_pauses_a_run_and_lets_it_go_on(peers: Peers, journal_path: Path) -> None:
    """The held step ends while the run is paused; nobody who waits is told an error."""
    owner = await peers.start()
    async with Runtime(journal_path):
        run = await start(held, "a", 2)
        assert await owner.happens("began") == "a"
        waiting = asyncio.create_task(run.result())
        await run.pause("lunch")
        assert (await run.status()).reason == "paused: lunch"
        owner.tell("here.gates['a'].set()")

        async def recorded() -> bool:
            return [e.kind for e in await run.events()].count("step_completed") == 3

        await until(recorded)
        assert not waiting.done()
        await run.resume()
        assert await waiting == owner.pid


async def test_pause_outlives_its_owner(peers: Peers, journal_path: Path) -> None:
    """Killed, with a client that takes over: the run stays paused until it is resumed."""
    owner = await peers.start()
    async with Runtime(journal_path) as client:
        run = await start(held, "a")
        assert await owner.happens("began") == "a"
        await run.pause()
        await owner.kill()

        async def taken_over() -> bool:
            return client.is_owner

        await until(taken_over)
        assert await run.status() == "blocked"
        flows.here.gates["a"].set()
        await run.resume()
        assert await outcome(run)
