"""Bodies that use asyncio's primitives, one per habit, for tests and as a program.

Run as a program it performs every body under several seeds and prints one digest of all
histories: equal digests under different hash seeds mean that no order depended on one.
It moves memory about first, so that addresses differ from process to process too.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from durable import logger, now, sleep, step, uuid4
from durable import random as seeded
from tests.replay.rig import comparable, perform

SEEDS = range(5)

ZOO: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {}


def entry(fn: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Put a body into the zoo."""
    ZOO[fn.__name__] = fn
    return fn


@step
async def fetch(what: object) -> object:
    """Give back what was asked for."""
    return what


@step
def broken(what: object) -> object:
    """Fail."""
    raise ValueError(what)


@step
async def clean_up(what: object) -> None:
    """Stand for a compensation."""


async def child(what: object) -> object:
    """Take two steps."""
    return await fetch(await fetch(what))


# --- gather, wait, as_completed -----------------------------------------------------


@entry
async def gathers() -> object:
    return await asyncio.gather(fetch(1), child(2), fetch(3))


@entry
async def gathers_nested() -> object:
    return await asyncio.gather(
        asyncio.gather(fetch(1), child(2)), asyncio.gather(*[fetch(n) for n in range(5)])
    )


@entry
async def gather_raises_the_first_error() -> object:
    try:
        await asyncio.gather(child(1), broken(2), broken(3))
    except ValueError as error:
        return await fetch(str(error))


@entry
async def gather_returns_exceptions() -> object:
    found = await asyncio.gather(broken(1), child(2), broken(3), return_exceptions=True)
    return [repr(one) for one in found]


@entry
async def gather_is_cancelled() -> object:
    together = asyncio.gather(child(1), sleep(30), return_exceptions=True)
    await fetch("go on")
    together.cancel()
    with suppress(asyncio.CancelledError):
        await together
    return await fetch("done")


async def wait_for_some(return_when: str) -> object:
    tasks = [asyncio.create_task(child(n), name=f"n{n}") for n in range(12)]
    tasks.append(asyncio.create_task(broken("x"), name="x"))
    done, pending = await asyncio.wait(tasks, return_when=return_when)
    for task in pending:
        task.cancel()
    order = [task.get_name() for task in done]
    await asyncio.gather(*(fetch(task.get_name()) for task in done))
    await asyncio.gather(*pending, return_exceptions=True)
    return order, [repr(task.exception()) for task in done if not task.cancelled()]


@entry
async def wait_first_completed() -> object:
    return await wait_for_some(asyncio.FIRST_COMPLETED)


@entry
async def wait_first_exception() -> object:
    return await wait_for_some(asyncio.FIRST_EXCEPTION)


@entry
async def wait_all_completed() -> object:
    return await wait_for_some(asyncio.ALL_COMPLETED)


@entry
async def wait_with_timeout() -> object:
    tasks = {asyncio.create_task(fetch(n)) for n in range(4)}
    done, pending = await asyncio.wait(tasks, timeout=1)
    for task in done:
        await fetch(task.result())
    return len(done), len(pending), [await task for task in pending]


@entry
async def as_completed_of_coroutines() -> object:
    return [await each for each in asyncio.as_completed([child(n) for n in range(10)])]


@entry
async def as_completed_of_steps_with_timeout() -> object:
    found: list[object] = []
    try:
        for each in asyncio.as_completed([fetch(n) for n in range(6)], timeout=1.5):
            found += [await each]
    except TimeoutError:
        found += ["late"]
    return await fetch(found)


@entry
async def as_completed_of_tasks() -> object:
    tasks = [asyncio.create_task(fetch(n)) for n in range(6)]
    return [await each for each in asyncio.as_completed({*tasks, *tasks[:2]})]


@entry
async def as_completed_of_coroutines_and_tasks() -> object:
    early = asyncio.create_task(fetch("early"))
    late = [fetch(n) for n in range(3)]
    return [await each for each in asyncio.as_completed([late[0], early, *late])]


# --- time ---------------------------------------------------------------------------


@entry
async def wait_for_in_time_and_late() -> object:
    found = []
    for limit in (0.2, 1.0, 5.0, None, 0):
        try:
            found.append(await asyncio.wait_for(child(limit), limit))
        except TimeoutError:
            found.append(await fetch("late"))
    return found


@entry
async def timeouts() -> object:
    try:
        async with asyncio.timeout(1.0) as limit:
            await child("in time")
            limit.reschedule(asyncio.get_running_loop().time() + 2.0)
            await child("again")
            await sleep(0.5)
    except TimeoutError:
        await fetch("late")
    return limit.expired()


@entry
async def timeouts_nested() -> object:
    found = []
    async with asyncio.timeout(3600):
        for limit in (0.1, 1, 10):
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + limit):
                    async with asyncio.timeout(limit * 2):
                        await asyncio.gather(child(1), child(2))
                found.append("in time")
            except TimeoutError:
                found.append("late")
    return found


@entry
async def timeout_rescheduled_to_the_past() -> object:
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            await fetch(1)
            limit.reschedule(0)
            await fetch(2)
    return limit.expired()


@entry
async def sleeps() -> object:
    began = now()
    await asyncio.sleep(1)
    await sleep("1 day")
    await sleep(timedelta(hours=1))
    await sleep(now() + timedelta(minutes=5))
    await sleep(datetime(1999, 1, 1, tzinfo=UTC))
    assert now() - began >= timedelta(days=1, hours=1, minutes=5, seconds=1)
    return await asyncio.sleep(2, "value")


@entry
async def sleeps_race_with_steps() -> object:
    tasks = [asyncio.create_task(sleep(n / 3)) for n in range(4)]
    tasks += [asyncio.create_task(fetch(n)) for n in range(4)]
    names = []
    while tasks:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        names += [task.get_name() for task in done]
        tasks = [task for task in tasks if task not in done]
    return await fetch(names)


@entry
async def sleep_until_is_cancelled() -> object:
    waiting = asyncio.create_task(sleep(now() + timedelta(days=1)))
    await fetch(1)
    waiting.cancel()
    return await asyncio.gather(waiting, return_exceptions=True)


@entry
async def yields() -> object:
    seen = []

    async def take_turns(name: str) -> None:
        for n in range(3):
            seen.append(f"{name}{n}")
            await asyncio.sleep(0)

    await asyncio.gather(take_turns("a"), take_turns("b"))
    return await fetch(seen)


@entry
async def callbacks_and_futures() -> object:
    seen: list[object] = []
    seen_never: list[object] = []
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    loop.call_soon(lambda: seen.append("soon"))
    loop.call_later(0, lambda: seen.append("at once"))
    loop.call_later(1.5, answer.set_result, "later")
    loop.call_later(60, seen_never.append, 1).cancel()
    loop.call_at(loop.time() + 0.5, lambda: seen.append("half"))
    answer.add_done_callback(lambda done: seen.append(done.result()))
    await asyncio.gather(answer, child(1), sleep(2))
    return seen, seen_never, round(loop.time())


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
    await asyncio.sleep(0.5)
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


def main() -> None:
    """Print the digest of the histories of the whole zoo."""
    junk = [bytearray(random.randrange(1, 5000)) for _ in range(3000)]
    del junk[:: random.randrange(2, 5)]
    digest = hashlib.sha256()
    for name, body in ZOO.items():
        for seed in SEEDS:
            recording = perform(body, seed)
            told = repr([comparable(event) for event in recording.history])
            digest.update(told.encode())
            if "-v" in sys.argv:
                print(name, seed, hashlib.sha256(told.encode()).hexdigest()[:12])
    print(digest.hexdigest())


if __name__ == "__main__":
    import logging

    logging.disable()
    assert os.environ.get("PYTHONHASHSEED"), "give a hash seed"
    main()
