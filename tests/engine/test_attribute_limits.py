"""What attributes may be, and how many of them a run keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import set_attributes, step, workflow
from tests.engine.rig import opened, until

WAIT = 30.0


class Here:
    """What steps and tests of one test share."""

    seen: list[Any] = []  # noqa: RUF012 - emptied by a fixture
    event: asyncio.Event


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Here.seen = []
    Here.event = asyncio.Event()


@step
async def tell(**changes: str | None) -> None:
    await set_attributes(changes)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"n": 1}, TypeError, "value 1 of 'n' is not a text; write '1'"),
        ({1: "n"}, TypeError, "key 1 is not a text"),
        ({"": "v"}, ValueError, "key '' has 0 characters"),
        ({"empty": ""}, ValueError, "of 'empty' has 0 characters"),
        ({"k": "x" * 257}, ValueError, "of 'k' has 257 characters"),
        ({"k" * 257: "v"}, ValueError, "257 characters"),
        ({"$mine": "v"}, ValueError, "'\\$mine' begins with '\\$', which is reserved"),
        ({"nul": "a\0b"}, ValueError, "of 'nul' holds a NUL"),
        ({"half": "\ud83d"}, ValueError, "of 'half' holds a NUL or half"),
        ({str(n): "v" for n in range(65)}, ValueError, "65 are too many"),
        (["k"], TypeError, "must be a mapping"),
        ({"k": b"v"}, TypeError, "not a text"),
    ],
    ids=lambda value: str(value)[:16],
)
@pytest.mark.parametrize("where", ["body", "step"])
async def test_unusable_attributes_are_refused_before_anything_is_recorded(
    journal_path: Path, changes: Any, error: type[Exception], told: str, where: str
) -> None:
    """The message names the key; the body may catch it and go on."""

    @step
    async def within() -> None:
        with pytest.raises(error, match=told):
            await set_attributes(changes)

    @workflow(name="attr.unusable")
    async def unusable() -> None:
        if where == "step":
            await within()
            return
        with pytest.raises(error, match=told):
            set_attributes(changes)

    async with opened(journal_path) as rt:
        run = await rt.start(unusable)
        await run.result(WAIT)
        assert not [e for e in await run.events() if "attr" in e.kind]
        assert await run.attributes() == {}


async def test_run_keeps_64_attributes_and_not_one_more(journal_path: Path) -> None:
    """The limit is on what the run has afterwards: removing makes room, changing needs none."""

    @workflow(name="attr.limit")
    async def limited() -> list[str]:
        told = []
        await set_attributes({f"k{n}": "1" for n in range(63)})
        await tell(last="1")
        for changes in ({"one": "more"}, {"k0": "new", "x": "1", "y": "2"}):
            try:
                await set_attributes(changes)
            except ValueError as error:
                told.append(str(error))
        try:
            await refused()
        except ValueError as error:
            told.append(str(error))
        await set_attributes({"k0": None, "one": "more", "k1": "changed"})
        return told

    @step(max_retries=0)
    async def refused() -> None:
        await set_attributes({"step's": "one"})

    async with opened(journal_path) as rt:
        run = await rt.start(limited)
        told = await run.result(WAIT)
        assert ["'one'" in told[0], "'x', 'y'" in told[1], "step's" in told[2]] == [True] * 3
        assert "would have 65" in told[0]
        attributes = await run.attributes()
        assert len(attributes) == 64
        assert (attributes["k1"], attributes["one"]) == ("changed", "more")
        assert "k0" not in attributes


async def test_limit_counts_what_reached_the_run_just_before(journal_path: Path) -> None:
    """A step's result is on its way to a body that will set the 64th attribute."""

    @step
    async def first() -> None:
        await Here.event.wait()

    @step(max_retries=0)
    async def second() -> str:
        Here.seen.append("waiting")
        await Here.event.wait()
        try:
            await set_attributes({"second": "2"})
        except ValueError:
            return "refused"
        return "set"

    async def after_first() -> str:
        await first()
        try:
            await set_attributes({"first": "1"})
        except ValueError:
            return "refused"
        return "set"

    @workflow(name="attr.close")
    async def close_call() -> list[str]:
        await set_attributes({f"k{n}": "1" for n in range(63)})
        return await asyncio.gather(after_first(), second())

    async with opened(journal_path) as rt:
        run = await rt.start(close_call)
        await until(lambda: Here.seen)
        await quiet_but_for_attempts(rt)
        Here.event.set()
        assert sorted(await run.result(WAIT)) == ["refused", "set"]
        assert len(await run.attributes()) == 64


async def quiet_but_for_attempts(rt: Any) -> None:
    """Wait until all attempts are under way and nothing else is."""
    await until(lambda: all(len(run.attempts) == 2 for run in rt._engine.scheduler))
