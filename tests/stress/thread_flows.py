"""The workflows of the thread stress, and a ledger in memory of what their steps did.

A run does what its plan says, a list of words drawn by the test; `expected` says what it
returns. Steps that block run in threads, beside those on the loop, and all of them note each
attempt, so that the journal can be held against what really happened.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from durable import (
    RetryableError,
    get_step_metadata,
    get_sync_writable,
    receive,
    set_attributes,
    sleep,
    step,
    workflow,
)

WORDS = ("add", "block", "flaky", "several", "nap", "emit", "tag", "letter", "block", "add")
BUSY_TURNS = 200  # of a loop that does nothing but give other threads a chance


class Ledger:
    """Counts what steps did, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.begun: Counter[tuple[str, str, int]] = Counter()  # run, key, attempt
        self.ended: Counter[tuple[str, str]] = Counter()
        self.threads: set[int] = set()

    def begin(self) -> tuple[str, str]:
        """Note the begin of an attempt, in the step itself."""
        about = get_step_metadata()
        key = about.idempotency_key
        with self._lock:
            self.begun[about.run_id, key, about.attempt] += 1
            self.threads.add(threading.get_ident())
        return about.run_id, key

    def end(self, run_and_key: tuple[str, str]) -> None:
        """Note that it returns."""
        with self._lock:
            self.ended[run_and_key] += 1


ledger = Ledger()


@step(name="stress.add")
async def add(a: int, b: int) -> int:
    noted = ledger.begin()
    await asyncio.sleep(0)
    ledger.end(noted)
    return a + b


@step(name="stress.block")
def block(a: int, b: int) -> int:
    noted = ledger.begin()
    total = a
    for turn in range(BUSY_TURNS):
        total += turn
    time.sleep(0)
    ledger.end(noted)
    return a + b


@step(name="stress.flaky", max_retries=3)
def flaky(a: int) -> int:
    noted = ledger.begin()
    if get_step_metadata().attempt < 2:
        raise RetryableError("not yet", retry_after=0)
    ledger.end(noted)
    return a + 1


@step(name="stress.emit")
def emit(count: int) -> None:
    noted = ledger.begin()
    stream = get_sync_writable()
    for number in range(count):
        stream.write(number)
    ledger.end(noted)


@step(name="stress.tag")
async def tag(number: int) -> None:
    noted = ledger.begin()
    await set_attributes({"tag": str(number)})
    ledger.end(noted)


@workflow(name="stress.plan")
async def follow(plan: Sequence[str]) -> list[Any]:
    """Do what the words of the plan say, one after the other."""
    found: list[Any] = []
    for number, word in enumerate(plan):
        match word:
            case "add":
                found.append(await add(number, 1))
            case "block":
                found.append(await block(number, 1))
            case "flaky":
                found.append(await flaky(number))
            case "several":
                found.append(await asyncio.gather(*(block(number, n) for n in range(3)), add(0, 1)))
            case "nap":
                await sleep("1ms")
            case "emit":
                await emit(3)
            case "tag":
                await tag(number)
            case "letter":
                found.append(await receive("box"))
    return found


def expected(run_id: str, plan: Sequence[str]) -> list[Any]:
    """What `follow` returns."""
    letters = iter(letters_to(run_id, plan))
    found: list[Any] = []
    for number, word in enumerate(plan):
        if word in {"add", "block", "flaky"}:
            found.append(number + 1)
        elif word == "several":
            found.append([number, number + 1, number + 2, 1])
        elif word == "letter":
            found.append(next(letters))
    return found


def letters_to(run_id: str, plan: Sequence[str]) -> list[str]:
    """The payloads that a run is sent, in their order."""
    return [f"{run_id} letter {n}" for n in range(list(plan).count("letter"))]


def draw_plan(draw: random.Random) -> list[str]:
    """Return a plan."""
    return [draw.choice(WORDS) for _ in range(draw.randint(1, 6))]
