"""Looking at a journal executes nothing of it: no name in a payload is even looked up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from durable import Encryption, Runtime
from durable._surface.cli import main
from tests.security.rig import (
    KEY,
    audit,
    chunks_of,
    evil,
    history_of,
    put_chunk,
    put_event,
    shopped,
)

LOOKING = [
    ["runs"], ["runs", "--json"], ["show", "one"], ["show", "one", "--json"],
    ["stream", "one"], ["stream", "one", "--json"], ["export", "one"],
    ["export", "one", "{0}/one.json"], ["backup", "{0}/backup.db"],
    ["import", "{0}/one.json", "--as", "two"], ["rerun", "one"],
    ["fork", "one", "--at", "4"], ["show", "two"], ["delete", "one"],
]  # fmt: skip


def poisoned(path: Path, trap: Path, *, sealed: bool) -> None:
    """A journal in which each value is a bomb; a sealed one has honest values."""

    async def program() -> None:
        encryption = Encryption(KEY) if sealed else None
        async with Runtime(path, encryption=encryption) as runtime:
            await shopped(runtime, "one")

    asyncio.run(program())
    if sealed:
        return
    for event in history_of(path, "one"):
        if event.payload is not None and event.payload[:1] == b"\x80":
            put_event(path, "one", event._replace(payload=evil(trap)))
    for chunk in chunks_of(path, "one"):
        put_chunk(path, "one", chunk._replace(payload=chunk.payload and evil(trap)))


@pytest.mark.parametrize("sealed", [False, True])
def test_no_command_that_looks_unpickles_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sealed: bool
) -> None:
    """Every command that reads a journal, or copies of it; with seals, without their key."""
    trap = tmp_path / "trap"
    poisoned(tmp_path / "app.db", trap, sealed=sealed)
    with audit() as heard:
        for words in LOOKING:
            command = [word.format(tmp_path) for word in words]
            code = main([*command, "--db", str(tmp_path / "app.db")])
            told = capsys.readouterr()
            assert "Traceback" not in told.err
            if code:
                assert sealed, (command, told.err)
                assert "sealed" in told.err or "no run" in told.err, (command, told.err)
    assert heard == []
    assert not trap.exists()


async def test_no_question_about_a_run_unpickles_anything(tmp_path: Path) -> None:
    """From a program that has the journal open, until it asks for the value itself."""
    trap = tmp_path / "trap"
    await asyncio.to_thread(poisoned, tmp_path / "app.db", trap, sealed=False)
    with audit() as heard:
        async with Runtime(tmp_path / "app.db") as runtime:
            run = runtime.get_run("one")
            await run.status()
            assert len(await run.events()) > 10
            await run.hooks()
            await run.export()
            assert [info.run_id for info in await runtime.list_runs()] == ["one"]
            assert heard == []
            with pytest.raises(TypeError):
                (await run.result())()  # and the bomb does go off
    assert trap.is_dir()
