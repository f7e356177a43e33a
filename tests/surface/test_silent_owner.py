"""A command that waits for a process which does not answer says for whom it waits."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from durable._surface.bystander import CommandPort, command
from durable.errors import WorkflowRunNotFoundError
from tests.engine.rig import until

ROOT = Path(__file__).parents[2]

OWNER = """
import asyncio, sys
from durable import Runtime

async def main():
    async with Runtime(sys.argv[1]):
        print("open", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def _ask(port: CommandPort) -> None:
    await port.cancel("nobody", None)


@pytest.mark.slow
async def test_command_that_waits_for_a_stopped_owner_names_it_and_is_done_later(
    journal_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and not before its patience is over."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(journal_path), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert owner.stdout is not None
        await owner.stdout.readline()
        with pytest.raises(WorkflowRunNotFoundError):
            await command(journal_path, _ask)
        assert caplog.messages == []
        os.kill(owner.pid, signal.SIGSTOP)
        asking = asyncio.create_task(command(journal_path, _ask, patience=0.01))
        await until(lambda: caplog.messages)
        os.kill(owner.pid, signal.SIGCONT)
        with pytest.raises(WorkflowRunNotFoundError):
            await asking
    finally:
        owner.kill()
        await owner.wait()
    [told] = caplog.messages
    assert f"waiting for process {owner.pid} (" in told
