"""The command `durable stream`: what it shows, and that it executes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable import Runtime, get_writable, step, workflow
from durable._surface.cli import main
from tests.ownership.peers import peers_on
from tests.streams import flows

Command = Callable[..., tuple[int, str, str]]


class Trap:
    """Runs code when it is loaded."""

    def __reduce__(self) -> Any:
        return (print, ("loaded!",))


@step
async def emit_for_people() -> None:
    out = get_writable("log")
    await out.write_from(["text\n\x1b[31m", {"a": 1}, b"\x00", Trap()])


@workflow(name="command.streams")
async def streams() -> None:
    await emit_for_people()


@workflow(name="command.waits")
async def waits() -> None:
    await get_writable().write(1)
    await asyncio.sleep(1000)


@pytest.fixture
def command(journal_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Performs a command line on the test's journal: exit code, stdout, stderr."""

    def perform(*arguments: str) -> tuple[int, str, str]:
        code = main(["stream", *arguments, "--db", str(journal_path)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return perform


def record(path: Path, flow: Any, *, finish: bool = True) -> None:
    """Leave a journal with one run."""

    async def run() -> None:
        async with Runtime(path, durability="process") as rt:
            run = await rt.start(flow.options(run_id="r"))
            if finish:
                await run.result()
            else:
                async for _ in run.stream():
                    break

    asyncio.run(run())


def test_chunks_are_shown_and_never_executed(journal_path: Path, command: Command) -> None:
    """One line each, without control characters, whatever was recorded."""
    record(journal_path, streams)
    code, out, err = command("r", "--namespace", "log")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == ["0  text  [31m", "1  {'a': 1}", "2  b'\\x00'"]
    assert out.splitlines()[3].startswith("3  ")
    assert "loaded!" not in out.replace("'loaded!'", "")
    code, out, _ = command("r", "--namespace", "log", "--start", "-3", "--json")
    first = json.loads(out.splitlines()[0])
    assert first == {"index": 1, "value": {"a": 1}, "step_id": "r:3", "attempt": 1, "reset": False}
    assert command("r")[:2] == (0, "")


def test_following_without_an_owner_says_that_nothing_more_comes(
    journal_path: Path, command: Command
) -> None:
    """What is there is shown, and the command ends."""
    record(journal_path, waits, finish=False)
    code, out, err = command("r", "--follow")
    assert (code, out) == (0, "0  1\n")
    assert "the run is running, and no process has the journal open" in err


def test_unknown_runs_and_names_are_refused(journal_path: Path, command: Command) -> None:
    """In one line on stderr, with exit code 1."""
    record(journal_path, streams)
    code, _, err = command("nobody")
    assert code == 1
    assert "holds no run 'nobody'" in err
    code, _, err = command("r", "--namespace", "n" * 65)
    assert code == 1
    assert "up to 64 printable characters" in err


async def test_following_shows_each_chunk_as_it_comes(journal_path: Path) -> None:
    """The owner tells when there is more, and the command ends with the run."""
    async with peers_on(journal_path) as peers:
        owner = await peers.start(prelude="from tests.streams.flows import *")
        await owner.ask("(await rt.start(gated.options(run_id='g'), 3)).run_id")
        process = await asyncio.create_subprocess_exec(
            *flows.python("-m", "durable", "stream", "g", "--follow", "--db", str(journal_path)),
            stdout=asyncio.subprocess.PIPE, cwd=flows.ROOT,
        )  # fmt: skip
        assert process.stdout is not None
        for number in range(3):
            owner.tell(f"open_gate({number})")
            assert await process.stdout.readline() == f"{number}  {number}\n".encode()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0
