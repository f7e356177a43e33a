"""The workflows of the golden journals: one for each thing that a journal can hold.

Never change what a body here decides, nor a name: journals of earlier versions hold their
histories. New things get new workflows, and `make` writes new journals beside the old ones.

`OUTSIDE` is the world around them: gates that steps wait at, faults that were mended. The
making process leaves all gates shut and all faults in place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from durable import (
    Backoff,
    continue_as_new,
    create_hook,
    get_step_metadata,
    get_writable,
    receive,
    set_attributes,
    sleep,
    start,
    step,
    workflow,
)

OUTSIDE: set[str] = set()
LONG = 20 * 86_400
_EVEN = Backoff(initial=60, factor=1, max=60, jitter=0)


class GoldenError(Exception):
    """What steps here fail with."""


@dataclass
class Receipt:
    """A value of a class of the program."""

    order: str
    cents: int
    lines: tuple[str, ...] = ()


# --- steps ------------------------------------------------------------------------------


@step(name="golden.charge")
async def charge(order: str, cents: int) -> Receipt:
    """Return a value of a class."""
    return Receipt(order, cents, ("one", "two"))


@step(name="golden.flaky", backoff=_EVEN)
async def flaky(what: str) -> str:
    """Fail twice."""
    if get_step_metadata().attempt <= 2:
        raise GoldenError(what)
    return what


@step(name="golden.fragile", max_retries=0)
def fragile(what: str) -> str:
    """Fail until somebody has mended it."""
    if what not in OUTSIDE:
        raise GoldenError(what)
    return f"{what} is mended"


@step(name="golden.gated")
async def gated(gate: str) -> int:
    """Wait until a gate is open; return which attempt came through."""
    while gate not in OUTSIDE:
        await asyncio.sleep(0.001)
    return get_step_metadata().attempt


@step(name="golden.noted")
async def noted(text: str) -> None:
    """Write to a stream, and note an attribute."""
    out = get_writable("log")
    await out.write(text)
    await out.write({"length": len(text), "odd": "\u00e9\u4e2d"})
    await set_attributes({"noted": text})


@step(name="golden.words")
async def words(gate: str) -> AsyncIterator[str]:
    """Yield three words, the last one behind a gate."""
    yield "to"
    yield "be"
    await gated.fn(gate)
    yield "or not"


@step(name="golden.rule")
async def rule(factor: int) -> Callable[[int], int]:
    """Return a value that holds code."""
    return lambda number: number * factor


# --- workflows that end while the journal is written -----------------------------------------


@workflow(name="golden.plain")
async def plain(order: str) -> dict[str, Any]:
    """Steps that succeed, fail, are retried; values of many kinds; a stream; attributes."""
    await set_attributes({"stage": "begun", "gone": "soon"})
    await set_attributes({"stage": "paid", "gone": None})
    receipt, told = await asyncio.gather(charge(order, 4200), flaky("told"))
    try:
        await fragile("plain")
    except GoldenError as error:
        failed = str(error)
    await noted("a line")
    async with get_writable() as out:
        await out.write([1, 2.5, None, True])
    return {
        "receipt": receipt,
        "told": told,
        "failed": failed,
        "odd": (b"\0\xff", {3, 1}, "\u00e9"),
    }


@workflow(name="golden.failing")
async def failing(what: str) -> str:
    """Fail, until what it needs is mended."""
    return f"{await charge(what, 1)}: {await fragile(what)}"


@workflow(name="golden.cancelled")
async def cancelled() -> None:
    """Clean up when it is cancelled."""
    try:
        await sleep(LONG)
    finally:
        await charge("undone", 0)


@workflow(name="golden.racing")
async def racing() -> list[str]:
    """Give a step up after a minute, and be woken from a sleep."""
    found = []
    try:
        async with asyncio.timeout(60):
            await gated("never")
    except TimeoutError:
        found.append("late")
    await sleep(LONG)
    return [*found, "woken"]


# --- workflows that go on with whoever opens the journal ---------------------------------------


@workflow(name="golden.sleeping")
async def sleeping(name: str) -> Receipt:
    """Sleep for long, then take a step."""
    await sleep(LONG)
    return await charge(name, 7)


@workflow(name="golden.asking")
async def asking(token: str) -> list[Any]:
    """Take a payload from a hook, and wait for the next; then read the mail."""
    async with create_hook(dict, token=token, metadata={"asks": "Ada"}) as hook:
        found = [await hook, await hook]
    return [*found, await receive("notes")]


@workflow(name="golden.second")
async def second(token: str) -> str:
    """Find the token taken."""
    async with create_hook(token=token) as hook:
        owner = await hook.get_conflict()
        return f"taken by {owner.run_id}" if owner else "free"


@workflow(name="golden.stepping")
async def stepping(gate: str) -> str:
    """Wait for a step that is running when the journal is left."""
    return f"attempt {min(await gated(gate), 2)}"


@workflow(name="golden.listening")
async def listening(gate: str) -> list[str]:
    """Take the items of a step one by one."""
    return [word async for word in words(gate)]


@workflow(name="golden.parent")
async def parent() -> list[Any]:
    """Wait for a child; another one ends with its parent."""
    kept = await start(sleeping.options(run_id="kept-child"), "child")
    await start(late.options(run_id="bound-child", on_parent_close="cancel"))
    return [await kept.result(), await charge("parent", 9)]


@workflow(name="golden.chain")
async def chain(number: int, found: list[str]) -> list[str]:
    """Go on as a new run after each letter."""
    found = [*found, await receive("letters")]
    if number < 2:
        continue_as_new(number + 1, found)
    return found


@workflow(name="golden.ruled")
async def ruled(number: int) -> int:
    """Use a value that holds code, after a sleep."""
    times = await rule(3)
    await sleep(LONG)
    return times(number)


@workflow(name="golden.late")
async def late() -> str:
    """Not be done in time."""
    await sleep(10 * LONG)
    return "in time"
