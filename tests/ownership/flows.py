"""Workflows that the processes of the ownership tests share, and what they saw happen.

Each process that executes steps writes them to one ledger: a line at the begin and at
the end of each attempt, with its process id, in one `write` each. Around its running
steps a process holds a lock of its own, unrelated to the library's: two processes that
execute at the same time meet there, and the second writes a line about it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from durable import Run, create_hook, get_step_metadata, receive, sleep, step, workflow
from durable.errors import WorkflowRunBlockedError


class Fact(NamedTuple):
    """One line of the ledger."""

    what: str  # begin, end, or overlap
    pid: int
    run: str
    step: str


class Ledger:
    """The file, and the lock that shows whether two processes execute at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Opened before the journal, so that the kernel lets go of it first at a death.
        self._guard = os.open(f"{path}.guard", os.O_CREAT | os.O_RDWR, 0o600)
        self._lines = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        self._running = 0

    def begin(self, run: str, step: str) -> None:
        """Note the begin of an attempt."""
        if self._running == 0 and not self._alone():
            self._note("overlap", run, step)
        self._running += 1
        self._note("begin", run, step)

    def end(self, run: str, step: str) -> None:
        """Note the end of an attempt that went well."""
        self._note("end", run, step)

    def over(self) -> None:
        """Note that an attempt is not running any more, whatever became of it."""
        self._running -= 1
        if self._running == 0:
            fcntl.flock(self._guard, fcntl.LOCK_UN)

    def facts(self) -> list[Fact]:
        """Everything that any process has written."""
        return [Fact(*json.loads(line)) for line in self.path.read_text().splitlines()]

    def close(self) -> None:
        """Close both files."""
        os.close(self._guard)
        os.close(self._lines)

    def _alone(self) -> bool:
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _note(self, *fact: object) -> None:
        what, *rest = fact
        os.write(self._lines, (json.dumps([what, os.getpid(), *rest]) + "\n").encode())


class Here:
    """What the flows of this process use.

    Attributes:
        ledger: where steps write, if they are to.
        announce: told the tag of each step that begins and is there to be met by a test.
        gates: `gates[tag].set()` lets the held steps of this tag end.
        recipe: the steps that `fickle` calls, in order.
    """

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self.announce: Callable[[str], object] = str
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.recipe = ["one", "two"]


here = Here()


@asynccontextmanager
async def _noted(name: str) -> AsyncIterator[None]:
    ledger, run = here.ledger, get_step_metadata().run_id
    if ledger is None:
        yield
        return
    ledger.begin(run, name)
    try:
        yield
        ledger.end(run, name)
    finally:
        ledger.over()


def overlaps(facts: list[Fact]) -> Iterator[str]:
    """What shows that two processes executed at once, or a completed step ran again.

    All flows take their steps one after the other, so a step is known to be on record as
    completed once a later one of its run has begun; not before, for a process may die
    between a step's last line and the record of it.
    """
    order: defaultdict[str, list[str]] = defaultdict(list)
    for fact in facts:
        if fact.what == "overlap":
            yield f"{fact} beside another process"
        steps = order[fact.run]
        if fact.what == "begin" and fact.step not in steps:
            steps.append(fact.step)
        elif fact.what == "begin" and fact.step != steps[-1]:
            yield f"{fact} after {steps[-1]} had begun"


async def sleeps(run: Run[Any]) -> bool:
    """Whether the run waits for something."""
    return bool((await run.status()).waiting_for)


async def outcome(run: Run[Any]) -> Any:
    """Return the run's result; a step in which processes were killed gets more chances."""
    while True:
        try:
            return await run.result()
        except WorkflowRunBlockedError as blocked:
            if blocked.kind != "poison_step":
                raise
            await run.resume()


# --- flows ----------------------------------------------------------------------------


@step
async def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


@step(max_retries=0)
async def look_up(key: str) -> None:
    """Fail with an error of Python's own."""
    raise LookupError(key)


@step
async def mark(tag: str, number: int) -> None:
    """Do nothing but be noted."""
    async with _noted(f"mark {tag} {number}"):
        pass


@step
async def toil(tag: str, number: int) -> None:
    """Take a moment, so that processes die in the middle of it."""
    async with _noted(f"toil {tag} {number}"):
        here.announce(tag)
        await asyncio.sleep(0.005)


@step
async def hold(tag: str) -> int:
    """Run until the gate of `tag` is opened in this process; return the process's id."""
    async with _noted(f"hold {tag}"):
        here.announce(tag)
        await here.gates[tag].wait()
    return os.getpid()


@workflow
async def total(a: int, b: int) -> int:
    """One step."""
    return await add(a, b)


@workflow
async def doomed(key: str) -> None:
    """Fail with the error of a step."""
    await look_up(key)


@workflow
async def napping(seconds: float) -> str:
    """Sleep."""
    await sleep(seconds)
    return "slept"


@dataclass
class Answer:
    """What `listening` waits for."""

    number: int
    who: str = "somebody"


@workflow
async def listening(token: str, count: int) -> list[Answer]:
    """Take so many answers of one hook, then one letter."""
    async with create_hook(Answer, token=token, metadata={"count": count}) as hook:
        found = [await hook for _ in range(count)]
    return [*found, await receive("last", Answer)]


@workflow
async def held(tag: str, before: int = 0) -> int:
    """Some steps that end at once, then one that is held; return who ran it."""
    for number in range(before):
        await mark(tag, number)
    return await hold(tag)


@workflow
async def chain(tag: str, length: int) -> str:
    """Steps one after the other."""
    for number in range(length):
        await toil(tag, number)
    return tag


@workflow
async def relay(legs: int) -> list[int]:
    """Held steps one after the other; return who ran them."""
    return [await hold(f"leg {leg}") for leg in range(legs)]


@workflow
async def fickle(tag: str) -> str:
    """Call what the recipe of this process says: code that differs between releases."""
    for name in here.recipe:
        await STEPS[name](tag)
    return "-".join(here.recipe)


@step
async def one(tag: str) -> None:
    """End at once."""


@step
async def two(tag: str) -> None:
    """Be held in the process that begins it."""
    await hold.fn(tag)


@step
async def other(tag: str) -> None:
    """What an unfortunate release calls first."""


STEPS = {"one": one, "two": two, "other": other}
