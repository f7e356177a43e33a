"""Generators in threads whose run ends while they wait for its body to take something."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable import step, workflow
from durable._engine.generators import WAITING_ITEMS_MAX
from durable._journal.driver import ThreadDriver
from tests.engine.rig import WAIT, opened, until

closed = threading.Event()


@step(name="ends.endless")
def endless() -> Iterator[int]:
    """Yield numbers, and tell when nobody wants them any more."""
    try:
        number = 0
        while True:
            yield number
            number += 1
    finally:
        closed.set()


@workflow(name="ends.takes_little")
async def takes_little() -> None:
    """Take one item, then nothing."""
    async for _ in endless():
        await asyncio.sleep(100_000)


@pytest.mark.parametrize("how", ["cancel", "pause"])
async def test_thread_of_a_generator_that_waits_for_its_body_is_let_go_with_the_run(
    journal_path: Path, how: str
) -> None:
    """The generator is closed in its thread, and the thread is free again."""
    closed.clear()
    async with opened(journal_path, driver=ThreadDriver) as rt:
        run = await rt.start(takes_little)

        async def is_full_up() -> bool:
            return await run.tail_index() > WAITING_ITEMS_MAX

        await until(is_full_up)
        await (run.cancel() if how == "cancel" else run.pause())
        assert await asyncio.to_thread(closed.wait, WAIT), "its thread is stuck for ever"
