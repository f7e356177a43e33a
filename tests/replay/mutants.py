"""A body as it was recorded, and what its author made of it meanwhile.

Each mutant names the first difference: its position in the history, what the history
holds there, what the code did instead; the line marked ``# here`` is the one to blame.
Innocent variants follow, which decide the same as before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from durable import sleep, step

# Who ran a `finally`: on replay, nobody may.
RAN: list[str] = []

MINUTE = 60.0

Main = Callable[[], Coroutine[Any, Any, Any]]


@step
async def charge(cents: int) -> str:
    return f"receipt for {cents}"


@step
async def charge_twice(cents: int) -> str:
    return f"two receipts for {cents}"


@step
async def pack(item: str) -> str:
    return f"packed {item}"


@step
async def ship(receipt: str) -> str:
    return f"shipped {receipt}"


@step
async def refuse(what: str) -> None:
    raise ValueError(what)


async def order() -> list[str]:
    """The recorded body."""
    try:
        receipt = await charge(42)
        await sleep(60)
        boxes = await asyncio.gather(pack("cup"), pack("spoon"))
        with suppress(ValueError):
            await refuse("gift")
        await ship(receipt)
        return boxes
    finally:
        RAN.append("order")


ORDER = [
    "run_created main",  # 1
    "run_started",
    "step_created charge",  # 3
    "step_completed",
    "wait_created sleep",  # 5
    "wait_completed",
    "step_created pack",  # 7
    "step_created pack",  # 8
    "step_completed",
    "step_completed",
    "step_created refuse",  # 11
    "step_failed",
    "step_created ship",  # 13
    "step_completed",
    "run_completed",  # 15
]


@dataclass
class Mutant:
    """A changed body and how it is found out, when `until` events are recorded."""

    main: Main
    position: int
    expected: str
    got: str
    until: int | None


MUTANTS: dict[str, Mutant] = {}
INNOCENT: dict[str, Main] = {}


def mutant(
    position: int, expected: str, got: str, until: int | None = None
) -> Callable[[Main], Main]:
    """Put a changed body into the corpus."""

    def add(main: Main) -> Main:
        MUTANTS[main.__name__] = Mutant(main, position, expected, got, until)
        return main

    return add


def innocent(main: Main) -> Main:
    """Put a body into the corpus that decides the same."""
    INNOCENT[main.__name__] = main
    return main


async def rest(receipt: str, gift: Callable[[str], Awaitable[None]] = refuse) -> list[str]:
    """Everything behind the sleep, as recorded."""
    boxes = await asyncio.gather(pack("cup"), pack("spoon"))
    with suppress(ValueError):
        await gift("gift")
    await ship(receipt)
    return boxes


# --- the beginning --------------------------------------------------------------------


@mutant(3, "step_created 'charge'", "issued step_created 'charge_twice'")
async def step_renamed() -> object:
    try:
        receipt = await charge_twice(42)  # here
        await sleep(60)
        return await rest(receipt)
    finally:
        RAN.append("mutant")


@mutant(3, "step_created 'charge'", "issued step_created 'pack'")
async def step_added_first() -> object:
    try:
        await pack("first")  # here
        receipt = await charge(42)
        await sleep(60)
        return await rest(receipt)
    finally:
        RAN.append("mutant")


@mutant(3, "step_created 'charge'", "issued wait_created 'sleep'")
async def first_step_removed() -> object:
    try:
        await sleep(60)  # here
        return await rest("none")
    finally:
        RAN.append("mutant")


@mutant(3, "step_created 'charge'", "issued wait_created 'sleep'")
async def step_and_sleep_swapped() -> object:
    try:
        await sleep(60)  # here
        receipt = await charge(42)
        return await rest(receipt)
    finally:
        RAN.append("mutant")


@mutant(3, "step_created 'charge'", "issued wait_created 'timer'")
async def put_under_a_timeout() -> object:
    try:
        async with asyncio.timeout(5):  # here
            return await order()
    finally:
        RAN.append("mutant")


@mutant(3, "step_created 'charge'", "came to its end (run_completed)")  # here
async def returns_at_once() -> object:
    return "nothing to do"


@mutant(3, "step_created 'charge'", "came to its end (run_failed)")
async def fails_at_once() -> object:
    receipt: dict[str, str] = {}
    return receipt["missing"]  # here


@mutant(3, "step_created 'charge'", "issued nothing there")
async def waits_for_itself() -> object:
    try:
        await asyncio.Event().wait()  # here
        return await order()
    finally:
        RAN.append("mutant")


# --- the middle -----------------------------------------------------------------------


@mutant(5, "wait_created 'sleep'", "issued step_created 'pack'")
async def sleep_removed() -> object:
    try:
        receipt = await charge(42)
        boxes = await asyncio.gather(pack("cup"), pack("spoon"))  # by a task of gather
        return await ship(receipt), boxes
    finally:
        RAN.append("mutant")


@mutant(5, "wait_created 'sleep'", "issued step_created 'ship'")
async def other_branch() -> object:
    try:
        receipt = await charge(42)
        if receipt.startswith("receipt"):
            return await ship(receipt)  # here
        await sleep(60)
        return await rest(receipt)
    finally:
        RAN.append("mutant")


@mutant(5, "wait_created 'sleep'", "issued wait_created 'until'")
async def sleep_became_a_date() -> object:
    try:
        from durable import now

        receipt = await charge(42)
        await sleep(now())  # here
        return await rest(receipt)
    finally:
        RAN.append("mutant")


@mutant(5, "wait_created 'sleep'", "came to its end (run_completed)")  # here
async def returns_early() -> object:
    receipt = await charge(42)
    return receipt  # noqa: RET504 - as its author would write it


@mutant(5, "wait_created 'sleep'", "came to its end (run_failed)")
async def fails_early() -> object:
    receipt = await charge(42)
    raise ValueError(receipt)  # here


@mutant(5, "wait_created 'sleep'", "issued wait_created 'timer'")
async def sleep_in_a_callback() -> object:
    try:
        receipt = await charge(42)
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(60, done.set)  # here
        await done.wait()
        return await rest(receipt)
    finally:
        RAN.append("mutant")


@mutant(7, "step_created 'pack'", "issued wait_created 'sleep'")
async def sleep_added() -> object:
    try:
        receipt = await charge(42)
        await sleep(60)
        await asyncio.sleep(MINUTE)  # here
        return await rest(receipt)
    finally:
        RAN.append("mutant")


@mutant(8, "step_created 'pack'", "issued nothing there")
async def gather_made_sequential() -> object:
    try:
        receipt = await charge(42)
        await sleep(60)
        boxes = [await pack(item) for item in ("cup", "spoon")]  # here
        return await ship(receipt), boxes
    finally:
        RAN.append("mutant")


@mutant(8, "step_created 'pack'", "issued nothing there")
async def loop_count_lowered() -> object:
    try:
        receipt = await charge(42)
        await sleep(60)
        boxes = await asyncio.gather(*[pack(item) for item in ("cup",)])  # here
        return await ship(receipt), boxes
    finally:
        RAN.append("mutant")


@mutant(9, "step_completed of event 7", "issued step_created 'pack'")
async def loop_count_raised() -> object:
    async def packed(item: str) -> str:
        return await pack(item)  # here

    try:
        receipt = await charge(42)
        await sleep(60)
        boxes = await asyncio.gather(*[packed(item) for item in ("cup", "spoon", "fork")])
        return await ship(receipt), boxes
    finally:
        RAN.append("mutant")


@mutant(9, "no further event", "issued step_created 'ship'", until=8)
async def step_added_at_the_tail() -> object:
    async def shipped() -> str:
        return await ship("early")  # here

    try:
        receipt = await charge(42)
        await sleep(60)
        await asyncio.gather(pack("cup"), pack("spoon"), shipped())
        return await rest(receipt)
    finally:
        RAN.append("mutant")


@mutant(9, "step_completed of event 7", "issued step_cancelled 'pack' of event 8")
async def loser_is_cancelled() -> object:
    try:
        receipt = await charge(42)
        await sleep(60)
        spoon = asyncio.create_task(pack("spoon"))
        cup = asyncio.create_task(pack("cup"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cup.cancel()  # here
        return await asyncio.gather(spoon, cup, return_exceptions=True), receipt
    finally:
        RAN.append("mutant")


@mutant(11, "step_created 'refuse'", "issued step_created 'ship'")
async def gift_removed() -> object:
    try:
        receipt = await charge(42)
        await sleep(60)
        await asyncio.gather(pack("cup"), pack("spoon"))
        return await ship(receipt)  # here
    finally:
        RAN.append("mutant")


# --- the end --------------------------------------------------------------------------


@mutant(13, "step_created 'ship'", "came to its end (run_failed)")
async def exception_not_swallowed_any_more() -> object:
    receipt = await charge(42)
    await sleep(60)
    boxes = await asyncio.gather(pack("cup"), pack("spoon"))
    await refuse("gift")  # here
    await ship(receipt)
    return boxes


@mutant(13, "step_created 'ship'", "issued step_created 'charge'")
async def compensation_added() -> object:
    try:
        receipt = await charge(42)
        await sleep(60)
        await asyncio.gather(pack("cup"), pack("spoon"))
        try:
            await refuse("gift")
        except ValueError:
            await charge(-42)  # here
        return await ship(receipt)
    finally:
        RAN.append("mutant")


@mutant(15, "run_completed", "issued step_created 'pack'")
async def step_added_last() -> object:
    try:
        receipt = await charge(42)
        await sleep(60)
        boxes = await rest(receipt)
        await pack("last")  # here
        return boxes
    finally:
        RAN.append("mutant")


@mutant(15, "run_completed", "issued nothing there")
async def never_returns() -> object:
    try:
        receipt = await charge(42)
        await sleep(60)
        await rest(receipt)
        await asyncio.Event().wait()  # here
    finally:
        RAN.append("mutant")


@mutant(15, "run_completed", "came to its end (run_failed)")
async def fails_at_the_end() -> object:
    receipt = await charge(42)
    await sleep(60)
    boxes = await rest(receipt)
    raise ValueError(boxes)  # here


@mutant(15, "no further event", "came to its end (run_completed)", until=14)  # here
async def history_without_its_end() -> object:
    receipt = await charge(42)
    await sleep(60)
    return await rest(receipt)


# --- innocent changes -----------------------------------------------------------------


@innocent
async def logs_and_computes() -> list[str]:
    receipt = await charge(sum([40, 2]))
    logging.getLogger("test").debug("charged: %s", receipt)
    await sleep("1 minute")
    boxes = await asyncio.gather(*map(pack, ["cup", "spoon"]))
    with suppress(ValueError):
        await refuse("gift")
    await ship(receipt)
    return sorted(boxes)


@innocent
async def moved_into_functions_and_tasks() -> list[str]:
    async def begin() -> str:
        receipt = await charge(42)
        await asyncio.sleep(MINUTE)
        return receipt

    receipt = await asyncio.create_task(begin())
    return await rest(receipt)


@innocent
async def retries_and_other_options() -> list[str]:
    receipt = await charge.options(max_retries=9, timeout="1m")(42)
    await sleep(60)
    return await rest(receipt)


@innocent
async def gather_became_a_task_group() -> list[str]:
    receipt = await charge(42)
    await sleep(60)
    async with asyncio.TaskGroup() as group:
        boxes = [group.create_task(pack(item)) for item in ("cup", "spoon")]
    with suppress(ValueError):
        await refuse("gift")
    await ship(receipt)
    return [box.result() for box in boxes]
