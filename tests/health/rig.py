"""What the tests of a journal's health share: a journal with one of everything, and damage."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from durable import (
    Run,
    Runtime,
    create_hook,
    get_step_metadata,
    get_writable,
    receive,
    set_attributes,
    sleep,
    start,
    step,
    workflow,
)
from durable.testing import VirtualClock
from tests.engine.rig import make, quiet

SECRET = "SENTINEL-7f3a"
executed: list[str] = []  # each execution of a step: what, and of which run


def _executed(name: str, value: object) -> None:
    executed.append(f"{get_step_metadata().run_id}: {name}({value!r})")


@step
async def double(value: int) -> int:
    _executed("double", value)
    return 2 * value


@step
async def note(text: str) -> str:
    _executed("note", text)
    await get_writable("log").write(f"{text} is noted")
    return text


@step
async def break_down(text: str) -> None:
    _executed("break_down", text)
    raise ValueError(text)


@workflow(name="health.sum")
async def adding(count: int) -> int:
    total = 0
    for number in range(count):
        total += await double(number)
    return total


@workflow(name="health.talk")
async def talking(text: str) -> str:
    await set_attributes({"said": text})
    await note(text)
    return await note(f"again {text}")


@workflow(name="health.fail")
async def failing(text: str) -> None:
    await break_down(text)


@workflow(name="health.nap")
async def napping(text: str) -> str:
    await note(text)
    await sleep("1 day")
    return text


@workflow(name="health.wait")
async def waiting(token: str) -> str:
    hook = create_hook(str, token=token)
    answer: str = await hook
    return answer + str(await receive("more"))


@step
async def keep(data: bytes) -> int:
    return len(data)


@workflow(name="health.bulk")
async def bulk(data: bytes) -> int:
    return await keep(data)


@workflow(name="health.family")
async def family() -> int:
    child = await start(adding, 2)
    return await child.result()


@workflow(name="health.gone")
async def unknown() -> None:
    """Take the place of code that is not there any more."""


async def fill(path: Path, clock: VirtualClock | None = None) -> None:
    """Make a journal with one of everything, whose runs are at rest."""
    async with make(path, clock) as rt:
        await fill_open(rt)


async def fill_open(rt: Runtime) -> list[Run[object]]:
    """Start one of everything and let it come to rest."""
    attributes = {"customer": SECRET}
    begun: list[Run[object]] = [
        await rt.start(adding.options(run_id="sum", attributes=attributes), 5),
        await rt.start(talking.options(run_id="talk"), SECRET),
        await rt.start(failing.options(run_id="fail"), SECRET),
        await rt.start(napping.options(run_id="nap", timeout="2 days"), SECRET),
        await rt.start(waiting.options(run_id="wait"), f"token-{SECRET}"),
        await rt.start(family.options(run_id="family")),
        await rt.start(adding.options(run_id="later", delay="1 hour"), 3),
    ]
    await quiet(rt)
    return begun


def change(path: Path, *statements: str) -> None:
    """Change rows behind the library's back."""
    with closing(sqlite3.connect(path)) as conn:
        for statement in statements:
            assert conn.execute(statement).rowcount != 0, statement
        conn.commit()
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def make_journal(path: Path) -> None:
    """`fill`, for tests that are no coroutines."""
    asyncio.run(fill(path))
