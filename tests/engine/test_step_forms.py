"""Functions, methods, closures and copies of them: all can be steps and workflows."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from durable import FatalError, get_workflow_metadata, step, workflow
from durable.testing import VirtualClock
from tests.engine.rig import AT_ONCE, crashing, kinds, opened, result_of


@step
async def echo(value: Any) -> Any:
    """Return what came."""
    return value


async def test_step_called_by_a_step_runs_as_written(journal_path: Path) -> None:
    """It leaves no events of its own, and its errors and values are plain ones."""
    ran_in = []

    @step
    def inner(value: list[int]) -> list[int]:
        ran_in.append(threading.current_thread())
        return value

    @step
    async def outer() -> bool:
        given = [1]
        return inner(given) is given

    @workflow
    async def caller() -> bool:
        return await outer()

    async with opened(journal_path) as rt:
        run = await rt.start(caller)
        assert await run.result() is True
        assert (await kinds(run)).count("step_created") == 1
    assert ran_in == [threading.current_thread()]


class Shop:
    """Steps and a workflow as methods; the instance is recorded as an argument."""

    def __init__(self, city: str) -> None:
        self.city = city

    @step
    async def price(self, item: str) -> str:
        """Async method."""
        return f"{item} in {self.city}"

    @step
    def stock(self, item: str) -> str:
        """Sync method."""
        return f"{self.city} has {item}"

    @staticmethod
    @step
    async def currency() -> str:
        """Static method."""
        return "EUR"

    @workflow
    async def visit(self, item: str) -> list[str]:
        """Workflow method."""
        return [await self.price(item), await self.stock(item), await Shop.currency()]


async def test_methods_can_be_steps_and_workflows(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Bound to their instance, which survives a restart with the run."""
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(Shop("Rome").visit.options(delay=10), "figs")
    async with opened(journal_path, virtual_clock) as rt:
        await virtual_clock.advance(11)
        expected = ["figs in Rome", "Rome has figs", "EUR"]
        assert await rt.get_run(run.run_id).result() == expected


async def test_closures_can_be_steps_and_workflows(journal_path: Path) -> None:
    """A run uses the very functions it was started with."""

    def make_pair(base: int) -> Any:
        @step
        async def add(value: int) -> int:
            return base + value

        @workflow
        async def adder(value: int) -> int:
            return await add(value)

        return adder

    async with opened(journal_path) as rt:
        runs = [await rt.start(make_pair(base), 1) for base in (10, 20)]
        assert [await run.result() for run in runs] == [11, 21]


async def test_workflow_called_in_a_body_is_inlined(journal_path: Path) -> None:
    """Its steps are recorded in the caller's run, its exceptions are plain ones."""

    @workflow
    async def inner(value: int) -> int:
        if value < 0:
            raise FatalError("negative")
        return await echo(value) + get_workflow_metadata().workflow_name.count("outer")

    @workflow
    async def outer() -> tuple[int, str]:
        try:
            await inner(-1)
        except FatalError as error:
            return await inner(1), str(error)
        return 0, ""

    async with opened(journal_path) as rt:
        run = await rt.start(outer)
        value, text = await run.result()
        assert text == "negative"
        assert value == 1 + outer.name.count("outer")
        assert await kinds(run) == [
            "run_created", "run_started", "step_created", "step_completed", "run_completed",
        ]  # fmt: skip


async def test_options_returns_a_copy_and_leaves_the_original_alone(journal_path: Path) -> None:
    """For steps and for workflows."""
    ran = []

    @step(backoff=AT_ONCE, max_retries=1)
    async def failing(name: str) -> None:
        ran.append(name)
        raise ValueError

    patient = failing.options(max_retries=4)

    @workflow
    async def caller() -> None:
        await asyncio.gather(failing("a"), patient("b"), return_exceptions=True)

    later = caller.options(delay=60)
    assert (failing.settings.max_retries, patient.settings.max_retries) == (1, 4)
    assert (caller.settings.delay_us, later.settings.delay_us) == (None, 60_000_000)
    await result_of(journal_path, caller)
    assert (ran.count("a"), ran.count("b")) == (2, 5)
