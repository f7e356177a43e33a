"""Bodies that wait: gather, wait, as_completed, sleeps, timeouts, callbacks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from durable import now, sleep
from tests.replay.zoo_steps import broken, child, entry, fetch

SECOND = 1.0

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
    await asyncio.sleep(SECOND)
    await sleep("1 day")
    await sleep(timedelta(hours=1))
    await sleep(now() + timedelta(minutes=5))
    await sleep(datetime(1999, 1, 1, tzinfo=UTC))
    assert now() - began >= timedelta(days=1, hours=1, minutes=5, seconds=1)
    return await asyncio.sleep(2 * SECOND, "value")


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
