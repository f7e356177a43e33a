"""Looking at many runs, and acting on them, from a process that does not own the journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable import CancelOutcome, Runtime, workflow
from durable.errors import (
    InvalidExportError,
    WorkflowRunCancelledError,
    WorkflowRunNotFinishedError,
)
from tests.ownership.flows import napping, total
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


async def test_client_sets_the_owner_to_work(
    peers: Peers, journal_path: Path, tmp_path: Path
) -> None:
    """Cancel in bulk, delete, import: done by the owner; export and backup read the file."""
    await peers.start()
    async with Runtime(journal_path) as client:
        assert not client.is_owner
        asleep = [await client.start(napping, 3600.0) for _ in range(3)]
        done = await client.start(total, 1, 2)
        await done.result()
        document = await done.export(tmp_path / "done.json")
        outcomes = await client.cancel_runs([*asleep, done, "nobody"], reason="enough")
        assert [each.outcome for each in outcomes] == [
            "requested", "requested", "requested", "finished", "not_found",
        ]  # fmt: skip
        for run in asleep:
            with pytest.raises(WorkflowRunCancelledError, match="enough"):
                await run.result()
        made = await client.backup(tmp_path / "copy.db")
        assert made.runs == 4
        await done.delete()
        assert not await done.exists()
        running = await client.start(napping, 3600.0)
        with pytest.raises(WorkflowRunNotFinishedError):
            await running.delete()
        copy = await client.import_run(document)
        assert await copy.result() == 3
        assert await client.import_run(tmp_path / "done.json") == copy
        with pytest.raises(InvalidExportError, match="durable run"):
            await client.import_run({})
        assert await client.cancel_runs(workflow="tests.ownership.flows.napping") == [
            CancelOutcome(running.run_id, "requested")
        ]


async def test_step_in_the_owner_sets_attributes_of_a_clients_run(
    peers: Peers, journal_path: Path
) -> None:
    """The client sees them in the file, by handle and by filter."""
    await peers.start(
        prelude=(
            "from durable import set_attributes, step, workflow\n"
            "@step\n"
            "async def tag():\n"
            "    await set_attributes({'by': 'step'})\n"
            "@workflow(name='peers.tagged')\n"
            "async def tagged():\n"
            "    await set_attributes({'by': 'body', 'kept': 'yes'})\n"
            "    await tag()\n"
        )
    )

    @workflow(name="peers.tagged")
    async def tagged() -> None:
        """Defined here for its name: the owner's is run."""

    async with Runtime(journal_path) as client:
        run = await client.start(tagged.options(attributes={"at": "start"}))
        await run.result()
        assert await run.attributes() == {"at": "start", "by": "step", "kept": "yes"}
        assert await client.count_runs(attributes={"by": "step"}) == 1
        assert await client.count_runs(attributes={"by": "body"}) == 0


async def test_next_owner_sees_attributes_that_the_killed_one_has_recorded(
    peers: Peers, journal_path: Path
) -> None:
    """SIGKILL behind an acknowledged `set_attributes`; the client takes over and goes on."""
    owner = await peers.start(
        prelude=(
            "from durable import set_attributes, step, workflow\n"
            "@step\n"
            "async def mark():\n"
            "    await set_attributes({'marked': 'yes'})\n"
            "    here.announce('marked')\n"
            "    await asyncio.Event().wait()\n"
            "@workflow(name='peers.marking')\n"
            "async def marking():\n"
            "    await mark()\n"
        )
    )

    async with Runtime(journal_path) as client:
        started = await owner.ask("(await rt.start(marking)).run_id")
        assert await owner.happens("began") == "marked"
        await owner.kill()
        run = client.get_run(started)
        assert await run.attributes() == {"marked": "yes"}
        assert [info.run_id for info in await client.list_runs(attributes={"marked": "yes"})] == [
            started
        ]
