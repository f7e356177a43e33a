"""S: the least that a step can be, whoever writes the engine, if it promises what we do.

A body is a coroutine in a task of asyncio's own, on a loop that does nothing but call back,
because it may use asyncio's tools and must be resumed in the same order each time. A call
of a step pickles its arguments by themselves; its row is durable before it is performed;
its result is pickled by itself, and its row is durable before the body sees it. Rows of all
bodies share a COMMIT and go in by one `executemany`.

What is left out is everything else that an engine is asked for: identifiers, names and
times of steps, checks that a replayed body calls what it called before, attempts, errors,
time limits, cancellation, checksums, a host's loop that others use too, a thread for flushes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine
from pickle import dumps
from time import perf_counter
from typing import Any

BODIES, STEPS = 1000, 5

TABLE = (
    "CREATE TABLE IF NOT EXISTS events (run INTEGER NOT NULL, seq INTEGER NOT NULL, "
    "kind INTEGER NOT NULL, payload BLOB, PRIMARY KEY (run, seq)) STRICT, WITHOUT ROWID"
)
CREATED, COMPLETED = 1, 2

Row = tuple[int, int, int, bytes]


class Loop(asyncio.AbstractEventLoop):
    """Calls back in the order in which it was asked; knows no time and no I/O."""

    def __init__(self) -> None:
        self.ready: deque[tuple[Callable[..., object], tuple[Any, ...], Any]] = deque()

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        """Call back in `turn`."""
        self.ready.append((callback, args, context))

    def get_debug(self) -> bool:
        """Never."""
        return False

    def turn(self) -> None:
        """Call until nothing is left."""
        while self.ready:
            callback, args, context = self.ready.popleft()
            context.run(callback, *args)


class Engine:
    """Bodies, the rows that they have yet to write, and the steps that are then performed."""

    def __init__(self, first: int) -> None:
        self.loop = Loop()
        self.first = first
        self.rows: list[Row] = []
        self.called: list[tuple[int, int, asyncio.Future[int], Coroutine[Any, Any, int]]] = []

    def call(self, run: int, seq: int, number: int) -> asyncio.Future[int]:
        """Call a step from a body."""
        self.rows.append((run, seq, CREATED, dumps((number,), 5)))
        waiting: asyncio.Future[int] = asyncio.Future(loop=self.loop)
        self.called.append((run, seq + 1, waiting, step(number)))
        return waiting

    def perform(self) -> list[tuple[asyncio.Future[int], int]]:
        """Perform what was called; their outcomes, to be told when they are durable."""
        outcomes = []
        for run, seq, waiting, coroutine in self.called:
            try:
                coroutine.send(None)
            except StopIteration as end:
                self.rows.append((run, seq, COMPLETED, dumps(end.value, 5)))
                outcomes.append((waiting, end.value))
        self.called = []
        return outcomes

    def commit(self, connection: sqlite3.Connection) -> None:
        """Make all rows durable."""
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", self.rows)
        connection.execute("COMMIT")
        self.rows = []


async def step(number: int) -> int:
    """The smallest step."""
    return number + 1


async def body(engine: Engine, run: int) -> int:
    """Some steps, each waiting for the one before."""
    number = 0
    for seq in range(0, 2 * STEPS, 2):
        number = await engine.call(run, seq, number)
    return number


def seconds_per_step(connection: sqlite3.Connection) -> float:
    """How long each of the steps of many bodies takes, all bodies going on together."""
    connection.execute(TABLE)
    (first,) = connection.execute("SELECT coalesce(max(run) + 1, 0) FROM events").fetchone()
    engine = Engine(first)
    begun = perf_counter()
    runs = range(first, first + BODIES)
    tasks = [asyncio.Task(body(engine, run), loop=engine.loop) for run in runs]
    outcomes: list[tuple[asyncio.Future[int], int]] = []
    while True:
        for waiting, value in outcomes:
            waiting.set_result(value)
        engine.loop.turn()
        if not engine.rows:
            break
        engine.commit(connection)
        outcomes = engine.perform()
        engine.commit(connection)
    took = perf_counter() - begun
    if not all(task.result() == STEPS for task in tasks):
        raise AssertionError("the bodies have not counted their steps")
    return took / (BODIES * STEPS)
