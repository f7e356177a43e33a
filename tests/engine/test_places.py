"""Where runtimes and handles are used from: worker processes, bodies, and with what."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from durable import StepMetadata, get_run, start, workflow
from durable._authoring.context import run_in_attempt
from durable.errors import RuntimeNotRunningError, WrongContextError
from tests.engine.rig import opened


@workflow
async def idle() -> None:
    """Nothing."""


async def test_step_in_a_worker_process_starts_runs_on_a_runtime_of_its_own(
    journal_path: Path,
) -> None:
    """Where there is none it says so; the default one is not opened behind the step's back."""
    metadata = StepMetadata("run:3", "far", 1, datetime.now(UTC), "run", "run:3")

    async def begin(path: Path | None) -> Any:
        if path is None:
            return await start(idle)
        async with opened(path):
            return await (await start(idle)).status()

    def run_far(path: Path | None) -> Any:
        return run_in_attempt(metadata, lambda: asyncio.run(begin(path)), (), {})

    with pytest.raises(RuntimeNotRunningError, match='step far runs with executor="process"'):
        await asyncio.to_thread(run_far, None)
    assert await asyncio.to_thread(run_far, journal_path) in {"pending", "running", "completed"}


@pytest.mark.parametrize("touch", ["start", "close"])
async def test_body_that_touches_a_runtime_is_told_what_to_use(
    journal_path: Path, touch: str
) -> None:
    """It would not be recorded, or would tie the runtime to the body's loop."""
    async with opened(journal_path) as rt:

        @workflow
        async def touching() -> None:
            with pytest.raises(WrongContextError, match="use `start`, `get_run`"):
                await (rt.start(idle) if touch == "start" else rt.close())

        await (await rt.start(touching)).result(timeout=30)


@pytest.mark.parametrize(
    "ask",
    [
        get_run,
        lambda run: get_run(5),  # type: ignore[arg-type]
        lambda run: run.cancel(5),
        lambda run: run.wake_up(3),
        lambda run: run.wake_up("35"),
    ],
)
async def test_handle_refuses_what_is_no_id_reason_or_number(journal_path: Path, ask: Any) -> None:
    """At the call, by the name of the argument."""
    async with opened(journal_path) as rt:
        run = await rt.start(idle)
        with pytest.raises(TypeError, match=r"(run_id|reason|correlation_ids)=.* must be"):
            await ask(run)
