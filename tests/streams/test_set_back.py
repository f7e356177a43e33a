"""Streams of runs that failed and were retried in place: nothing on record is there twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable import Backoff, get_writable, step, workflow
from durable.errors import WorkflowRunFailedError
from tests.engine.rig import opened

# What makes the runs of this module fail; mended before they are retried.
broken: list[str] = []


@pytest.fixture(autouse=True)
def nothing_broken() -> None:
    """Each test begins with nothing broken."""
    broken.clear()


@step(backoff=Backoff(initial=0))
async def numbers() -> AsyncIterator[int]:
    for number in range(20):
        yield number
        await asyncio.sleep(0)


@step(max_retries=0)
async def fragile() -> None:
    await get_writable("notes", on_retry="replace").write("tried")
    if "step" in broken:
        raise OSError


@workflow
async def adds_up() -> list[int]:
    found = []
    await get_writable("log").write("begin")
    async for number in numbers():
        found.append(number)
        if number == 7:
            await fragile()
            if "body" in broken:
                raise ValueError(number)
    return found


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


@pytest.mark.parametrize("what", ["body", "step"])
async def test_retried_run_goes_on_with_the_items_on_record(journal_path, what):
    """The body gets each item once, and so does the stream; the failed step's are replaced."""
    broken.append(what)
    async with opened(journal_path) as rt:
        run = await rt.start(adds_up)
        with pytest.raises(WorkflowRunFailedError):
            await run.result()
        before = await collect(run.stream())
        assert before == [*range(len(before))]
        broken.clear()
        await run.retry()
        assert await run.result() == [*range(20)]
        assert await collect(run.stream()) == [*range(20)]
        assert await collect(run.stream("log")) == ["begin"]
        assert await collect(run.stream("notes")) == ["tried"]
