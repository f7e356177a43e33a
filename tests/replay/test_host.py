"""A body lives inside its host's loop without touching it, and survives its end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from durable import sleep
from durable._replay.events import EventKind
from durable._replay.script import Inbound
from tests.replay.rig import World, check_replays
from tests.replay.zoo import ZOO
from tests.replay.zoo_steps import clean_up, fetch

RAN: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


async def pages() -> AsyncIterator[object]:
    """Yield for ever; tell when closed."""
    try:
        while True:
            yield await fetch("page")
    finally:
        RAN.append("generator")


async def reads_pages() -> None:
    """Wait in the middle of an async generator, beside another task."""

    async def sibling() -> None:
        try:
            await sleep(1000)
        finally:
            RAN.append("sibling")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            async for _ in pages():
                pass
    finally:
        RAN.append("main")


def host_state() -> tuple[object, ...]:
    """What a body must leave as it was."""
    hooks = sys.get_asyncgen_hooks()
    loop = asyncio._get_running_loop()
    task = asyncio.current_task() if loop is not None else None
    return loop, task, hooks, gc.isenabled(), contextvars.copy_context().get(SEEN)


SEEN: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="")


@pytest.mark.both_loops
async def test_host_finds_its_loop_task_hooks_and_context_as_before() -> None:
    """Whether the body is driven from a callback or from a task."""
    SEEN.set("host")
    states = [host_state()]
    world = World(reads_pages)
    world.turn(Inbound(EventKind.RUN_STARTED))
    states.append(host_state())
    for _ in range(5):
        world.turn(*world.arrivals())
        states.append(host_state())
    assert len(set(states)) == 1
    world.body.abandon()


@pytest.mark.both_loops
async def test_body_driven_from_callbacks_of_the_host_records_the_same() -> None:
    """One plain callback per turn, as the engine does, with the host's tasks between."""
    loop, finished = asyncio.get_running_loop(), asyncio.Event()

    def drive(world: World, turn: Callable[[], Any]) -> None:
        assert asyncio.current_task() is None
        turn()
        if world.body.outcome is None and world.arriving:
            loop.call_soon(drive, world, lambda: world.turn(*world.arrivals()))
        else:
            world.finish_from_here()
            finished.set()

    for name in ("task_group_fails_and_cancels_siblings", "async_generators", "queue"):
        finished.clear()
        world = World(ZOO[name], 2)
        loop.call_soon(drive, world, lambda world=world: world.turn(Inbound(EventKind.RUN_STARTED)))
        await finished.wait()
        check_replays(ZOO[name], world.recording)


def test_gc_stays_off_where_the_host_has_turned_it_off() -> None:
    """The body's turns borrow the switch and put it back."""
    gc.disable()
    try:
        world = World(reads_pages)
        world.turn(Inbound(EventKind.RUN_STARTED))
        assert not gc.isenabled()
        world.body.abandon()
    finally:
        gc.enable()


def _runners() -> dict[str, Callable[[Any], Any]]:
    found: dict[str, Callable[[Any], Any]] = {"asyncio": asyncio.run}
    try:
        import uvloop
    except ImportError:
        return found
    return {**found, "uvloop": uvloop.run}


@pytest.mark.parametrize("runner", _runners())
def test_end_of_the_host_loop_neither_cancels_nor_closes_anything_of_a_body(runner: str) -> None:
    """`asyncio.run` cancels the tasks and closes the generators of its own loop alone."""
    worlds = []

    async def host() -> None:
        world = World(reads_pages)
        world.turn(Inbound(EventKind.RUN_STARTED))
        asyncio.get_running_loop().call_soon(world.turn, *world.arrivals())
        await asyncio.sleep(0)
        worlds.append(world)
        assert not asyncio.all_tasks() & set(world.body.loop.live_tasks())

    _runners()[runner](host())
    (world,) = worlds
    assert RAN == []
    assert len(world.body.loop.live_tasks()) == 2
    world.turn(*world.arrivals())  # and the body still goes on
    world.body.abandon()


def test_dropped_body_runs_no_finally() -> None:
    """A run that leaves memory is not cancelled: nothing of its code runs."""
    world = World(reads_pages)
    world.turn(Inbound(EventKind.RUN_STARTED))
    world.turn(*world.arrivals())
    world.body.abandon()
    del world
    gc.collect()
    assert RAN == []


class Finalized:
    """Host's garbage in a cycle, whose finalizer needs a file."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        with open(__file__, encoding="utf-8"):
            RAN.append("host's finalizer")


def test_garbage_of_the_host_is_not_finalized_inside_a_body() -> None:
    """Its finalizers would run under the guard against I/O, and fail."""

    async def body() -> None:
        _ = [[n] for n in range(5000)]  # enough for a collection, were there one

    Finalized()
    World(body).turn(Inbound(EventKind.RUN_STARTED))
    gc.collect()
    assert RAN == ["host's finalizer"]


def test_generators_in_cyclic_garbage_are_never_closed_by_the_collector() -> None:
    """A collection comes at any time; a clean-up step at any time could not be replayed."""

    async def closes_with_a_step() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await clean_up("never")

    async def body() -> None:
        for _ in range(50):
            generator = closes_with_a_step()
            await anext(generator)
            ring: list[object] = [generator]
            ring.append(ring)
            del generator, ring
            await fetch([[n] for n in range(500)])

    world = World(body)
    recording = world.finish()
    assert not any("clean_up" in line for line in recording.kinds())


def test_two_runs_do_not_share_context_variables_tasks_or_time() -> None:
    """Each run has a world of its own."""

    async def body() -> object:
        before = SEEN.get()
        SEEN.set("body")
        await sleep(5)
        return before, len(asyncio.all_tasks()), round(asyncio.get_running_loop().time())

    SEEN.set("host")
    worlds = [World(body, run_id=f"run_{n}") for n in range(3)]
    for world in worlds:
        world.turn(Inbound(EventKind.RUN_STARTED))
    told = {str(world.finish_from_here().result) for world in worlds}
    assert told == {"run_completed: ('', 1, 5)"}
    SEEN.set("")
