"""Workflows by seed: trees of asyncio's primitives, with steps and waits at their leaves.

`draw` makes a tree, which is plain data; `body_of` makes the body that walks it. A body takes
its tasks from sets as they come, because that is what programs do: asyncio's `wait`,
`as_completed` and `TaskGroup` keep sets of tasks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from durable import random as seeded
from durable import sleep, uuid4
from tests.replay.zoo_steps import broken, clean_up, fetch

Node = tuple[Any, ...]

_LEAVES = ("step", "step", "step", "step", "failing", "caught", "nap", "durable_nap", "drawn")
_BRANCHES = (
    "sequence", "gather", "gather_all", "first", "completed", "timeout", "shielded",
    "guarded", "queue", "locked", "limited", "event", "background",
)  # fmt: skip
_ONE_NODE = {"timeout", "wait_for", "shielded", "guarded", "background"}
# Every so many trees have what not all Pythons do in the same order; see `CHANGED`.
_SOMETIMES = {"wait_for": 3, "group": 2}
# By the Python that changed it, what decides in another order from there on: `wait_for` awaits
# in its caller's task instead of one of its own; a `TaskGroup` whose tasks have failed passes
# on a cancellation that came from outside at the same time.
CHANGED = {(3, 12): "wait_for", (3, 13): "group"}
_DEPTH_MAX, _WIDTH_MAX, _LEAVES_MAX = 4, 5, 28


def draw(seed: int) -> Node:
    """Return a tree; the same for the same seed on every Python."""
    branches = _BRANCHES + tuple(
        kind for kind, every in _SOMETIMES.items() if seed % every == 0 for _ in range(2)
    )
    pen = _Pen(random.Random(seed), branches)
    return ("sequence", 0, *(pen.node(_DEPTH_MAX) for _ in range(3)))


class _Pen:
    def __init__(self, chance: random.Random, branches: tuple[str, ...]) -> None:
        self.chance = chance
        self.branches = branches
        self.left = _LEAVES_MAX
        self.number = 0

    def node(self, depth: int) -> Node:
        if depth == 0 or self.left <= 0 or self.chance.random() < 0.3:
            return self.leaf()
        kind = self.chance.choice(self.branches)
        count = 1 if kind in _ONE_NODE else self.chance.randint(2, _WIDTH_MAX)
        nodes = [self.node(depth - 1) for _ in range(count)]
        return (kind, round(self.chance.uniform(0.1, 4), 3), *nodes)

    def leaf(self) -> Node:
        self.left -= 1
        self.number += 1
        return (self.chance.choice(_LEAVES), self.number, round(self.chance.uniform(0, 3), 3))


def holds(tree: Node, kind: str) -> bool:
    """Tell whether there is such a node in the tree."""
    return tree[0] == kind or any(holds(node, kind) for node in tree[2:] if isinstance(node, tuple))


def crosses(tree: Node, one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether the tree's body decides the same by these two Pythons."""
    return not any(
        holds(tree, kind) and (one < changed) != (other < changed)
        for changed, kind in CHANGED.items()
    )


def body_of(tree: Node) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Return a workflow's body that walks the tree."""

    async def walks() -> object:
        return await fetch(await _walk(tree))

    return walks


async def _walk(node: Node) -> Any:
    kind, number, *rest = node
    if kind in _SIMPLE:
        return await _SIMPLE[kind](number, rest[0])
    try:
        return await _BRANCHING[kind](number, rest)
    except* ValueError as errors:
        told = [str(each) for each in errors.exceptions]
    return [kind, told]


# --- leaves ---------------------------------------------------------------------------


async def _step(number: int, seconds: float) -> object:
    return await fetch(number)


async def _failing(number: int, seconds: float) -> object:
    return await broken(number)


async def _caught(number: int, seconds: float) -> object:
    try:
        return await broken(number)
    except ValueError:
        return await fetch(-number)


async def _nap(number: int, seconds: float) -> object:
    return await asyncio.sleep(seconds, number)


async def _durable_nap(number: int, seconds: float) -> object:
    return await sleep(seconds)


async def _drawn(number: int, seconds: float) -> object:
    return await fetch([seeded().random(), str(uuid4())])


# --- branches: a number of seconds, or of places, and the nodes below ----------------------


async def _sequence(seconds: float, nodes: list[Node]) -> object:
    return [await _walk(node) for node in nodes]


async def _gather(seconds: float, nodes: list[Node]) -> object:
    return await asyncio.gather(*map(_walk, nodes))


async def _gather_all(seconds: float, nodes: list[Node]) -> object:
    return list(map(str, await asyncio.gather(*map(_walk, nodes), return_exceptions=True)))


async def _group(seconds: float, nodes: list[Node]) -> object:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_walk(node)) for node in nodes]
    return [task.result() for task in tasks]


async def _first(seconds: float, nodes: list[Node]) -> object:
    tasks = {asyncio.ensure_future(_walk(node)) for node in nodes}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    late = await asyncio.gather(*pending, return_exceptions=True)
    return [str(task.exception() or task.result()) for task in done], list(map(repr, late))


async def _completed(seconds: float, nodes: list[Node]) -> object:
    found: list[object] = []
    for each in asyncio.as_completed([_walk(node) for node in nodes]):
        try:
            found.append(await fetch(await each))
        except ValueError as error:
            found.append(str(error))
    return found


async def _timeout(seconds: float, nodes: list[Node]) -> object:
    try:
        async with asyncio.timeout(seconds):
            return await _walk(nodes[0])
    except TimeoutError:
        return await fetch("late")


async def _wait_for(seconds: float, nodes: list[Node]) -> object:
    try:
        return await asyncio.wait_for(_walk(nodes[0]), seconds)
    except TimeoutError:
        return "late"


async def _shielded(seconds: float, nodes: list[Node]) -> object:
    inner = asyncio.ensure_future(_walk(nodes[0]))
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(inner)
    except TimeoutError:
        return ["later", await inner]


async def _guarded(seconds: float, nodes: list[Node]) -> object:
    try:
        return await _walk(nodes[0])
    finally:
        await clean_up(seconds)


async def _queue(seconds: float, nodes: list[Node]) -> object:
    queue: asyncio.Queue[Node | None] = asyncio.Queue(2)
    found: list[object] = []

    async def work() -> None:
        while (node := await queue.get()) is not None:
            try:
                found.append(await _walk(node))
            except ValueError as error:
                found.append(str(error))

    workers = [asyncio.ensure_future(work()) for _ in range(2)]
    for node in [*nodes, None, None]:
        await queue.put(node)
    await asyncio.gather(*workers)
    return found


async def _locked(seconds: float, nodes: list[Node]) -> object:
    lock, found = asyncio.Lock(), []

    async def one(node: Node) -> None:
        async with lock:
            found.append(await _walk(node))

    await asyncio.gather(*map(one, nodes))
    return found


async def _limited(seconds: float, nodes: list[Node]) -> object:
    limit, found = asyncio.Semaphore(2), []

    async def one(node: Node) -> None:
        async with limit:
            found.append(str(await _walk(node)))

    await asyncio.wait([asyncio.ensure_future(one(node)) for node in nodes])
    return found


async def _event(seconds: float, nodes: list[Node]) -> object:
    event = asyncio.Event()

    async def follow(node: Node) -> object:
        await event.wait()
        return await _walk(node)

    followers = [asyncio.ensure_future(follow(node)) for node in nodes[1:]]
    try:
        return [await _walk(nodes[0])]
    finally:
        event.set()
        await asyncio.wait(followers)
        await fetch([str(each.exception() or each.result()) for each in followers])


async def _background(seconds: float, nodes: list[Node]) -> object:
    task = asyncio.ensure_future(_walk(nodes[0]))
    await asyncio.sleep(seconds)
    return await task


_SIMPLE = {
    "step": _step,
    "failing": _failing,
    "caught": _caught,
    "nap": _nap,
    "durable_nap": _durable_nap,
    "drawn": _drawn,
}
_BRANCHING = {
    "sequence": _sequence,
    "gather": _gather,
    "gather_all": _gather_all,
    "group": _group,
    "first": _first,
    "completed": _completed,
    "timeout": _timeout,
    "wait_for": _wait_for,
    "shielded": _shielded,
    "guarded": _guarded,
    "queue": _queue,
    "locked": _locked,
    "limited": _limited,
    "event": _event,
    "background": _background,
}
