"""Hooks and mailboxes without an event loop: by `SyncRuntime` and by the command line."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from durable import Run, Runtime, SyncRuntime, create_hook, receive, workflow
from durable._surface.cli import main
from durable.errors import HookNotFoundError, HookPayloadError
from tests.surface.commands import commands

WAIT = 30.0  # seconds until a test gives up


@workflow(name="answering.both")
async def both() -> list[object]:
    """Wait for a hook, then for a letter."""
    return [
        await create_hook(dict[str, int], token="order:7", metadata={"who": "ann"}),
        await receive("note"),
    ]


def started(rt: SyncRuntime) -> Any:
    """Start a run and return it once its hook is open."""
    run = rt.start(both)
    while not run.hooks():
        pass
    return run


# --- by SyncRuntime --------------------------------------------------------------------------


def test_sync_programs_answer_runs(journal_path: Path) -> None:
    """Look at the hook, be refused, answer, from any thread."""
    with SyncRuntime(journal_path) as rt:
        run = started(rt)
        hook = rt.get_hook_by_token("order:7")
        assert (hook.run_id, hook.metadata, [hook]) == (run.run_id, {"who": "ann"}, run.hooks())
        with pytest.raises(HookPayloadError):
            rt.resume_hook("order:7", {"cups": "two"})
        assert rt.resume_hook(hook, {"cups": 2}, dedupe_key="k") == run
        sender = threading.Thread(target=rt.send, args=(run, "note", "thanks"))
        sender.start()
        sender.join()
        assert run.result(WAIT) == [{"cups": 2}, "thanks"]
        with pytest.raises(HookNotFoundError):
            rt.send(run.run_id, "note", "too late")
        assert run.hooks() == []


# --- by the command line ---------------------------------------------------------------------


async def until_open(run: Run[Any]) -> None:
    """Wait until the hook of a run is open."""
    while not await run.hooks():
        await asyncio.sleep(0)


@pytest.mark.slow
async def test_commands_answer_through_the_owner(journal_path: Path) -> None:
    """Payloads are JSON; errors are those of the owner, in one line."""
    async with Runtime(journal_path) as rt, commands(journal_path) as command:
        run = await rt.start(both)
        await until_open(run)
        _, shown, _ = await command("show", run.run_id)
        assert "waits for  hook 'order:7'" in shown
        code, _, err = await command("resume-hook", "order:7", '{"cups": "two"}')
        assert (code, err.count("\n")) == (1, 1)
        assert "payload[\"cups\"] is 'two' (str), but it must be an int" in err
        for _ in range(2):
            given = ("resume-hook", "order:7", '{"cups": 2}', "--key", "delivery-1")
            assert await command(*given) == (
                0, f"{run.run_id}: the payload is recorded\n", "",
            )  # fmt: skip
        code, out, _ = await command("send", run.run_id, "note")
        assert (code, out) == (0, f"{run.run_id}: the payload is recorded\n")
        assert await run.result(WAIT) == [{"cups": 2}, None]
        code, _, err = await command("resume-hook", "order:7", "1")
        assert (code, "no open hook has the token" in err) == (1, True)


def test_commands_need_a_program_that_runs_the_workflow(
    journal_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without one nobody can check the payload: nothing is recorded, the error says what to do."""
    with SyncRuntime(journal_path) as rt:
        run_id = started(rt).run_id
    before = shown_events(journal_path, run_id, capsys)
    for given in (["resume-hook", "order:7", "{}"], ["send", run_id, "note", "1"]):
        assert main([*given, "--db", str(journal_path)]) == 1
        assert "start that program and repeat" in capsys.readouterr().err
    assert main(["resume-hook", "unknown", "1", "--db", str(journal_path)]) == 1
    assert "no open hook has the token 'unknown'" in capsys.readouterr().err
    assert shown_events(journal_path, run_id, capsys) == before


def shown_events(path: Path, run_id: str, capsys: pytest.CaptureFixture[str]) -> object:
    """Return the events of a run as the command shows them."""
    main(["show", run_id, "--json", "--db", str(path)])
    return json.loads(capsys.readouterr().out)["events"]


@pytest.mark.parametrize("payload", ["yes", "{'a': 1}", ""])
def test_payload_that_is_no_json_is_wrong_usage(
    payload: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message shows how to write a text."""
    with pytest.raises(SystemExit) as ended:
        main(["send", "run", "note", payload])
    assert ended.value.code == 2
    assert "is not JSON" in capsys.readouterr().err
