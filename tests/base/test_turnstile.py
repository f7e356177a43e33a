"""The turnstile: a few callers in each turn of the loop, in order, and one alone at once."""

from __future__ import annotations

import asyncio

from durable._base.turnstile import Turnstile


async def call(turnstile: Turnstile, passed: list[int], number: int) -> None:
    """Pass the turnstile, and note it."""
    if not turnstile.passes():
        await turnstile.queue()
    passed.append(number)


async def test_so_many_pass_in_one_turn_and_the_others_after_them_in_order() -> None:
    """Other work of the loop has its turn in between."""
    turnstile, passed, seen = Turnstile(3), list[int](), list[int]()
    calls = asyncio.gather(*(call(turnstile, passed, number) for number in range(10)))
    while not calls.done():
        await asyncio.sleep(0)
        seen.append(len(passed))
    assert passed == list(range(10))
    assert [*dict.fromkeys(seen)] == [3, 6, 9, 10]


async def test_one_that_comes_alone_passes_at_once() -> None:
    """Turn after turn."""
    turnstile = Turnstile(1)
    for _ in range(3):
        assert turnstile.passes()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_place_of_a_cancelled_caller_goes_to_the_next() -> None:
    """It takes nobody's turn."""
    turnstile, passed = Turnstile(1), list[int]()
    calls = [asyncio.ensure_future(call(turnstile, passed, number)) for number in range(4)]
    await asyncio.sleep(0)
    calls[1].cancel()
    calls[2].cancel()
    await asyncio.wait(calls)
    assert passed == [0, 3]
