"""Opens a golden journal, and brings all its runs to their ends.

`check_kept` holds what is seen against what was seen when the journal was left; `finish`
does what the runs wait for, in an order that does not matter, asking only for what has not
been done; `check_ends` looks at the ends. In between the process may die.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from durable import Run
from durable.errors import (
    DurableError,
    HookNotFoundError,
    WorkflowRunBlockedError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
)
from durable.testing import VirtualClock, VirtualRuntime
from tests.campaign.programme import FoundError
from tests.golden.flows import LONG, OUTSIDE, Receipt
from tests.golden.writing import CLOUDPICKLE, PYTHON

FINISHED = {"completed", "failed", "cancelled", "continued"}
_PLAIN = {
    "receipt": Receipt("A-17", 4200, ("one", "two")),
    "told": "told",
    "failed": "plain",
    "odd": (b"\0\xff", {3, 1}, "\u00e9"),
}


def _receipt(order: str, cents: int) -> Receipt:
    return Receipt(order, cents, ("one", "two"))


# What each run comes to; an exception by its type and its reason or message.
ENDS: dict[str, object] = {
    "plain": _PLAIN,
    "again": _PLAIN,
    "forked": _PLAIN,
    "failed": f"{_receipt('failed', 1)}: failed is mended",
    "retried": f"{_receipt('retried', 1)}: retried is mended",
    "cancelled": (WorkflowRunCancelledError, "a change of mind"),
    "doomed": (WorkflowRunCancelledError, None),
    "racing": ["late", "woken"],
    "sleeping": _receipt("S", 7),
    "delayed": _receipt("later", 7),
    "paused": _receipt("P", 7),
    "ruled": 42,
    "asking": [{"first": 1}, {"second": 2}, "a note"],
    "mailed": [{"third": 3}, {"fourth": 4}, "while it was paused"],
    "second": "taken by asking",
    "stepping": "attempt 2",
    "listening": ["to", "be", "or not"],
    "kept-child": _receipt("child", 7),
    "parent": [_receipt("child", 7), _receipt("parent", 9)],
    "bound-child": (WorkflowRunCancelledError, "its parent run has ended"),
    "chain": ["a", "b", "c"],
}
LATE = "its deadline came"


def runtime_of(place: Path, clock: VirtualClock) -> VirtualRuntime:
    """Return a runtime of a golden journal, not open yet; nobody has mended anything."""
    OUTSIDE.clear()
    return VirtualRuntime(place / "app.db", clock=clock, durability="full", patience=0.02)


async def check_kept(runtime: VirtualRuntime, facts: dict[str, Any]) -> None:
    """All that was seen when the journal was left is still there.

    Raises:
        FoundError: something is lost, or another thing than it was.
    """
    for run_id, was in facts["runs"].items():
        run = runtime.get_run(run_id)
        events = await run.events()
        history = [[e.seq, e.kind, e.name, e.ref, e.at.isoformat()] for e in events]
        if history[: len(was["history"])] != was["history"]:
            raise FoundError("lost", f"{run_id}: was {was['history']}, is {history}")
        for name, chunks in was["streams"].items():
            found = [repr(chunk) async for chunk in run.stream(name, follow=False)]
            if found[: len(chunks)] != chunks:
                raise FoundError("lost", f"{run_id}: stream {name!r} was {chunks}, is {found}")
        if await run.parent_id() != was["parent"]:
            raise FoundError("corrupt", f"{run_id} has another parent")
        if was["status"] in FINISHED and was["status"] != "failed":
            assert await run.status() == was["status"], run_id
            assert await run.attributes() == was["attributes"], run_id


async def finish(runtime: VirtualRuntime) -> None:
    """Do what the runs wait for, as far as it has not been done yet."""
    OUTSIDE.update({"gate", "failed", "retried"})
    await runtime.settled()
    if await runtime.get_run("failed").status() == "failed":
        await runtime.get_run("failed").retry()
    for run_id in ("paused", "mailed"):
        await runtime.get_run(run_id).resume()
    await _answer(runtime, "golden:1", {"second": 2})
    await _answer(runtime, "golden:2", {"third": 3})
    await _answer(runtime, "golden:2", {"fourth": 4})
    try:
        await runtime.send("chain", "letters", "c", dedupe_key="c")
    except HookNotFoundError:
        pass  # it has got it, and has ended
    for _ in range(30):
        await runtime.advance(LONG / 10)


async def _answer(runtime: VirtualRuntime, token: str, payload: dict[str, int]) -> None:
    try:
        await runtime.resume_hook(token, payload, dedupe_key=repr(payload))
    except HookNotFoundError:
        pass  # the hook has got all it wanted


async def check_ends(runtime: VirtualRuntime, facts: dict[str, Any]) -> None:
    """All runs have come to the ends that they ought to come to."""
    expected = dict(ENDS)
    if facts["end"] == "clean":  # its cancellation was asked for while nobody executed it
        expected["sleeping"] = (WorkflowRunCancelledError, "from outside")
    if (facts["python"], facts["cloudpickle"]) != (PYTHON, CLOUDPICKLE):
        # Code of another Python is not loaded: that would kill this one.
        expected["ruled"] = (WorkflowRunBlockedError, "payload")
    for run_id, end in expected.items():
        found = await _end_of(runtime.get_run(run_id))
        assert found == end, f"{run_id}: {found!r}, expected {end!r}"
    failed = await _end_of(runtime.get_run("late"))
    assert failed[0] is WorkflowRunFailedError
    assert LATE in failed[1]
    others = set(facts["runs"]) - set(expected) - {"late"}
    assert {str(await runtime.get_run(run_id).status()) for run_id in others} <= FINISHED


async def _end_of(run: Run[Any]) -> Any:
    try:
        return await run.result(5)
    except WorkflowRunBlockedError as error:
        return type(error), error.kind
    except WorkflowRunCancelledError as error:
        return type(error), error.reason
    except WorkflowRunFailedError as error:
        return type(error), error.error_message
    except DurableError as error:
        return type(error), str(error)
