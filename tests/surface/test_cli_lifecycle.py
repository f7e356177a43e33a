"""The commands that try runs again, make them anew, pause and resume them."""

from __future__ import annotations

import json
from pathlib import Path

from durable import Runtime
from tests.surface.commands import commands
from tests.surface.test_cli import (
    WAIT,
    Command,
    cli_nap,
    command,
    some_runs,
    until_asleep,
    with_runtime,
)

__all__ = ["command"]  # a fixture


def shown(command: Command, run_id: str) -> dict[str, object]:
    """Return what the command line shows of a run."""
    facts: dict[str, object] = json.loads(command("show", run_id, "--json")[1])
    return facts


def test_retry_without_an_owner_is_done_at_the_next_opening(
    journal_path: Path, command: Command
) -> None:
    """It is on record at once; a run that has not failed is refused in one line."""
    with_runtime(journal_path, some_runs)
    code, out, err = command("retry", "second")
    assert (code, err) == (0, "")
    assert out == "second: it goes on from where it failed; it is pending now\n"
    code, _, err = command("retry", "first")
    assert (code, err.count("\n")) == (1, 1)
    assert "completed" in err

    async def waits(rt: Runtime) -> None:
        await (await rt.port()).wait_end("second")

    with_runtime(journal_path, waits)
    assert shown(command, "second")["status"] == "failed"  # the same code fails again


def test_rerun_without_an_owner_begins_at_the_next_opening(
    journal_path: Path, command: Command
) -> None:
    """Under an id that is told, or the one given; a taken one is refused."""
    with_runtime(journal_path, some_runs)
    code, out, err = command("rerun", "first", "--run-id", "again")
    assert (code, err) == (0, "")
    assert out == "first: started anew as again; see `durable show again`\n"
    assert command("rerun", "first", "--run-id", "again")[0] == 0
    code, _, err = command("rerun", "second", "--run-id", "again")
    assert (code, err.count("\n")) == (1, 1)
    assert "exists already" in err

    async def finishes(rt: Runtime) -> None:
        assert await rt.get_run("again").result(WAIT) == 42

    with_runtime(journal_path, finishes)


def test_fork_without_an_owner_goes_on_at_the_next_opening(
    journal_path: Path, command: Command
) -> None:
    """At a step, at an event, or where the run has ended; a place that is not there is told."""
    with_runtime(journal_path, some_runs)
    code, out, err = command("fork", "first", "--run-id", "f1")
    assert (code, err) == (0, "")
    assert out == "first: forked as f1; see `durable show f1`\n"
    assert command("fork", "first", "--at", "2", "--run-id", "f2")[0] == 0
    assert command("fork", "first", "--at", "double", "--run-id", "f3")[0] == 0
    code, _, err = command("fork", "first", "--at", "nothing")
    assert (code, err.count("\n")) == (1, 1)
    assert "no step named 'nothing'" in err

    async def finish(rt: Runtime) -> None:
        for run_id in ("f1", "f2", "f3"):
            assert await rt.get_run(run_id).result(WAIT) == 42
            assert await rt.get_run(run_id).replayed_from() == "first"

    with_runtime(journal_path, finish)


def test_pause_and_resume_without_an_owner(journal_path: Path, command: Command) -> None:
    """The next opening finds the run paused, and the one after it going on."""
    with_runtime(journal_path, some_runs)
    code, out, err = command("pause", "third", "--reason", "not now")
    assert (code, err) == (0, "")
    assert out == "third: it is paused; it is blocked now\n"
    assert "paused: not now" in command("show", "third")[1]

    async def stays(rt: Runtime) -> None:
        assert await rt.get_run("third").status() == "blocked"

    with_runtime(journal_path, stays)
    assert command("resume", "third")[1] == "third: it may try again; it is running now\n"

    async def wakes(rt: Runtime) -> None:
        assert await rt.get_run("third").wake_up() == 1
        assert await rt.get_run("third").result(WAIT) == "awake"

    with_runtime(journal_path, wakes)


async def test_commands_reach_the_run_through_its_owner(journal_path: Path) -> None:
    """Another process has the journal open, and does what is asked."""
    async with Runtime(journal_path) as rt, commands(journal_path) as command:
        run = await rt.start(cli_nap.options(run_id="nap"))
        await until_asleep(run)
        assert (await command("pause", "nap"))[0] == 0
        assert await run.status() == "blocked"
        assert (await command("resume", "nap"))[0] == 0
        assert await run.status() == "running"
        code, out, _ = await command("rerun", "nap", "--run-id", "nap-2")
        assert (code, out.split(";")[0]) == (0, "nap: started anew as nap-2")
        await until_asleep(rt.get_run("nap-2"))
