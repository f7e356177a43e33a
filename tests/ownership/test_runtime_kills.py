"""Processes that are started and killed at random: never two owners, and no run is lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.ownership.flows import Here, overlaps
from tests.ownership.peers import Peer, Peers

PEERS_MAX = 3
RUNS_PER_ROUND = 4
STEPS = 4
START_SECONDS = 0.5  # about what a process takes to open the journal

WORK = """asyncio.gather(*[
    outcome(await rt.start(chain.options(run_id=f'run-{{n}}'), f'{{n}}', {steps}))
    for n in range({first}, {end})
])"""


def work(first: int, end: int) -> str:
    """What a peer is asked for: these runs, started if they are not, and their results."""
    return WORK.format(steps=STEPS, first=first, end=end)


@pytest.mark.parametrize("rounds", [4, pytest.param(12, marks=pytest.mark.slow)])
async def test_processes_killed_at_random_neither_overlap_nor_lose_a_run(
    rounds: int, seed: int, peers: Peers, here: Here
) -> None:
    """All runs complete in the end, no completed step ran twice, no two processes at once."""
    draw = random.Random(seed)
    alive: list[Peer] = []
    for number in range(rounds):
        alive += [await peers.begin() for _ in range(draw.randint(1, PEERS_MAX) - len(alive))]
        # All ask for the same runs; each answer may come from whoever owns the journal then.
        first = number * RUNS_PER_ROUND
        answers = [peer.tell(work(first, first + RUNS_PER_ROUND)) for peer in alive]
        await random_moment(draw, peers, answers)
        for victim in draw.sample(alive, min(len(alive), draw.choice([1, 1, 1, 2, 3]))):
            alive.remove(victim)
            await victim.kill()
        for answer in answers:
            assert answer.cancelled() or not answer.done() or answer.exception() is None
    runs = rounds * RUNS_PER_ROUND
    last = alive[0] if alive else await peers.start()
    assert await last.ask(work(0, runs)) == [str(n) for n in range(runs)]
    facts = here.ledger.facts()
    assert not list(overlaps(facts))
    assert len([fact for fact in facts if fact.what == "end"]) >= runs * STEPS
    assert len({fact.pid for fact in facts}) > 1


async def random_moment(
    draw: random.Random, peers: Peers, answers: list[asyncio.Future[object]]
) -> None:
    """Wait for some number of steps, or just for a while, until all is done at most."""
    done = asyncio.gather(*answers, return_exceptions=True)
    if draw.random() < 0.25:
        await asyncio.wait([done], timeout=draw.uniform(0, START_SECONDS))
    for _ in range(draw.randint(0, RUNS_PER_ROUND * STEPS)):
        step = asyncio.create_task(peers.next_to_begin())
        await asyncio.wait([done, step], return_when=asyncio.FIRST_COMPLETED)
        step.cancel()
        if done.done():
            return
    await asyncio.wait([done], timeout=draw.uniform(0, 0.005))


async def test_owner_after_owner_dies_and_each_time_a_client_goes_on(
    peers: Peers, here: Here
) -> None:
    """One run passes through four processes, each killed in the step after its own."""
    line = [await peers.start() for _ in range(4)]
    run_id = await line[0].ask("(await rt.start(relay, 4)).run_id")
    waiting = {peer: peer.tell(f"run({run_id!r}).result()") for peer in line}
    pids = []
    for leg in range(4):
        owner = await peers.next_to_begin()
        await owner.ask(f"here.gates['leg {leg}'].set()")
        pids.append(owner.pid)
        if leg < 3:
            assert await peers.next_to_begin() is owner
            line.remove(owner)
            await owner.kill()
    assert await waiting[line[0]] == pids
    assert len(set(pids)) == 4
    assert not list(overlaps(here.ledger.facts()))
