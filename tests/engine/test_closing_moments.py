"""A runtime that is closed while something is on its way to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from durable import Runtime, workflow
from durable.errors import RuntimeClosedError
from durable.testing import settle
from tests.engine.rig import WAIT, Disk, Request, make, opened


@workflow
async def same(value: int) -> int:
    """Nothing but the argument."""
    return value


STARTS: dict[str, Callable[[Runtime], Awaitable[object]]] = {
    "fresh id": lambda rt: rt.start(same, 7),
    "own id": lambda rt: rt.start(same.options(run_id="own"), 7),
    "delayed": lambda rt: rt.start(same.options(run_id="own", delay=60), 7),
    "batch": lambda rt: rt.start_many(same, [(7,), (8,)]),
}


@pytest.mark.parametrize("kind", STARTS)
async def test_start_is_answered_though_the_runtime_closes_before_its_write_is_durable(
    journal_path: Path, kind: str
) -> None:
    """Whoever waits for the write hears of it; the runs are those of the next opening."""
    disk, held = Disk(), list[Request]()
    rt = make(journal_path, driver=disk)
    await rt.open()
    await settle()
    disk.meddle = held.append
    starting = asyncio.ensure_future(STARTS[kind](rt))
    await settle()
    closing = asyncio.create_task(rt.close())
    await settle()
    assert held
    assert not starting.done()
    disk.let_go(held)
    await asyncio.wait_for(closing, WAIT)
    await settle()
    assert starting.done(), "the caller of start() waits for ever"
    with pytest.raises(RuntimeClosedError):
        await rt.start(same, 1)
    started = await starting
    run_ids = [run.run_id for run in (started if isinstance(started, list) else [started])]
    async with opened(journal_path) as again:
        for run_id in run_ids:
            assert await again.get_run(run_id).status() in {"pending", "running", "completed"}
