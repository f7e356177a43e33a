"""What the scenario programs are made of: steps that keep the ledger, calls that insist.

A step made here notes each attempt in the ledger, and fails as often as it was told to.
A call that the journal refuses because of the disk is repeated, as an application would
do. The ledger is the process's: `use_ledger` sets it before anything runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from durable import Backoff, Run, Runtime, Step, get_step_metadata, step
from durable.errors import (
    HookNotFoundError,
    JournalError,
    WorkflowRunBlockedError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
)
from tests.crash.ledger import Ledger

T = TypeVar("T")
FAST = Backoff(initial=0.001, factor=1.0, max=0.001, jitter=0.0)

ledger = Ledger([])
parked_go_on = False


def use_ledger(chosen: Ledger, *, mend: bool = False) -> None:
    """Note all facts of this process in `chosen` from now on.

    Args:
        mend: somebody resumes what is parked; `insist` waits for that.
    """
    global ledger, parked_go_on
    ledger, parked_go_on = chosen, mend


def note(what: str, *values: object) -> None:
    """Write one fact to the ledger of this process."""
    ledger.note(what, *values)


class BrokenError(Exception):
    """What the steps of these programs fail with."""


# --- steps ----------------------------------------------------------------------------


def attempt(fails: int) -> Callable[[], None]:
    """Note that an attempt begins; return what notes its end, or fail as planned."""
    meta = get_step_metadata()
    facts = (meta.run_id, meta.name, meta.attempt, meta.idempotency_key)
    note("begin", *facts)
    if meta.attempt <= fails:
        note("fail", *facts)
        raise BrokenError(meta.name)
    return lambda: note("end", *facts)


def make(label: str, *, fails: int = 0, max_retries: int = 3) -> Step[[int], int]:
    """Return an async step called `label` that adds one; its first `fails` attempts fail."""

    async def body(value: int) -> int:
        finish = attempt(fails)
        await asyncio.sleep(0)
        finish()
        return value + 1

    return step(name=f"crash.{label}", backoff=FAST, max_retries=max_retries)(body)


def make_sync(label: str, *, fails: int = 0) -> Step[[int], int]:
    """Return the same as a plain function, for the thread pool."""

    def body(value: int) -> int:
        finish = attempt(fails)
        finish()
        return value + 1

    return step(name=f"crash.{label}", backoff=FAST)(body)


def make_bulky(label: str, size: int) -> Step[[int], str]:
    """Return an async step called `label` whose result has `size` characters."""

    async def body(value: int) -> str:
        finish = attempt(fails=0)
        finish()
        return str(value)[0] * size

    return step(name=f"crash.{label}", backoff=FAST)(body)


# --- what a program has at hand ---------------------------------------------------------


@dataclass
class Program:
    """One process at work on a journal."""

    runtime: Runtime
    known: list[str]  # run ids that the journal held before this process

    async def start(self, flow: Any, *args: Any) -> Run[Any]:
        """Start a run under its fixed id, and note that it was acknowledged."""
        run = await insist(lambda: self.runtime.start(flow, *args))
        note("acked", run.run_id)
        return run

    async def finish(self, run: Run[Any]) -> Any:
        """Wait for the end of a run, note it, and return its value."""
        status, value = "completed", None
        try:
            value = await insist(run.result)
        except WorkflowRunFailedError as error:
            status, value = "failed", type(error.__cause__).__name__
        except WorkflowRunCancelledError as error:
            status, value = "cancelled", error.reason
        note("result", run.run_id, status, value)
        return value

    async def post(
        self, run: Run[Any], what: object, send: Callable[[str], Awaitable[object]]
    ) -> None:
        """Send a payload under a key of its own, and note that it was acknowledged.

        One that was acknowledged to an earlier process is sent again: its run may have ended.
        """
        key = f"{run.run_id}-{what}"
        try:
            await insist(lambda: send(key))
        except HookNotFoundError:
            events = await insist(run.events)
            assert any(event.name.endswith(key) for event in events), f"{key} was refused"
        note("posted", run.run_id, key)

    async def until(self, run: Run[Any], label: str) -> None:
        """Wait until the history of `run` tells that the step `label` has completed."""
        while True:
            events = await insist(run.events)
            named = {
                e.seq for e in events if e.kind == "step_created" and e.name == f"crash.{label}"
            }
            if any(e.kind == "step_completed" and e.ref in named for e in events):
                return
            await asyncio.sleep(0.001)  # sleeps: an application that looks again


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat `call` for as long as the journal refuses it because of the disk."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return await call()
        except JournalError as error:
            note("refused", type(error).__name__, error)
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.002)  # sleeps: an application that tries again
        except WorkflowRunBlockedError:
            if not parked_go_on or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.005)  # sleeps: an application that tries again
