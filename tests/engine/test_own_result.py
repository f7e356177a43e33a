"""A run that asks for its own result is told so, instead of waiting for itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable import Run, get_run, get_step_metadata, get_workflow_metadata, start, step, workflow
from durable.errors import WrongContextError
from tests.engine.rig import kinds, opened


def by_handle() -> Run[Any]:
    """Return the handle of the run that asks."""
    try:
        return get_run(get_workflow_metadata().run_id)
    except WrongContextError:
        return get_run(get_step_metadata().run_id)


@step(max_retries=0)
async def asking_step(timeout: float | None) -> Any:
    """Wait for the run that this step belongs to."""
    return await by_handle().result(timeout)


@step(max_retries=0)
async def awaiting_step(_: object) -> Any:
    """The same, in short."""
    return await by_handle()


@workflow(name="own.by_step")
async def by_step(how: str, timeout: float | None = None) -> Any:
    """Ask in a step."""
    return await (asking_step if how == "result" else awaiting_step)(timeout)


@workflow(name="own.by_body")
async def by_body(how: str, timeout: float | None = None) -> Any:
    """Ask in the body."""
    return await (by_handle().result(timeout) if how == "result" else by_handle())


def told(flow: Callable[..., Any]) -> Any:
    """Return a workflow that tells what `flow` is told."""

    @workflow(name=f"own.told.{flow.__name__}")
    async def telling(how: str, timeout: float | None) -> str:
        try:
            return str(await flow(how, timeout))
        except WrongContextError as error:
            return str(error)

    return telling


@pytest.mark.parametrize("how", ["result", "await"])
@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("flow", [by_step, by_body])
async def test_run_that_asks_for_its_own_result_is_told_so(
    journal_path: Path, flow: Any, how: str, timeout: float | None
) -> None:
    """At the call, with the cause and what to do; nothing is recorded of the question."""
    async with opened(journal_path) as rt:
        run = await rt.start(told(flow), how, timeout)
        answer = await run.result(5)
        assert run.run_id in answer
        assert "asks for its own result" in answer
        assert ("its body" if flow is by_body else "its step") in answer
        assert "ask from outside" in answer
        assert not [e for e in await run.events() if e.name == "durable.run.result"]


async def test_run_may_ask_for_the_result_of_its_child_and_for_its_own_status(
    journal_path: Path,
) -> None:
    """Only what can never come is refused."""

    @step
    async def child_result(run_id: str) -> str:
        return str(await get_run(run_id).result())

    @workflow(name="own.child")
    async def child() -> str:
        return "child"

    @workflow(name="own.parent")
    async def parent() -> list[str]:
        run = await start(child)
        mine = get_run(get_workflow_metadata().run_id)
        return [await run.result(), await child_result(run.run_id), str(await mine.status())]

    async with opened(journal_path) as rt:
        run = await rt.start(parent)
        assert await run.result(5) == ["child", "child", "running"]
        assert (await kinds(run))[-1] == "run_completed"
