"""Bodies with hooks decide the same on every replay, in whatever order things arrive."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from durable import create_hook, receive, sleep
from durable._replay.events import EventKind
from durable._replay.hooks import mail_name
from durable._replay.script import Inbound
from durable.errors import HookConflictError, HookDisposedError, HookPayloadError
from tests.replay.rig import Recording, World, check_replays
from tests.replay.zoo_steps import clean_up, fetch

Body = Callable[[], Coroutine[Any, Any, Any]]
BODIES: dict[str, Body] = {}


def entry(fn: Body) -> Body:
    """Put a body into the list."""
    BODIES[fn.__name__] = fn
    return fn


@entry
async def races_a_hook_with_a_sleep() -> object:
    hook = create_hook(token="h")
    waiting = asyncio.create_task(hook.get())
    night = asyncio.create_task(sleep(1))
    done, pending = await asyncio.wait({waiting, night}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    in_time = waiting in done and waiting.exception() is None
    await fetch(in_time)
    return in_time, [await hook.get(), await receive("m")]


@entry
async def times_out_and_asks_again() -> object:
    found: list[object] = []
    async with create_hook(token="h") as hook:
        for _ in range(2):
            try:
                found.append(await hook.get(timeout=1))
            except TimeoutError:
                found.append(await fetch("late"))
        found.append(hook.pending)
    return found


@entry
async def waits_with_wait_for() -> object:
    hook, found = create_hook(token="h"), []
    for _ in range(3):
        try:
            found.append(await asyncio.wait_for(hook, 0.5))
        except TimeoutError:
            found.append("late")
    return found, await fetch(hook.pending)


@entry
async def two_wait_for_one_hook() -> object:
    hook = create_hook(token="h")
    one, two = asyncio.create_task(hook.get()), asyncio.create_task(hook.get())
    await fetch("meanwhile")
    one.cancel()
    await asyncio.wait([one])
    try:
        return one.cancelled(), await two, hook.pending
    finally:
        await asyncio.gather(one, two, return_exceptions=True)


@entry
async def gathers_hooks_and_mail() -> object:
    hook = create_hook(token="h")
    return await asyncio.gather(hook, receive("m"), fetch(1), hook)


@entry
async def takes_them_as_completed() -> object:
    hook = create_hook(token="h")
    wanted = (hook.get(), receive("m"), fetch("step"), hook.get())
    tasks = [asyncio.create_task(each) for each in wanted]
    try:
        return [await each for each in asyncio.as_completed(tasks)]
    finally:
        await asyncio.gather(*tasks, return_exceptions=True)


@entry
async def takes_coroutines_as_completed() -> object:
    hook = create_hook(token="h")
    each_of = asyncio.as_completed([fetch("step"), receive("m"), hook.get()])
    return [await each for each in each_of]


@entry
async def disposes_under_a_waiter() -> object:
    hook = create_hook(token="h")
    waiting = asyncio.create_task(hook.get())
    await fetch("meanwhile")
    hook.dispose()
    try:
        return await waiting, hook.pending
    except HookDisposedError:
        return await receive("m")


@entry
async def iterates_in_a_group() -> object:
    found: list[object] = []

    async def listen(name: str) -> None:
        async for payload in hook:
            found.append((name, payload))
            if len(found) == 2:
                hook.dispose()
            await fetch(payload)

    async with create_hook(token="h") as hook, asyncio.TaskGroup() as group:
        group.create_task(listen("a"))
        group.create_task(listen("b"))
    return found


@entry
async def asks_for_a_conflict() -> object:
    hook = create_hook(token="h")
    holder, _ = await asyncio.gather(hook.get_conflict(), fetch(1))
    if holder is not None:
        with pytest.raises(HookConflictError, match=holder.run_id):
            await hook
        return holder.run_id
    return await hook, await hook.get_conflict()


@entry
async def wants_types() -> object:
    hook = create_hook(set[int], token="h")
    found: list[object] = [await receive("m", int | None)]
    try:
        found.append(await receive("m", str))
    except HookPayloadError as error:
        found += [error.path, error.payload]
    return found, await hook


@entry
async def cleans_up_after_its_hook() -> object:
    async with create_hook(token="h") as hook:
        try:
            return await hook.get(timeout=3)
        finally:
            await clean_up("always")


@entry
async def leaves_waiters_behind() -> object:
    hook = create_hook(token="h")

    async def forgettable() -> object:
        with suppress(HookConflictError):
            return await hook

    forgotten = [asyncio.create_task(forgettable()) for _ in range(2)]
    await receive("m", timeout=2)
    return len(forgotten)


def mail(payload: object, *, box: str = "", ref: int = 0, key: str | None = None) -> Inbound:
    """Return a payload on its way."""
    return Inbound(EventKind.HOOK_RECEIVED, ref, mail_name(box, key), None, pickle.dumps(payload))


def for_the_hook(world: World, make: Callable[[int], Inbound]) -> list[Inbound]:
    """Return what is made for the number of the body's open hook, if it has one."""
    hooks = world.body.hooks
    return [make(seq) for seq in hooks.open] if hooks is not None else []


def deliver(world: World, what: str) -> None:
    """Let one thing happen, and record it."""
    if what in ("one", "two"):
        items = for_the_hook(world, lambda seq: mail(what, ref=seq, key=what))
    elif what == "mail":
        items = [mail("mail", box="m")]
    elif what == "conflict":
        payload = pickle.dumps("run_9")
        items = for_the_hook(world, lambda s: Inbound(EventKind.HOOK_CONFLICT, s, payload=payload))
    elif what == "claimed":
        items = for_the_hook(world, lambda s: Inbound(EventKind.HOOK_CONFLICT, s, "claimed"))
    elif what == "cancel":
        items = [Inbound(EventKind.CANCEL_REQUESTED, 0, "user", payload=b"enough")]
    else:
        items = world.arrivals() if world.arriving else []
    if items and world.body.outcome is None:
        world.turn(*items)


def perform(body: Body, order: tuple[str, ...]) -> Recording:
    """Let things happen to a body in this order, then whatever is still under way."""
    world = World(body, seed=len(order))
    world.turn(Inbound(EventKind.RUN_STARTED))
    for what in order:
        deliver(world, what)
    recording = world.finish_from_here()
    world.body.abandon()
    return recording


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_hooks_replay_from_every_write_to_the_same_end(name: str) -> None:
    """Every order of payloads, mail, steps, timers, and a cancellation or a conflict."""
    orders = {
        order
        for extra in ("cancel", "claimed", "conflict", "other")
        for order in itertools.permutations(("one", "two", "mail", "other", extra))
    }
    seen = set()  # half of the orders differ only in what reaches nobody
    for order in sorted(orders):
        try:
            recording = perform(BODIES[name], order)
            if (shape := repr((recording.history, recording.turns))) not in seen:
                seen.add(shape)
                check_replays(BODIES[name], recording)
        except BaseException as error:
            error.add_note(f"order: {order}")
            raise


def told(body: Body, *order: str) -> str:
    """Return how a body ends."""
    return str(perform(body, order).result)


def test_bodies_with_hooks_do_what_they_are_there_for() -> None:
    """So that the test above shows something."""
    assert told(races_a_hook_with_a_sleep, "one", "other", "mail", "two").endswith(
        "(True, ['two', 'mail'])"
    )
    assert "(False, ['one', 'mail'])" in told(
        races_a_hook_with_a_sleep, "other", "other", "one", "mail"
    )
    assert "['late', 'one', 0]" in told(times_out_and_asks_again, "other", "other", "one")
    assert "(True, 'one', 0)" in told(two_wait_for_one_hook, "other", "one", "two")
    assert "(False, 'two', 0)" in told(two_wait_for_one_hook, "one", "other", "two")
    assert "run_9" in told(asks_for_a_conflict, "conflict", "other")
    assert "('one', None)" in told(asks_for_a_conflict, "other", "one")
    assert told(waits_with_wait_for, "one", "two").startswith("run_completed: (['one', 'two'")


def test_payload_under_a_known_key_is_recorded_once() -> None:
    """The second one changes nothing, whether it comes at once or after a replay."""
    world = World(BODIES["waits_with_wait_for"])
    world.turn(Inbound(EventKind.RUN_STARTED))
    (seq,) = world.body.hooks.open
    first, again = mail("one", ref=seq, key="k"), mail("other", ref=seq, key="k")
    world.turn(first, again)
    assert world.recording.kinds().count("hook_received \nk") == 1
    assert world.turn(again) == []
    world.body.abandon()
