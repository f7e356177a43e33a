"""Looking at many runs, and acting on them, from a process that does not own the journal."""

from __future__ import annotations

from pathlib import Path

from durable import Runtime
from tests.ownership.peers import Peers


async def test_client_lists_what_the_owner_runs(peers: Peers, journal_path: Path) -> None:
    """Reading is from the file, so it needs no owner's answer; it is what was committed."""
    owner = await peers.start()
    async with Runtime(journal_path) as client:
        assert not client.is_owner
        first = await owner.ask("(await rt.start(total, 1, 2)).run_id")
        await owner.ask(f"run({first!r}).result()")
        [info] = await client.list_runs(status="completed")
        assert info.run_id == first
        assert await info.run.result() == 3
        assert await client.count_runs(workflow="tests.ownership.flows.total") == 1
        assert await owner.ask("len(await rt.list_runs())") == 1
