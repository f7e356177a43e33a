"""Programs whose runs are tried again, are paused, continue as new ones, or have children.

What they are played by is in `scenarios`. Each looks at what the journal says before it
asks for something, as a program does that may have died in between.
"""

from __future__ import annotations

import asyncio
from typing import Any

from durable import Run, continue_as_new, sleep, start, workflow
from durable.errors import WorkflowRunFailedError
from tests.crash.program import Program, insist, make, note

FIRST, FRAGILE, BESIDE, LAST = (
    make("kept"), make("fragile", fails=1, max_retries=0), make("beside"), make("end"),
)  # fmt: skip


@workflow(name="crash.tried")
async def tried(value: int) -> int:
    """A step, one that fails for good beside one that does not, and a last one."""
    value = await FIRST(value)
    one, other = await asyncio.gather(FRAGILE(value), BESIDE(value))
    return await LAST(one + other)


async def main_retry(program: Program) -> None:
    """Try the run again for as long as it fails."""
    run = await program.start(tried.options(run_id="retry-1", timeout=3600), 1)
    while await _failed(run):
        await insist(run.retry)
        note("retried", run.run_id)
    await program.finish(run)


async def _failed(run: Run[Any]) -> bool:
    try:
        await insist(run.result)
    except WorkflowRunFailedError:
        return True
    return False


EARLY, MIDDLE, LATE = make("early"), make("middle"), make("latest", fails=1)


@workflow(name="crash.paused")
async def paused(value: int) -> int:
    """Three steps, with short waits in between."""
    value = await EARLY(value)
    await sleep(0.002)
    value = await MIDDLE(value)
    await asyncio.sleep(0.001)
    return await LATE(value)


async def main_pause(program: Program) -> None:
    """Pause and resume the run a few times while it goes on."""
    run = await program.start(paused.options(run_id="pause-1"), 1)
    await insist(run.resume)
    for _ in range(3):
        if await insist(run.status) == "completed":
            break
        try:
            await insist(run.pause)
        except Exception as error:  # it has just ended
            note("ended", type(error).__name__)
        await asyncio.sleep(0.001)  # sleeps: an application that does something else meanwhile
        await insist(run.resume)
    await program.finish(run)


COUNT = [make(f"count{n}") for n in range(4)]


@workflow(name="crash.counting")
async def counting(number: int, total: int) -> int:
    """A step in each run of the chain, and a bound child in the first."""
    if number == 0:
        await start(bound.options(run_id="bound-1", on_parent_close="cancel"), 1)
    total = await COUNT[number](total)
    if number + 1 < len(COUNT):
        continue_as_new(number + 1, total)
    return total


RENT, RETURN = make("rent"), make("return")


@workflow(name="crash.bound")
async def bound(value: int) -> int:
    """Rent something, and keep it until the parent is gone."""
    value = await RENT(value)
    try:
        await sleep(3600)
    finally:
        await RETURN(value)
    return value


async def main_chain(program: Program) -> None:
    """A chain of four runs; its end is the end of the child of the first."""
    run = await program.start(counting.options(run_id="chain-1"), 0, 0)
    value = await insist(run.result)
    note("counted", value)
    assert value == len(COUNT), f"counted to {value}"
    await program.finish(program.runtime.get_run("bound-1"))


GATHERED = [make(f"part{n}") for n in range(3)]


@workflow(name="crash.part")
async def part(number: int) -> int:
    """One step."""
    return await GATHERED[number](number)


@workflow(name="crash.gatherer")
async def gatherer() -> int:
    """Wait for three children at once."""
    runs = [await start(part.options(run_id=f"part-{n}"), n) for n in range(3)]
    return sum(await asyncio.gather(*(run.result() for run in runs)))


async def main_gatherer(program: Program) -> None:
    """A parent and its children."""
    await program.finish(await program.start(gatherer.options(run_id="gather-1")))


DRAFT, REVIEW, PRINT = make("draft"), make("review"), make("print")


@workflow(name="crash.edited")
async def edited(value: int) -> int:
    """Three steps."""
    return await PRINT(await REVIEW(await DRAFT(value)))


async def main_fork(program: Program) -> None:
    """A run, one that shares its first step and has its second one edited, and a rerun."""
    run = await program.start(edited.options(run_id="edit-1"), 0)
    await program.finish(run)
    forked = await insist(lambda: run.fork(results={"review": 100}, run_id="edit-2"))
    note("acked", forked.run_id)
    again = await insist(lambda: run.rerun(run_id="edit-3"))
    note("acked", again.run_id)
    await asyncio.gather(program.finish(forked), program.finish(again))
