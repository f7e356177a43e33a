"""What is sent to a run reaches the run that goes on in its place."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from durable import (
    continue_as_new,
    create_hook,
    get_hook_by_token,
    receive,
    resume_hook,
    send,
    step,
    workflow,
)
from durable.errors import HookNotFoundError
from durable.testing import VirtualClock
from tests.engine.rig import WAIT, crash, make, opened, quiet, until

CALLS: Counter[str] = Counter()
GATES: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def _clean() -> None:
    CALLS.clear()
    GATES.clear()


@step(name="mail.act", max_retries=0)
async def act(name: str) -> None:
    """Wait for the gate if there is one."""
    CALLS[name] += 1
    if name in GATES:
        await GATES[name].wait()


@workflow(name="mail.counter")
async def counter(total: int, left: int, slow: bool = False) -> int:
    """Add one payload in each run of the chain."""
    async with create_hook(int, token="counter") as hook:
        try:
            total += await hook
            if left > 1:
                continue_as_new(total, left - 1, slow=slow, keep_hooks=[hook.token])
        finally:
            if slow:
                await act(f"tidy {left}")
    return total


async def test_kept_hook_takes_payloads_without_a_gap(journal_path: Path) -> None:
    """Each is counted once, whichever run of the chain is there when it comes."""
    async with opened(journal_path) as rt:
        run = await rt.start(counter, 0, 5)
        await quiet(rt)
        for number in range(5):
            await resume_hook("counter", 10**number)
        assert await run.result(WAIT) == 11111
        with pytest.raises(HookNotFoundError):
            await resume_hook("counter", 1)


async def test_payloads_that_nobody_has_taken_go_along(journal_path: Path) -> None:
    """They came while the run was still cleaning up, or all at once."""
    GATES["tidy 3"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(counter, 0, 3, slow=True)
        await quiet(rt)
        for number in range(3):
            await resume_hook("counter", 10**number)
        await until(lambda: CALLS["tidy 3"])
        GATES["tidy 3"].set()
        assert await run.result(WAIT) == 111


async def test_kept_token_is_nobody_elses_in_between(journal_path: Path) -> None:
    """The successor has not created its hook yet, and still a payload is kept for it."""

    @workflow(name="mail.late")
    async def late(number: int) -> Any:
        if number == 1:
            create_hook(token="late")
            await act("first")
            continue_as_new(2, keep_hooks=["late"])
        await act("second")
        async with create_hook(token="late") as hook:
            return await hook.get_conflict(), await hook, await hook

    @workflow(name="mail.thief")
    async def thief() -> Any:
        async with create_hook(token="late") as hook:
            holder = await hook.get_conflict()
            return None if holder is None else holder.run_id

    GATES["second"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(late, 1)
        await until(lambda: CALLS["second"])
        successor = await run.continued_as()
        assert successor is not None
        assert await (await rt.start(thief)).result(WAIT) == successor.run_id
        with pytest.raises(HookNotFoundError):
            await get_hook_by_token("late")
        assert await successor.hooks() == []
        await resume_hook("late", "one")
        GATES["second"].set()
        await until(lambda: _has_hook(successor))
        await resume_hook("late", "two")
        assert await run.result(WAIT) == (None, "one", "two")


async def _has_hook(run: Any) -> bool:
    return bool(await run.hooks())


async def test_kept_token_that_is_not_used_is_freed_at_the_end(journal_path: Path) -> None:
    """The successor ends without having created a hook."""

    @workflow(name="mail.unused")
    async def unused(number: int) -> str:
        if number == 1:
            create_hook(token="unused")
            continue_as_new(2, keep_hooks=["unused"])
        return "done"

    async with opened(journal_path) as rt:
        run = await rt.start(unused, 1)
        assert await run.result(WAIT) == "done"
        with pytest.raises(HookNotFoundError):
            await resume_hook("unused", 1)
        assert await (await rt.start(counter, 0, 1)).status() == "running"
        again = await rt.start(unused, 1)
        assert await again.result(WAIT) == "done"


async def test_hook_that_is_not_kept_is_freed(journal_path: Path) -> None:
    """As at any end; the successor may create it anew."""

    @workflow(name="mail.free")
    async def free(number: int) -> Any:
        async with create_hook(token="free") as hook:
            if number == 1:
                continue_as_new(2)
            return await hook

    async with opened(journal_path) as rt:
        run = await rt.start(free, 1)
        await until(lambda: _continued(run))
        await quiet(rt)
        await resume_hook("free", "new")
        assert await run.result(WAIT) == "new"


async def _continued(run: Any) -> bool:
    return await run.continued_as() is not None


@workflow(name="mail.box")
async def box(left: int, found: list[Any]) -> list[Any]:
    """Receive one piece of mail in each run of the chain."""
    found = [*found, await receive("in")]
    if left > 1:
        continue_as_new(left - 1, found)
    return found


async def test_mail_follows_the_chain(journal_path: Path) -> None:
    """What was sent before and not received, and what is sent to any run of the chain."""
    async with opened(journal_path) as rt:
        run = await rt.start(box, 4, [])
        await asyncio.gather(*(send(run.run_id, "in", number) for number in range(3)))
        await quiet(rt)
        await send(run.run_id, "in", 3)
        assert await run.result(WAIT) == [0, 1, 2, 3]
        with pytest.raises(HookNotFoundError):
            await send(run.run_id, "in", 4)


async def test_what_goes_along_survives_a_crash(journal_path: Path) -> None:
    """The successor finds it in its history."""
    clock = VirtualClock()
    GATES["tidy 2"] = asyncio.Event()
    rt = make(journal_path, clock)
    await rt.open()
    await rt.start(counter.options(run_id="c"), 0, 3, slow=True)
    await quiet(rt)
    for number in range(3):
        await resume_hook("counter", 10**number)
    await until(lambda: CALLS["tidy 2"])
    await crash(rt)
    GATES["tidy 2"].set()
    async with opened(journal_path, clock) as rt:
        assert await rt.get_run("c").result(WAIT) == 111


@workflow(name="mail.wrong")
async def wrong(tokens: Any) -> str:
    """Keep what is not there."""
    async with create_hook(token="mine"):
        try:
            continue_as_new(tokens, keep_hooks=tokens)
        except (TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (
            ["other"],
            "ValueError: keep_hooks: 'other' is no open hook of this run; it has: 'mine'",
        ),
        ("mine", r"TypeError: keep_hooks='mine' must be a list of tokens: write [hook.token]"),
    ],
)
async def test_only_open_hooks_can_be_kept(journal_path: Path, tokens: Any, told: str) -> None:
    """The body is told at the call, and goes on."""
    async with opened(journal_path) as rt:
        assert await (await rt.start(wrong, tokens)).result(WAIT) == told
