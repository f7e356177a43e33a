"""A step that kills the process is set aside; everything else goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from durable import step, workflow
from durable.errors import WorkflowRunBlockedError
from durable.testing import VirtualClock, settle
from tests.engine.poison_program import KILLER
from tests.engine.rig import crashing, opened, quiet, until

ROOT = Path(__file__).parents[2]
RESTARTS_MAX = 4


def launch(*arguments: str) -> tuple[int, dict[str, str]]:
    """Run the program to its end; return its exit code and the statuses it printed."""
    command = [sys.executable, "-m", "tests.engine.poison_program", *arguments]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}


@pytest.mark.slow
def test_killer_is_set_aside_within_four_restarts_and_all_others_complete(
    journal_path: Path,
) -> None:
    """All are in flight at its first deaths; resuming tries it again."""
    codes = []
    statuses: dict[str, str] = {}
    while not statuses and len(codes) <= RESTARTS_MAX:
        code, statuses = launch(str(journal_path))
        codes.append(code)
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert statuses.pop(KILLER) == "poison_step"
    assert set(statuses.values()) == {"completed"}
    code, statuses = launch(str(journal_path), "mended")
    assert (code, statuses[KILLER]) == (0, "completed")


class Deaths:
    """A workflow whose step survives no process, and a count of its attempts."""

    def __init__(self) -> None:
        self.begun = 0
        self.harmless = False

        @step(name="tests.deadly")
        async def deadly() -> str:
            self.begun += 1
            if not self.harmless:
                await asyncio.Event().wait()
            return "survived"

        @workflow(name="tests.lethal")
        async def lethal() -> str:
            return await deadly()

        self.flow = lethal

    async def die(self, path: Path, clock: VirtualClock, times: int) -> None:
        """Let the process die in the step so many times."""
        for _ in range(times):
            begun = self.begun
            async with crashing(path, clock):
                await until(lambda before=begun: self.begun > before)
                await settle()


async def test_resumed_killer_is_set_aside_at_its_next_death(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Resuming gives one more chance, not three; then it may be resumed again."""
    deaths = Deaths()
    async with opened(journal_path, virtual_clock) as rt:
        run_id = (await rt.start(deaths.flow.options(delay=1))).run_id
    virtual_clock.suspend(2)
    await deaths.die(journal_path, virtual_clock, 3)
    for _ in range(2):
        begun = deaths.begun
        async with crashing(journal_path, virtual_clock) as rt:
            run = rt.get_run(run_id)
            with pytest.raises(WorkflowRunBlockedError, match="deadly") as blocked:
                await run.result()
            assert blocked.value.kind == "poison_step"
            await run.resume()
            await until(lambda before=begun: deaths.begun > before)
    deaths.harmless = True
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        assert await rt.get_run(run_id).status() == "blocked"
        await rt.get_run(run_id).resume()
        assert await rt.get_run(run_id).result() == "survived"


async def test_orderly_stops_never_make_a_step_a_suspect(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """However often the program is restarted while the step runs."""
    deaths = Deaths()
    async with opened(journal_path, virtual_clock) as rt:
        run_id = (await rt.start(deaths.flow)).run_id
        await until(lambda: deaths.begun)
    for restart in range(2, 8):
        async with opened(journal_path, virtual_clock) as rt:
            await until(lambda count=restart: deaths.begun == count)
            assert await rt.get_run(run_id).status() == "running"


async def test_step_that_lives_on_alone_is_acquitted(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Half a minute alone proves that it does not kill; then the other suspects get their turn."""
    first, second = asyncio.Event(), asyncio.Event()
    begun = []

    @step
    async def long_one(name: str) -> str:
        begun.append(name)
        await (first if name == "a" else second).wait()
        return name

    @workflow
    async def flow(name: str) -> str:
        return await long_one(name)

    async with crashing(journal_path, virtual_clock) as rt:
        runs = [await rt.start(flow, name) for name in "ab"]
        await until(lambda: len(begun) == 2)
    async with crashing(journal_path, virtual_clock) as rt:
        await until(lambda: len(begun) == 4)
    async with opened(journal_path, virtual_clock) as rt:
        await until(lambda: len(begun) == 5)
        await settle(50)
        await virtual_clock.advance(29)
        assert begun[4:] == ["a"]
        await virtual_clock.advance(1)
        await until(lambda: begun[4:] == ["a", "b"])
        first.set()
        second.set()
        assert [await rt.get_run(run.run_id).result() for run in runs] == ["a", "b"]


async def test_missing_code_that_comes_back_after_crashes_does_not_make_a_suspect(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A run that was blocked was not running when the process died."""
    from durable._authoring import registry

    deaths = Deaths()
    async with opened(journal_path, virtual_clock) as rt:
        run_id = (await rt.start(deaths.flow)).run_id
        await until(lambda: deaths.begun == 1)
    for count in (2, 3, 4, 5):
        registry._workflows.pop("tests.lethal")
        async with crashing(journal_path, virtual_clock) as rt:
            await quiet(rt)
            assert await rt.get_run(run_id).status() == "blocked"
        registry.register_workflow(deaths.flow)
        async with opened(journal_path, virtual_clock) as rt:
            await until(lambda number=count: deaths.begun == number)
            notes = [e.name for e in await rt.get_run(run_id).events() if e.kind == "step_retrying"]
            assert set(notes) == {"parked"}
