"""Sealed payloads that go somewhere else: other runs, other journals, files and back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from durable import Encryption, Runtime, continue_as_new, receive, verify, workflow
from durable._base.clock import SystemClock
from durable._journal.journal import Journal
from durable._journal.keys import Key
from durable._journal.portable import _checksum
from durable._journal.seals import is_sealed
from durable._surface.cli import main
from durable.errors import InvalidExportError, JournalError, WorkflowRunCancelledError
from tests.security.rig import (
    KEY,
    OTHER_KEY,
    SENTINEL,
    WAIT,
    history_of,
    rows,
    shopped,
    waiting,
)


@workflow
async def relay(word: str, left: int) -> str:
    """Goes on as a new run, twice."""
    letter = await receive("letters")
    if left:
        continue_as_new(f"{word} {letter}", left - 1)
    return f"{word} {letter}"


def all_sealed(path: Path) -> bool:
    """Whether every event of every run is sealed."""
    found = rows(path, "SELECT run_id FROM runs")
    return all(is_sealed(e.payload) for (run_id,) in found for e in history_of(path, run_id))


async def test_payloads_are_sealed_anew_where_a_run_goes_on_as_another(journal_path: Path) -> None:
    """By fork, rerun and continue_as_new, with what was sent and not taken."""
    async with Runtime(journal_path, encryption=Encryption(KEY)) as runtime:
        run = await shopped(runtime, "one")
        fork = await run.fork(results={"tests.security.rig.charge": "another"}, run_id="fork")
        again = await run.rerun(run_id="again")
        chain = await runtime.start(relay.options(run_id="chain"), SENTINEL, 2)
        for letter in "abc":
            await runtime.send("chain", "letters", letter)
        assert await chain.result(WAIT) == f"{SENTINEL} a b c"
        assert (await fork.events())[0].value == (((f"{SENTINEL}-card"),), {})
        assert (await again.events())[0].value == (((f"{SENTINEL}-card"),), {})
    assert all_sealed(journal_path)
    async with Runtime(journal_path, encryption=Encryption(KEY)) as runtime:
        assert await runtime.count_runs() == 6
        for info in await runtime.list_runs():
            assert len(await runtime.get_run(info.run_id).events()) > 1
    assert (await verify(journal_path)).findings == []


async def exported(path: Path) -> dict[str, Any]:
    """The document of a sealed run that waits."""
    async with Runtime(path, encryption=Encryption(KEY)) as runtime:
        run = await runtime.start(waiting.options(run_id="one"), f"{SENTINEL}-card")
        while "letters" not in str((await run.status()).waiting_for):
            await asyncio.sleep(0)
        return await run.export()


async def test_an_export_is_sealed_and_goes_on_where_its_key_is(tmp_path: Path) -> None:
    """Under its own id or another one, sealed with another key, or not at all."""
    document = await exported(tmp_path / "app.db")
    assert SENTINEL not in json.dumps(document)
    for place, encryption in enumerate([Encryption(KEY), Encryption(OTHER_KEY, KEY)]):
        path = tmp_path / f"{place}.db"
        async with Runtime(path, encryption=encryption) as runtime:
            for run_id in (None, "other"):
                run = await runtime.import_run(document, run_id=run_id)
                await run.resume()
                await runtime.send(run, "letters", "hello")
                assert await run.result(WAIT) == f"{SENTINEL}-hello"
                stream = [chunk async for chunk in run.stream(follow=False)]
                assert stream == [f"{SENTINEL}-chunk"] * len(stream)
                assert stream
        assert all_sealed(path)


async def test_an_export_without_its_key_or_with_forged_rows_is_refused(tmp_path: Path) -> None:
    """Nothing of it is recorded."""
    document = await exported(tmp_path / "app.db")
    async with Runtime(tmp_path / "other.db", encryption=Encryption(OTHER_KEY)) as runtime:
        with pytest.raises(InvalidExportError, match=Key(KEY).id):
            await runtime.import_run(document)
        assert await runtime.count_runs() == 0
    async with Runtime(tmp_path / "plain.db") as runtime:
        with pytest.raises(InvalidExportError, match=Key(KEY).id):
            await runtime.import_run(document)
    for change in ("name", "payload", "sealed_in", "run_id"):
        forged = json.loads(json.dumps(document))
        if change == "sealed_in":
            forged["sealed_in"] = "ab" * 16
        elif change == "run_id":
            forged["run"]["run_id"] = "another"
        elif change == "name":
            forged["events"][2]["name"] += "x"
        else:
            forged["events"][2]["payload"] = forged["events"][3]["payload"]
        async with Runtime(tmp_path / "forged.db", encryption=Encryption(KEY)) as runtime:
            with pytest.raises(InvalidExportError, match="its checksum does not match"):
                await runtime.import_run(forged)
            forged["checksum"] = _checksum(forged)
            with pytest.raises(InvalidExportError, match="is not authentic"):
                await runtime.import_run(forged)
            assert await runtime.count_runs() == 0


async def test_a_backup_is_opened_with_the_same_key(tmp_path: Path) -> None:
    """It is a copy of the journal, seals included."""
    async with Runtime(tmp_path / "app.db", encryption=Encryption(KEY)) as runtime:
        await shopped(runtime, "one")
        await runtime.backup(tmp_path / "copy.db")
    assert (await verify(tmp_path / "copy.db")).findings == []
    async with Runtime(tmp_path / "copy.db", encryption=Encryption(KEY)) as runtime:
        assert (await runtime.get_run("one").result(WAIT)).startswith(SENTINEL)


def test_a_sealed_journal_that_was_repaired_is_opened_with_the_same_key(tmp_path: Path) -> None:
    """Without the key, and even if the row is lost that says which journal it is."""
    path = tmp_path / "app.db"

    async def begin() -> None:
        async with Runtime(path, encryption=Encryption(KEY)) as runtime:
            await shopped(runtime, "one")
            await shopped(runtime, "two")

    async def end() -> str:
        async with Runtime(path, encryption=Encryption(KEY)) as runtime:
            return str(await runtime.get_run("two").result(WAIT))

    asyncio.run(begin())
    rows(path, "UPDATE events SET crc = crc + 1 WHERE run = 1 AND seq = 6")
    rows(path, "UPDATE meta SET value = 'x' WHERE key = 'journal_id'")
    assert main(["repair", str(path)]) == 0
    assert asyncio.run(end()).startswith(SENTINEL)
    for folder in (each for each in tmp_path.iterdir() if each.is_dir()):
        assert folder.stat().st_mode & 0o777 == 0o700
        for file in folder.iterdir():
            assert file.stat().st_mode & 0o777 == 0o600, file
            assert SENTINEL.encode() not in file.read_bytes(), file


def test_commands_without_an_owner_use_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reason is sealed until the next owner reads it; without the key none is taken."""
    path, file = tmp_path / "app.db", tmp_path / "app.key"
    assert main(["keygen", str(file)]) == 0

    async def begin() -> None:
        async with Runtime(path, encryption=Encryption(file)) as runtime:
            await runtime.start(waiting.options(run_id="one"), "card")
            await shopped(runtime, "two")

    async def end() -> str | None:
        async with Runtime(path, encryption=Encryption(file)) as runtime:
            with pytest.raises(WorkflowRunCancelledError) as caught:
                await runtime.get_run("one").result(WAIT)
            assert (await runtime.get_run("fork").status()) != "blocked"
            return caught.value.reason

    asyncio.run(begin())
    command = ["cancel", "one", "--db", str(path), "--reason", f"{SENTINEL}-why"]
    assert main(command) == 1
    assert "no key is at hand" in capsys.readouterr().err
    keys = ["--key-file", str(file)]
    assert main([*command, *keys]) == 0
    assert main(["fork", "two", "--at", "4", "--run-id", "fork", "--db", str(path), *keys]) == 0
    for each in tmp_path.iterdir():
        assert SENTINEL.encode() not in each.read_bytes(), each
    assert asyncio.run(end()) == f"{SENTINEL}-why"


async def test_a_reader_with_keys_refuses_a_journal_without_seals(journal_path: Path) -> None:
    """Its owner has none, so what it would read is authenticated by nobody."""
    async with Runtime(journal_path) as owner:
        await shopped(owner, "one")
        with pytest.raises(JournalError, match="not sealed, and keys were given"):
            await Journal.open(
                journal_path, clock=SystemClock(), ring=Encryption(KEY).ring(), owner=False
            )
