"""Races drawn at random: nested groups, timeouts and cancellations replay exactly."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from durable import sleep
from tests.replay.rig import check_replays, perform
from tests.replay.zoo_steps import broken, clean_up, fetch

RUNS = 200

Node = Callable[[], Coroutine[Any, Any, Any]]


def draw(rng: random.Random, depth: int = 3) -> Node:
    """Return a random workflow body."""
    if depth == 0 or rng.random() < 0.15:
        return rng.choice((_step, _step, _sleep, _failing))(rng)
    make = rng.choice(
        (_gather, _sequence, _first, _limited, _group, _shielded, _as_completed, _cancelled)
    )
    return make([draw(rng, depth - 1) for _ in range(rng.randint(1, 3))], rng)


def _step(rng: random.Random) -> Node:
    value = rng.randrange(100)
    return lambda: fetch(value)


def _failing(rng: random.Random) -> Node:
    value = rng.randrange(100)
    return lambda: broken(value)


def _sleep(rng: random.Random) -> Node:
    seconds = rng.choice((0, 0.3, 1, 2))
    return lambda: sleep(seconds)


def _gather(children: list[Node], rng: random.Random) -> Node:
    keep = rng.random() < 0.7

    async def gather() -> object:
        found = await asyncio.gather(*[child() for child in children], return_exceptions=keep)
        return [str(each) for each in found]

    return gather


def _sequence(children: list[Node], rng: random.Random) -> Node:
    async def sequence() -> object:
        try:
            return [str(await child()) for child in children]
        finally:
            await clean_up("sequence")

    return sequence


def _first(children: list[Node], rng: random.Random) -> Node:
    async def first() -> object:
        tasks = {asyncio.create_task(child(), name=str(n)) for n, child in enumerate(children)}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            await fetch(task.get_name())
        return [repr(e) for e in await asyncio.gather(*tasks, return_exceptions=True)]

    return first


def _limited(children: list[Node], rng: random.Random) -> Node:
    limit = rng.choice((0.2, 1, 4))
    inner = _gather(children, rng)

    async def limited() -> object:
        try:
            async with asyncio.timeout(limit):
                return await inner()
        except TimeoutError:
            return await fetch("late")

    return limited


def _group(children: list[Node], rng: random.Random) -> Node:
    async def group() -> object:
        failed: list[object] = []
        tasks: list[asyncio.Task[object]] = []
        try:
            async with asyncio.TaskGroup() as running:
                tasks = [running.create_task(child()) for child in children]
        except* Exception as errors:
            failed += [str(each) for each in errors.exceptions]
        return failed or [str(task.result()) for task in tasks]

    return group


def _shielded(children: list[Node], rng: random.Random) -> Node:
    inner = _gather(children, rng)

    async def shielded() -> object:
        kept = asyncio.create_task(inner())
        try:
            return await asyncio.wait_for(asyncio.shield(kept), 0.5)
        except TimeoutError:
            return await kept

    return shielded


def _as_completed(children: list[Node], rng: random.Random) -> Node:
    async def in_order_of_completion() -> object:
        found = []
        for each in asyncio.as_completed([child() for child in children]):
            try:
                found.append(str(await each))
            except Exception as error:
                found.append(await fetch(str(error)))
        return found

    return in_order_of_completion


def _cancelled(children: list[Node], rng: random.Random) -> Node:
    inner = _sequence(children, rng)

    async def cancelled() -> object:
        task = asyncio.create_task(inner())
        await fetch("meanwhile")
        task.cancel()
        return [repr(each) for each in await asyncio.gather(task, return_exceptions=True)]

    return cancelled


def test_random_races_replay_from_every_write_to_the_same_end(seed: int) -> None:
    """Whatever wins live wins on replay, with late answers and cancellations between."""
    for number in range(seed, seed + RUNS):
        rng = random.Random(number)
        body = draw(rng)
        cancel_at = rng.choice((None, None, rng.randrange(6)))
        try:
            recording = perform(body, number, cancel_at_turn=cancel_at)
            check_replays(body, recording)
        except BaseException as error:
            error.add_note(f"DURABLE_TEST_SEED={number}")
            raise
