"""Secrets are where they belong and nowhere else: files, logs, texts of objects, tracebacks."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import traceback
from base64 import b64encode
from pathlib import Path

import pytest

from durable import Encryption, Run, Runtime, WebhookRequest, create_webhook, step, workflow
from durable._journal.lock import OwnerLock
from durable._surface.bystander import commanding
from durable._surface.cli import main
from durable.asgi import HmacVerifier
from durable.errors import DurableError, WorkflowRunFailedError
from tests.security.rig import KEY, SENTINEL, WAIT, failing, history_of, shopped, waiting


@workflow
async def answering(card: str) -> str:
    """Waits at a webhook."""
    hook = create_webhook()
    request = await hook
    return f"{SENTINEL}-{request.text()}"


@workflow
async def stubborn(card: str) -> str:
    """Is cancelled."""
    await asyncio.sleep(10_000)
    return card


async def everything(runtime: Runtime) -> list[Run[object]]:
    """Runs that have had secrets in every place."""
    runs: list[Run[object]] = [await shopped(runtime, "one")]
    runs.append(await runtime.start(failing.options(run_id="two"), f"{SENTINEL}-card"))
    with pytest.raises(WorkflowRunFailedError):
        await runs[-1].result(WAIT)
    hooked = await runtime.start(answering.options(run_id="three"), f"{SENTINEL}-card")
    while not (hooks := await hooked.hooks()):
        await asyncio.sleep(0)
    headers = {"Authorization": f"{SENTINEL}-header", "Content-Type": "text/plain"}
    request = durable_request(headers)
    await runtime.resume_webhook(hooks[0].token, request)
    await hooked.result(WAIT)
    runs.append(hooked)
    runs.append(await runtime.start(stubborn.options(run_id="four"), f"{SENTINEL}-card"))
    await runs[-1].cancel(f"{SENTINEL}-reason")
    with pytest.raises(DurableError):
        await runs[-1].result(WAIT)
    return runs


def durable_request(headers: dict[str, str]) -> WebhookRequest:
    """A request with secrets in it."""
    url = f"https://example.org/?q={SENTINEL}-query"
    return WebhookRequest("POST", url, headers, f"{SENTINEL}-body".encode())


def files_with(folder: Path, secret: str) -> list[str]:
    """The files that hold a text, or its beginning in base 64."""
    forms = [secret.encode(), *(b64encode(b" " * n + secret.encode())[4:-4] for n in range(3))]
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    )


async def test_a_sealed_journal_has_no_value_in_any_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Journal, -wal, lock, backup and exports; while it is open, and after it."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "app.db"
    async with Runtime(path, encryption=Encryption(KEY)) as runtime:
        runs = await everything(runtime)
        tokens = [hook["token"] for hook in [await _facts(runtime, "three")]]
        for run in runs:
            await run.export(tmp_path / f"{run.run_id}.json")
        await runtime.backup(tmp_path / "backup.db")
        waits = await runtime.start(waiting.options(run_id="five"), f"{SENTINEL}-card")
        await waits.pause()
        assert (tmp_path / "app.db-wal").stat().st_size > 0
        assert files_with(tmp_path, SENTINEL) == []
    assert files_with(tmp_path, SENTINEL) == []
    assert not any(files_with(tmp_path, token) for token in tokens)
    assert SENTINEL not in caplog.text
    # What is looked for is there, and is found where nothing is sealed.
    async with Runtime(tmp_path / "plain.db") as runtime:
        await shopped(runtime, "one")
    assert "plain.db" in files_with(tmp_path, SENTINEL)
    assert SENTINEL not in capsys.readouterr().err


async def _facts(runtime: Runtime, run_id: str) -> dict[str, str]:
    created = next(e for e in history_of(Path(runtime.path), run_id) if e.kind == 30)
    opened = runtime.journal.seals.open_event(run_id, created)  # type: ignore[union-attr]
    facts = runtime.payloads.decode(opened.payload or b"")
    assert isinstance(facts, dict)
    return facts


async def test_logs_and_texts_of_objects_hold_no_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also of a journal without seals: handles, runtimes, codecs, requests, verifiers."""
    caplog.set_level(logging.DEBUG)
    async with Runtime(tmp_path / "app.db", encryption=Encryption(KEY)) as runtime:
        runs = await everything(runtime)
        objects = [runtime, runtime.payloads.codec, runtime.journal, runtime.journal.seals, *runs]
        objects += [await run.status() for run in runs]
        objects += [hook for run in runs for hook in await run.hooks()]
        objects += list(await runtime.list_runs())
        objects += [durable_request({"Authorization": f"{SENTINEL}-header"})]
        objects += [HmacVerifier.github(f"{SENTINEL}-secret"), Encryption(KEY)]
        shown = "\n".join(map(repr, objects)) + "\n".join(map(str, objects))
        token = (await _facts(runtime, "three"))["token"]
    assert SENTINEL not in shown
    assert SENTINEL not in caplog.text
    assert token not in shown + caplog.text
    assert KEY.hex() not in shown + caplog.text


async def test_a_recorded_traceback_has_the_message_and_no_local_values(tmp_path: Path) -> None:
    """What a step had in its variables is not recorded with its failure."""

    @step(name="leaky", max_retries=0)
    async def leaky(secret: str) -> None:
        local = f"{secret}-local"
        raise ValueError(f"told {len(local)}")

    @workflow(name="leaks")
    async def leaks() -> None:
        await leaky(f"{SENTINEL}")

    async with Runtime(tmp_path / "app.db") as runtime:
        run = await runtime.start(leaks)
        with pytest.raises(WorkflowRunFailedError) as caught:
            await run.result(WAIT)
    assert "told 19" in str(caught.value)
    assert SENTINEL not in "".join(traceback.format_exception(caught.value))


async def test_the_lock_of_a_command_names_no_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a command holds it, its file tells who does: the program and the command."""
    async with Runtime(tmp_path / "app.db"):
        pass
    monkeypatch.setattr(sys, "argv", ["durable", "send", "one", "letters", SENTINEL])
    async with commanding(tmp_path / "app.db"):
        assert "durable send" in str(OwnerLock(str(tmp_path / "app.db")).holder())
        assert files_with(tmp_path, SENTINEL) == []


@pytest.mark.slow
def test_the_command_line_tells_and_leaves_no_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A payload among the arguments is not written into the lock file of the journal."""
    path = tmp_path / "app.db"

    async def program() -> None:
        async with Runtime(path, encryption=Encryption(KEY)) as runtime:
            await everything(runtime)

    asyncio.run(program())
    payload = json.dumps(f"{SENTINEL}-argument")
    done = subprocess.run(
        [sys.executable, "-m", "durable", "send", "one", "letters", payload, "--db", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert SENTINEL not in done.stdout + done.stderr
    assert files_with(tmp_path, SENTINEL) == []
    commands = [
        ["runs", "--json"], ["show", "one"], ["show", "two", "--json"], ["show", "four"],
        ["stream", "one"], ["export", "one"], ["rerun", "one"], ["fork", "one"],
    ]  # fmt: skip
    for words in commands:
        main([*words, "--db", str(path)])
        told = capsys.readouterr()
        assert SENTINEL not in told.out + told.err, words
        assert files_with(tmp_path, SENTINEL) == [], words
