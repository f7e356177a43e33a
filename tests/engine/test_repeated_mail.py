"""Payloads that are sent again, because nobody heard that they were recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from durable import continue_as_new, create_hook, resume_hook, workflow
from durable.testing import VirtualClock
from tests.engine.rig import WAIT, Disk, Request, crash, make, opened, quiet


@workflow(name="repeated.counter")
async def counter(total: int, left: int) -> int:
    """Add one payload in each run of the chain."""
    async with create_hook(int, token="counter") as hook:
        total += await hook
        if left > 1:
            continue_as_new(total, left - 1, keep_hooks=[hook.token])
    return total


@workflow(name="repeated.sender")
async def sender(payload: int) -> str:
    """Send one payload from a body."""
    return (await resume_hook("counter", payload)).run_id


def hold_from(writes: int, held: list[Request]) -> Any:
    """Perform so many writes and keep back the others."""
    done = 0

    def meddle(request: Request) -> None:
        nonlocal done
        done += not request.reads
        if request.reads or done <= writes:
            request.perform()
        else:
            held.append(request)

    return meddle


@pytest.mark.parametrize("left", [1, 2, 3])
async def test_payload_sent_from_a_body_is_recorded_once_though_a_crash_repeats_the_step(
    journal_path: Path, left: int
) -> None:
    """Also when its hook is gone by then, or is another run's that goes on in the place."""
    clock, disk, held = VirtualClock(), Disk(), list[Request]()
    rt = make(journal_path, clock, driver=disk)
    await rt.open()
    first = await rt.start(counter.options(run_id="c"), 0, left)
    await quiet(rt)
    disk.meddle = hold_from(2, held)  # the sender's step, and the payload; not the step's outcome
    sent = await rt.start(sender.options(run_id="s", delay=1), 1)
    disk.meddle = hold_from(2, held)
    await clock.advance(2)
    assert held
    assert "hook_received" in [event.kind for event in await first.events()]
    assert "step_completed" not in [event.kind for event in await sent.events()]
    await crash(rt)
    async with opened(journal_path, clock) as rt:
        assert await rt.get_run("s").result(WAIT) == "c"
        for number in range(1, left):
            await resume_hook("counter", 10**number)
        assert await rt.get_run("c").result(WAIT) == int("1" * left)


@pytest.mark.parametrize("left", [1, 2, 3])
async def test_call_of_a_client_that_is_repeated_records_nothing_twice(
    journal_path: Path, left: int
) -> None:
    """It names the run that had the hook when it was made first."""
    async with opened(journal_path) as rt:
        run = await rt.start(counter.options(run_id="c"), 0, left)
        await quiet(rt)
        engine = await rt.engine()
        call: dict[str, Any] = {"token": "counter", "key": "k", "run_id": "c"}
        call["payload"] = rt.payloads.encode(1, "payload")
        for _ in range(3):
            assert await engine.ask("resume_hook", **call) == "c"
            await quiet(rt)
        for number in range(1, left):
            await resume_hook("counter", 10**number)
            assert await engine.ask("resume_hook", **call) == "c"
        assert await run.result(WAIT) == int("1" * left)
