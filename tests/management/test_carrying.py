"""Runs exported from one journal and imported into another: readable, inert, never run twice."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Codec,
    FatalError,
    Runtime,
    SyncRuntime,
    create_hook,
    get_writable,
    import_run,
    receive,
    resume_hook,
    send,
    set_attributes,
    sleep,
    step,
    workflow,
)
from durable._journal.portable import _checksum
from durable._surface.cli import main
from durable.errors import (
    InvalidExportError,
    RunConflictError,
    WorkflowRunBlockedError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
)
from durable.testing import VirtualClock
from tests.engine.rig import AT_ONCE, elapse, opened, quiet

WAIT = 30.0
RAN: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@step
async def work(name: str) -> str:
    RAN.append(name)
    return name.upper()


@step(max_retries=1, backoff=AT_ONCE)
async def shaky(name: str) -> str:
    RAN.append(name)
    raise ValueError(f"no {name}")


@workflow(name="carry.busy")
async def busy(name: str) -> dict[str, Any]:
    """As many kinds of events as fit into one run."""
    await set_attributes({"name": name})
    done = await asyncio.gather(work(name), work("other"))
    try:
        await shaky(name)
    except ValueError as error:
        done.append(str(error))
    await sleep(10)
    async with create_hook(str, token=f"carry:{name}") as hook:
        done.append(await hook)
    done.append(await receive("box", str))
    return {"done": done, "name": name}


@workflow(name="carry.failing")
async def failing() -> None:
    raise FatalError("on purpose")


@workflow(name="carry.napping")
async def napping() -> str:
    await work("before")
    await sleep("1h")
    return await work("after")


async def play_busy(rt: Runtime, clock: VirtualClock) -> Any:
    """A run of `busy` up to its end."""
    run = await rt.start(busy.options(run_id="busy", attributes={"first": "one"}), "a")
    await elapse(rt, clock, 30)
    await resume_hook("carry:a", "hooked")
    await send(run, "box", "boxed")
    await run.result(WAIT)
    return run


# --- the way there and back -------------------------------------------------------------------


async def test_finished_run_is_readable_on_another_machine(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """Result, events, times and attributes are those of the original; no step runs."""
    file = tmp_path / "busy.json"
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        run = await play_busy(rt, virtual_clock)
        document = await run.export(file)
        events, result = await run.events(), await run.result(WAIT)
        [info] = await rt.list_runs()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == json.loads(json.dumps(document))
    assert sorted(os.listdir(tmp_path)) == [
        "a.db", "a.db.lock", "a.db.mark", "a.db.reserve", "busy.json",
    ]  # fmt: skip
    ran = list(RAN)
    virtual_clock.suspend(1000 * 86_400)
    async with opened(tmp_path / "b.db", virtual_clock) as rt:
        copy = await import_run(file)
        assert copy.run_id == "busy"
        assert await copy.result(WAIT) == result
        assert await copy.events() == events
        assert await copy.attributes() == {"first": "one", "name": "a"}
        [there] = await rt.list_runs(attributes={"first": "one", "name": "a"})
        assert there == info
        assert (await rt.reader.run_by_id("busy")).expires_at > virtual_clock.wall_us()
        assert await copy.export() == document
    assert ran == RAN


async def test_document_shows_every_value_without_loading_it(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """What people read beside the bytes."""
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        document = await (await play_busy(rt, virtual_clock)).export()
    shown = {(each["kind"], each["name"]): each.get("shown") for each in document["events"]}
    assert shown["run_created", "carry.busy"] == [["a"], {}]
    assert shown["attr_set", ""] == {"name": "a"}
    assert "ValueError: no a" in shown["step_failed", ""]
    assert document["about"]["attributes"] == {"first": "one", "name": "a"}
    assert document["about"]["status"] == "completed"
    assert {each["kind"] for each in document["events"]} >= {
        "step_retrying", "wait_completed", "hook_created", "hook_received",
        "hook_disposed", "attr_set",
    }  # fmt: skip


async def test_failed_and_cancelled_runs_keep_their_ends(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """The error with its traceback; the reason."""
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        failed, cancelled = await rt.start(failing), await rt.start(napping)
        await quiet(rt)
        await cancelled.cancel("enough")
        documents = [await failed.export(), await cancelled.export()]
    async with opened(tmp_path / "b.db", virtual_clock) as rt:
        failed, cancelled = [await rt.import_run(each) for each in documents]
        with pytest.raises(WorkflowRunFailedError, match="on purpose") as told:
            await failed.result(WAIT)
        assert isinstance(told.value.__cause__, FatalError)
        with pytest.raises(WorkflowRunCancelledError, match="enough"):
            await cancelled.result(WAIT)


async def test_unfinished_run_waits_for_leave_to_go_on(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """Nothing runs by surprise: not on import, not at the next opening, only on resume."""
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        run = await rt.start(napping.options(run_id="nap", deployment_id="v1"))
        await quiet(rt)
        document = await run.export()
    assert RAN == ["before"]
    virtual_clock.suspend(7200)
    for _ in range(2):
        async with opened(tmp_path / "b.db", virtual_clock) as rt:
            copy = await rt.import_run(document)
            await elapse(rt, virtual_clock, 7200, 600)
            status = await copy.status()
            assert status == "blocked"
            assert "await run.resume()" in str(status.reason)
            with pytest.raises(WorkflowRunBlockedError, match="imported"):
                await copy.result(WAIT)
    assert RAN == ["before"]
    async with opened(tmp_path / "b.db", virtual_clock) as rt:
        copy = rt.get_run("nap")
        await copy.resume()
        await elapse(rt, virtual_clock, 20)
        assert await copy.result(WAIT) == "AFTER"
        assert RAN == ["before", "after"], "the completed step did not run again"
        assert (await rt.reader.run_by_id("nap")).deployment_id == "v1"


async def test_pending_run_starts_when_it_is_resumed(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """One that had not begun when it was exported."""
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        run = await rt.start(napping.options(run_id="later", delay="1h"))
        document = await run.export()
    async with opened(tmp_path / "b.db", virtual_clock) as rt:
        copy = await rt.import_run(document)
        assert await copy.status() == "blocked"
        await copy.resume()
        await elapse(rt, virtual_clock, 2 * 3700, 60)
        assert await copy.result(WAIT) == "AFTER"


async def test_open_hook_of_an_imported_run_takes_payloads_once_resumed(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """Its token is claimed in the new journal when the run goes on there."""
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        run = await rt.start(busy.options(run_id="busy"), "h")
        await elapse(rt, virtual_clock, 30)
        document = await run.export()
    async with opened(tmp_path / "b.db", virtual_clock) as rt:
        copy = await rt.import_run(document)
        await copy.resume()
        await elapse(rt, virtual_clock, 10)
        await resume_hook("carry:h", "hooked")
        await send(copy, "box", "boxed")
        assert (await copy.result(WAIT))["done"][-2:] == ["hooked", "boxed"]


async def test_run_is_imported_under_another_id(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """Beside the original, in one journal."""
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        run = await play_busy(rt, virtual_clock)
        copy = await rt.import_run(await run.export(), run_id="copy")
        assert copy.run_id == "copy"
        assert await copy.result(WAIT) == await run.result(WAIT)
        assert await rt.count_runs() == 2
        with pytest.raises(ValueError, match="run"):
            await rt.import_run(await run.export(), run_id="")


async def test_importing_twice_is_importing_once(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """Also when the run has gone on since; another run under the id is a conflict."""
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        run = await rt.start(napping.options(run_id="nap"))
        await quiet(rt)
        early = await run.export()
        assert await rt.import_run(early) == run
        assert await run.status() == "running", "it is not touched"
        await run.wake_up()
        await run.result(WAIT)
        assert await rt.import_run(early) == run
        late = await run.export()
    async with opened(tmp_path / "b.db", virtual_clock) as rt:
        for _ in range(2):
            await rt.import_run(late)
        assert await rt.count_runs() == 1
        await (await rt.start(napping.options(run_id="mine"))).status()
        with pytest.raises(RunConflictError, match="another run with the id 'mine'"):
            await rt.import_run(late, run_id="mine")


@step
async def talk(count: int) -> None:
    out, log = get_writable(), get_writable("log")
    for n in range(count):
        await out.write(n)
    await log.write({"done": count})
    await out.close()


@workflow(name="carry.talking")
async def talking() -> None:
    await talk(3)
    await sleep("1h")
    await get_writable("log").write("slept")


async def test_streams_go_with_the_run_and_go_on(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """What was emitted is there; a run that is resumed emits behind it."""
    async with opened(tmp_path / "a.db", virtual_clock) as rt:
        run = await rt.start(talking.options(run_id="t"))
        await quiet(rt)
        document = await run.export(tmp_path / "t.json")
    assert [each["shown"] for each in document["streams"][""][:3]] == [0, 1, 2]
    assert document["streams"]["log"][0]["shown"] == {"done": 3}
    async with opened(tmp_path / "b.db", virtual_clock) as rt:
        copy = await rt.import_run(tmp_path / "t.json")
        await rt.import_run(document)
        assert await copy.list_streams() == ["", "log"]
        assert [item async for item in copy.stream()] == [0, 1, 2]
        await copy.resume()
        await elapse(rt, virtual_clock, 3700, 600)
        await copy.result(WAIT)
        assert [item async for item in copy.stream("log")] == [{"done": 3}, "slept"]
        twin = await rt.import_run(await copy.export(), run_id="twin")
        assert [item async for item in twin.stream("log")] == [{"done": 3}, "slept"]


# --- what cannot be done ----------------------------------------------------------------------


async def test_unusable_sources_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    """No file, a broken file, no document, a document of a newer durable."""
    broken = tmp_path / "broken.json"
    async with opened(tmp_path / "a.db") as rt:
        with pytest.raises(WorkflowRunNotFoundError):
            await rt.get_run("nobody").export()
        run = await rt.start(failing)
        await quiet(rt)
        document = await run.export()
        await run.delete()
        text = json.dumps(document)
        for content, told in [
            (text[:-20], "no JSON"),
            (text.replace('"version": 1', '"version": 2'), "format version 2"),
            (text.replace("carry.failing", "carry.falling"), "checksum"),
            ("{}", "durable run"),
        ]:
            broken.write_text(content)
            with pytest.raises(InvalidExportError, match=told):
                await rt.import_run(broken)
        with pytest.raises(FileNotFoundError):
            await rt.import_run(tmp_path / "none.json")
        with pytest.raises(TypeError, match="cannot be imported"):
            await rt.import_run(7)
        with pytest.raises(InvalidExportError, match="no JSON data"):
            await rt.import_run({"format": object()})
        assert await rt.count_runs() == 0


async def test_export_never_overwrites_unless_asked(tmp_path: Path) -> None:
    """Nor leaves half a file where it cannot write."""
    file = tmp_path / "run.json"
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(failing)
        await quiet(rt)
        file.write_text("mine")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            await run.export(file)
        assert file.read_text() == "mine"
        await run.export(file, overwrite=True)
        assert json.loads(file.read_text())["format"] == "durable run"
        with pytest.raises(FileNotFoundError):
            await run.export(tmp_path / "no" / "run.json")
        with pytest.raises(OSError, match="exists"):
            await run.export(tmp_path, overwrite=True)
    assert not [name for name in os.listdir(tmp_path) if "part" in name]


# --- nothing is executed --------------------------------------------------------------------------


class Trap:
    """Runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("true",))


@pytest.fixture(scope="module")
def loaded() -> list[object]:
    """What unpickling has looked up, and what was executed; hooks stay for good."""
    seen: list[object] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"pickle.find_class", "os.system"}:
            seen.append((event, *map(str, arguments)))

    sys.addaudithook(hook)
    return seen


async def test_importing_and_looking_executes_nothing(
    tmp_path: Path, loaded: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    """A document whose every payload is a trap: import, list, show, export and delete it."""
    path, trap = tmp_path / "a.db", pickle.dumps(Trap(), 5)
    async with opened(path) as rt:
        run = await rt.start(busy, "a")
        await quiet(rt)
        document = json.loads(json.dumps(await run.export()))
        done = await rt.start(failing)
        await quiet(rt)
        ended = json.loads(json.dumps(await done.export()))
    import base64

    for each in [*document["events"], *ended["events"]]:
        if each["payload"] is not None and "attr" not in each["kind"]:
            each["payload"]["base64"] = base64.b64encode(trap).decode()
    for each in (document, ended):
        each["checksum"] = _checksum(each)
    file = tmp_path / "trap.json"
    file.write_text(json.dumps(document))
    loaded.clear()
    async with opened(tmp_path / "b.db") as rt:
        for source, run_id in ((document, "one"), (file, "two"), (ended, "three")):
            copy = await rt.import_run(source, run_id=run_id)
            for look in (copy.status, copy.events, copy.attributes, copy.export, copy.exists):
                await look()
        assert await rt.count_runs() == 3
        await rt.list_runs()
        await rt.backup(tmp_path / "c.db")
        await rt.get_run("three").delete()
    db = str(tmp_path / "b.db")
    for command in (["runs"], ["show", "one"], ["show", "two", "--json"], ["export", "one"]):
        assert await asyncio.to_thread(main, [*command, "--db", db]) == 0
    assert "one" in capsys.readouterr().out
    assert loaded == []


# --- other ways ---------------------------------------------------------------------------------


async def test_sealed_payloads_stay_sealed(tmp_path: Path) -> None:
    """An encrypted journal gives encrypted documents; only who has the key reads the values."""

    class Rot:
        tag = "rot"

        def encode(self, data: bytes) -> bytes:
            return bytes(byte ^ 0x5A for byte in data)

        decode = encode

    async with opened(tmp_path / "a.db", codec=Codec(transform=Rot())) as rt:
        run = await rt.start(napping.options(run_id="sealed"))
        await quiet(rt)
        await run.wake_up()
        await run.result(WAIT)
        document = await run.export()
    assert {each["payload"]["as"] for each in document["events"] if each["payload"]} == {"sealed"}
    async with opened(tmp_path / "b.db") as rt:
        copy = await rt.import_run(document)
        assert "sealed by transform 'rot'" in repr(await copy.events())
    async with opened(tmp_path / "b.db", codec=Codec(transform=Rot())) as rt:
        assert await rt.get_run("sealed").result(WAIT) == "AFTER"


def test_sync_runtime_carries_runs(tmp_path: Path) -> None:
    """The blocking form."""
    with SyncRuntime(tmp_path / "a.db") as rt:
        run = rt.start(failing.options(run_id="f"))
        with pytest.raises(WorkflowRunFailedError):
            run.result()
        document = run.export(tmp_path / "f.json")
    with SyncRuntime(tmp_path / "b.db") as rt:
        copy = rt.import_run(tmp_path / "f.json")
        assert rt.import_run(document) == copy
        with pytest.raises(WorkflowRunFailedError, match="on purpose"):
            copy.result()
