"""Values and errors with code of their own, and starts that wait while their code is missing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import step, workflow
from durable._authoring import registry
from durable.errors import WorkflowRunFailedError
from durable.testing import VirtualClock
from tests.engine.rig import AT_ONCE, opened, quiet, without_workflow


class NotEvenEqualError(Exception):
    """Refuses to be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __hash__ = Exception.__hash__


class Unpicklable:
    """Raises something that is no `Exception` when it is stored."""

    def __reduce__(self) -> Any:
        raise GeneratorExit("from __reduce__")


@step(max_retries=0, backoff=AT_ONCE)
async def fail_oddly() -> None:
    """Fail with a chain of errors that cannot be compared."""
    raise NotEvenEqualError("outer") from NotEvenEqualError("inner")


@step(max_retries=0)
async def return_oddly() -> Any:
    """Return what cannot be stored."""
    return Unpicklable()


@workflow(name="odd.flow")
async def flow(oddly: bool) -> None:
    """One step that ends oddly."""
    await (fail_oddly() if oddly else return_oddly())


@pytest.mark.parametrize("oddly", [True, False])
async def test_odd_values_fail_their_run_and_hang_nothing(journal_path: Path, oddly: bool) -> None:
    """The run ends, whatever the code of an error or a result does."""
    async with opened(journal_path) as rt:
        with pytest.raises(WorkflowRunFailedError):
            await (await rt.start(flow, oddly)).result(timeout=5)


@workflow(name="odd.later")
async def later() -> str:
    """Return at once, when it is time."""
    return "in time"


async def test_a_delayed_run_keeps_its_time_through_a_parking(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A command finds its code missing; once it is there, the run still waits for its time."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(later.options(run_id="d", delay=timedelta(hours=1)))
    with without_workflow(later):
        async with opened(journal_path, virtual_clock) as rt:
            assert await rt.get_run("d").wake_up() == 0
            await quiet(rt)
            assert await rt.get_run("d").status() == "blocked"
            registry.register_workflow(later)
            await quiet(rt)
            await virtual_clock.advance(60)
            await quiet(rt)
            assert await rt.get_run("d").status() == "pending"
            await virtual_clock.advance(3600)
            assert await rt.get_run(run.run_id).result(timeout=5) == "in time"
