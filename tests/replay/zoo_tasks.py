"""Bodies made of tasks: groups, cancelling, queues and locks, generators and contexts."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from durable import logger, sleep, uuid4
from durable import random as seeded
from tests.replay.zoo_steps import broken, child, clean_up, entry, fetch

# --- task groups --------------------------------------------------------------------


@entry
async def task_group() -> object:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(child(n)) for n in range(9)]
    return [task.result() for task in tasks]


@entry
async def task_group_fails_and_cancels_siblings() -> object:
    async def careful(n: int) -> None:
        try:
            await child(n)
            await sleep(5)
        finally:
            await clean_up(n)

    found: list[object] = []
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(9):
                group.create_task(careful(n))
            group.create_task(broken("first"))
            group.create_task(broken("second"))
    except* ValueError as errors:
        found += [str(one) for one in errors.exceptions]
    return await fetch(found)


@entry
async def task_groups_nested() -> object:
    found = []
    try:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(child("outer"))
            try:
                async with asyncio.TaskGroup() as inner:
                    inner.create_task(broken("inner"))
                    inner.create_task(child("sibling"))
            except* ValueError as errors:
                found.append(repr(errors.exceptions))
            outer.create_task(broken("late"))
    except* ValueError as errors:
        found.append(repr(errors.exceptions))
    return found


# --- cancelling ---------------------------------------------------------------------


@entry
async def shields() -> object:
    inner = asyncio.create_task(child("kept"))
    outer = asyncio.create_task(asyncio.wait_for(asyncio.shield(inner), 0.3))
    results = await asyncio.gather(outer, return_exceptions=True)
    return repr(results), await inner


@entry
async def cancels_a_task_in_its_clean_up() -> object:
    async def stubborn() -> object:
        try:
            await fetch("work")
            await sleep(100)
        except asyncio.CancelledError as error:
            await clean_up(str(error))
            return "cleaned"

    task = asyncio.create_task(stubborn())
    await fetch("meanwhile")
    task.cancel("why")
    return await task


@entry
async def uncancels() -> object:
    me = asyncio.current_task()
    assert me is not None
    me.cancel()
    try:
        await fetch("never answered")
    except asyncio.CancelledError:
        assert me.cancelling() == 1
        me.uncancel()
    return await fetch(me.cancelling())


@entry
async def cancels_all_tasks() -> object:
    tasks = [asyncio.create_task(child(n)) for n in range(5)]
    await sleep(0.5)
    for task in sorted(asyncio.all_tasks(), key=lambda task: int(task is asyncio.current_task())):
        if task is not asyncio.current_task():
            task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return await fetch([repr(one) for one in done])


# --- queues and locks ---------------------------------------------------------------


async def feed(queue: asyncio.Queue[Any]) -> object:
    """Let two producers and three consumers work on one queue."""
    eaten = []

    async def produce(first: int) -> None:
        for n in range(first, first + 3):
            await queue.put(await fetch(n))

    async def consume(name: str) -> None:
        while True:
            item = await queue.get()
            eaten.append((name, await fetch(item)))
            queue.task_done()

    consumers = [asyncio.create_task(consume(name)) for name in "abc"]
    await asyncio.gather(produce(0), produce(10))
    await queue.join()
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    return await fetch(eaten)


@entry
async def queue() -> object:
    return await feed(asyncio.Queue(maxsize=2))


@entry
async def priority_queue() -> object:
    return await feed(asyncio.PriorityQueue(maxsize=2))


@entry
async def events_conditions_barriers() -> object:
    event, condition, barrier = asyncio.Event(), asyncio.Condition(), asyncio.Barrier(3)
    seen: list[object] = []

    async def member(n: int) -> None:
        await event.wait()
        async with condition:
            await condition.wait_for(lambda: len(seen) >= n)
            seen.append(await fetch(n))
            condition.notify_all()
        await fetch(await barrier.wait())

    async def open_up() -> None:
        await fetch("open")
        event.set()

    await asyncio.gather(member(2), member(1), member(0), open_up())
    return seen


@entry
async def locks_and_semaphores() -> object:
    lock, two = asyncio.Lock(), asyncio.BoundedSemaphore(2)
    order = []

    async def member(n: int) -> None:
        async with two:
            await fetch(n)
            async with asyncio.timeout(10), lock:
                order.append(await child(n))

    await asyncio.gather(*[member(n) for n in range(5)], return_exceptions=True)
    return await fetch(order)


# --- generators, contexts, the rest -------------------------------------------------


async def pages(count: int) -> AsyncIterator[object]:
    """Yield what steps give; clean up with a step."""
    try:
        for n in range(count):
            yield await fetch(n)
    finally:
        await clean_up("pages")


@entry
async def async_generators() -> object:
    whole = [page async for page in pages(3)]
    async for page in pages(5):
        if page == 2:
            break  # the generator is dropped here, and its clean-up runs as a task of its own
    some = {n: [page async for page in pages(n)] for n in range(3)}
    return whole, some, await fetch("end")


@asynccontextmanager
async def resource(name: str) -> AsyncIterator[object]:
    """Acquire and release by steps."""
    try:
        yield await fetch(name)
    finally:
        await clean_up(name)


@entry
async def async_exit_stack() -> object:
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(resource(name)) for name in "abc"]
        stack.push_async_callback(child, "last")
        with suppress(ValueError):
            await broken("inside")
    return held


CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="none")


@entry
async def context_variables() -> object:
    async def member(name: str) -> object:
        before = CURRENT.get()
        CURRENT.set(name)
        await child(name)
        return before, CURRENT.get()

    first = CURRENT.get()
    CURRENT.set("main")
    found = await asyncio.gather(member("a"), member("b"))
    return first, found, CURRENT.get()


@entry
async def tasks_know_themselves() -> object:
    async def member() -> str:
        me = asyncio.current_task()
        assert me in asyncio.all_tasks()
        await fetch(1)
        assert me is not None
        return me.get_name()

    main = asyncio.current_task()
    assert main is not None
    return main.get_name(), await asyncio.gather(member(), member())


@entry
async def chance_and_log() -> object:
    logger.info("a body may log")
    await fetch([seeded().random() for _ in range(3)])
    return str(uuid4()), seeded().choice("abcdef"), await fetch(str(uuid4()))


@entry
async def leaves_work_behind() -> object:
    async def careful() -> None:
        try:
            await sleep(1000)
        finally:
            await clean_up("too late")

    loose = [asyncio.create_task(child(1)), asyncio.create_task(careful())]
    await fetch(2)
    return len(loose)


@entry
async def fails() -> object:
    await asyncio.gather(child(1), sleep(0.4))
    return {}["missing"]


@entry
async def waits_for_ever() -> object:
    await fetch(1)
    await asyncio.Event().wait()
