"""Whatever waiters do, no payload is lost, given out twice or out of order.

A mailbox on a body's loop, put through every sequence of what can happen to it up to a
length: a payload arrives, somebody begins to wait, one of those who wait is cancelled,
the loop comes to rest. Between two rests anything may happen in the same turn.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

from durable._replay.loop import make_loop
from durable._replay.mailbox import Mailbox

LENGTH = 6
MOVES = ("arrive", "wait", "cancel first", "cancel last", "rest")


class NoTimers:
    """No waits, no steps."""

    def now(self) -> float:
        return 0.0

    def arm(self, handle: Any, delay: float, name: str) -> None:
        raise AssertionError(name)

    disarm = give_up = arm


class Play:
    """One sequence of moves, and a plain model of what must come out."""

    def __init__(self) -> None:
        self.loop = make_loop(NoTimers(), 0)
        self.box = Mailbox()
        self.arrived = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.got: list[object] = []

    async def waiter(self) -> None:
        self.got.append(await self.box.take(self.loop, None))

    def move(self, what: str) -> None:
        alive = [task for task in self.tasks if not task.done()]
        if what == "arrive":
            self.box.arrive(self.arrived)
            self.arrived += 1
        elif what == "wait":
            self.tasks.append(self.loop.create_task(self.waiter()))
        elif what == "rest":
            self.loop.drain()
        elif alive:
            alive[0 if what == "cancel first" else -1].cancel()

    def check(self) -> None:
        """All is at rest: payloads and waiters add up, and neither waits for the other."""
        self.loop.drain()
        served = [t for t in self.tasks if t.done() and not t.cancelled()]
        waiting = [t for t in self.tasks if not t.done()]
        assert self.got == list(range(len(served)))
        assert list(self.box.payloads) == list(range(len(served), self.arrived))
        assert not (self.box.payloads and waiting)
        assert self.box.pending == len(self.box.payloads)
        assert self.box.awaited == bool(waiting)


def play(moves: tuple[str, ...]) -> Play:
    """Make the moves and judge the outcome."""
    done = Play()
    try:
        for what in moves:
            done.move(what)
        done.check()
    except AssertionError as error:
        error.add_note(f"moves: {moves}")
        raise
    for task in done.tasks:
        task.cancel()
    done.loop.drain()
    return done


def test_no_payload_is_lost_in_any_sequence_of_moves() -> None:
    """Every sequence of up to six moves: 19,530 of them."""
    for length in range(1, LENGTH + 1):
        for moves in itertools.product(MOVES, repeat=length):
            play(moves)


def test_no_payload_is_lost_in_long_sequences(seed: int) -> None:
    """Sixty moves each, drawn at random."""
    rng = random.Random(seed)
    for _ in range(500):
        moves = tuple(rng.choices(MOVES, weights=(4, 5, 2, 1, 2), k=60))
        try:
            play(moves)
        except AssertionError as error:
            error.add_note(f"DURABLE_TEST_SEED={seed}")
            raise


def test_waiters_are_served_in_the_order_in_which_they_began_to_wait() -> None:
    """One that begins while others are about to be served comes after them."""
    done = Play()
    for what in ("wait", "wait", "rest", "arrive", "wait", "arrive", "arrive", "rest"):
        done.move(what)
    assert done.got == [0, 1, 2]
    assert all(task.done() for task in done.tasks)


def test_cancelled_in_the_turn_of_its_payload_a_waiter_leaves_it_to_the_next() -> None:
    """The payload goes back to the front, before what came later."""
    done = Play()
    for what in ("wait", "rest", "arrive", "arrive", "cancel first", "wait", "rest"):
        done.move(what)
    assert done.got == [0]
    assert list(done.box.payloads) == [1]
