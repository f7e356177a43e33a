"""Functions, methods, closures and copies of them: all can be steps and workflows."""

from __future__ import annotations

import asyncio
import functools
import threading
from pathlib import Path
from typing import Any

import pytest

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


async def test_parameters_may_have_any_name(journal_path: Path) -> None:
    """Names that our own code uses are the user's all the same."""

    @step
    async def told(self: str, *, step: str, fn: str, args: int) -> list[Any]:
        return [self, step, fn, args]

    @step
    def told_in_thread(self: str, *, args: tuple[int, ...], kwargs: int) -> list[Any]:
        return [self, args, kwargs]

    @workflow
    async def inner(self: str, workflow: str) -> str:
        return self + workflow

    @workflow
    async def outer(self: str, *, workflow: str, args: int) -> list[Any]:
        first = await told(self=self, step="s", fn="f", args=args)
        second = await told_in_thread(self=self, args=(1,), kwargs=2)
        return [first, second, await inner(self=self, workflow=workflow)]

    async with opened(journal_path) as rt:
        run = await rt.start(outer, self="me", workflow="w", args=7)
        assert await run.result() == [["me", "s", "f", 7], ["me", (1,), 2], "mew"]
    assert await told(self="me", step="s", fn="f", args=0) == ["me", "s", "f", 0]


# --- what cannot be one ---------------------------------------------------------------


@workflow
async def sample() -> None:
    """A workflow, for decorating it again."""


@pytest.mark.parametrize("decorate", [step, workflow], ids=["step", "workflow"])
@pytest.mark.parametrize("given", [Shop, echo, echo.options(timeout=1), sample], ids=repr)
def test_only_functions_are_decorated(decorate: Any, given: Any) -> None:
    """A class, a step and a workflow are refused with what to do instead."""
    with pytest.raises(TypeError, match=r"the class .*Shop: put|decorated already: keep one"):
        decorate(given)


@pytest.mark.parametrize("decorate", [step, workflow], ids=["step", "workflow"])
@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "\ud800", 5, b"x"])
def test_unusable_name_is_refused(decorate: Any, name: Any) -> None:
    """Before anything is recorded under it."""
    with pytest.raises((TypeError, ValueError), match="name="):
        decorate(name=name)


@pytest.mark.parametrize("option", ["retry_on", "no_retry_on"])
@pytest.mark.parametrize("test", ["OSError", (OSError, "x"), int, [OSError], OSError(), 5])
def test_unusable_error_test_is_refused(option: str, test: Any) -> None:
    """By the decorator and by `options`, and not at the first failure."""
    for given in (step, echo.options):
        with pytest.raises(TypeError, match=f"^{option}="):
            given(**{option: test})


def test_async_step_is_refused_for_processes() -> None:
    """By the decorator and by `options` alike."""
    with pytest.raises(ValueError, match="needs a plain"):
        step(executor="process")(sample.fn)
    with pytest.raises(ValueError, match="needs a plain"):
        echo.options(executor="process")


@pytest.mark.parametrize("decorate", [step, workflow])
def test_partial_needs_a_name_and_does_not_replace_another_ones(decorate: Any) -> None:
    """All partials would have the same name; those of one function are that function's."""

    async def first(value: int) -> int:
        return value

    async def second(value: int) -> int:
        return -value

    with pytest.raises(ValueError, match=r"partial.* has no name of its own"):
        decorate(functools.partial(first, 1))
    named = decorate(name="forms.partial")
    named(functools.partial(first, 1))
    named(functools.partial(first, 2))
    with pytest.raises(ValueError, match=r"'forms.partial' is taken by a partial of .*first"):
        named(functools.partial(second, 1))


async def test_object_with_an_async_call_can_be_a_step(journal_path: Path) -> None:
    """It runs like an ``async def``."""

    class Doubler:
        async def __call__(self, value: int) -> int:
            return value * 2

    double: Any = step(name="forms.doubler")(Doubler())

    @workflow
    async def doubled() -> int:
        result: int = await double(4)
        return result

    assert await result_of(journal_path, doubled) == 8
