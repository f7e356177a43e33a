"""Where a runtime may open a journal, under which names; and how quiet a client is."""

from __future__ import annotations

import asyncio
import builtins
import io
import os
from pathlib import Path

import pytest

from durable import Runtime
from durable.errors import (
    JournalError,
    JournalLockedError,
    RuntimeClosedError,
    UnsafeFilesystemError,
)
from tests.ownership.flows import total
from tests.ownership.peers import Peers

MOUNTS = "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {point} rw - nfs4 server:/share rw\n"


@pytest.fixture
def nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the kernel says to be a network filesystem."""
    share = tmp_path / "share"
    share.mkdir()
    real = builtins.open

    def fake(file: object, *args: object, **kwargs: object) -> object:
        if file == "/proc/self/mountinfo":
            return io.StringIO(MOUNTS.format(point=share))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", fake)
    return share


async def test_journal_on_a_network_filesystem_is_refused(nfs: Path) -> None:
    """Before anything is made there; the error names the filesystem and the way out."""
    runtime = Runtime(nfs / "app.db")
    with pytest.raises(UnsafeFilesystemError, match=r"nfs4 \(server:/share .*local disk"):
        await runtime.open()
    assert not list(nfs.iterdir())
    with pytest.raises(RuntimeClosedError):
        await runtime.start(total, 1, 2)
    assert not list(nfs.iterdir())


async def test_journal_on_a_network_filesystem_can_be_insisted_on(
    nfs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The option that the error names; a warning is left."""
    async with Runtime(nfs / "app.db", allow_unsafe_filesystem=True) as runtime:
        assert await (await runtime.start(total, 1, 2)) == 3
    assert "nfs4" in caplog.text
    assert "allow_unsafe_filesystem" in caplog.text


async def test_all_names_of_a_journal_mean_the_same_one(peers: Peers, journal_path: Path) -> None:
    """Links to the file or to its directory, relative paths and URIs lead to one owner."""
    owner = await peers.start()
    link, place = journal_path.with_name("link.db"), journal_path.with_name("place")
    link.symlink_to(journal_path)
    place.symlink_to(journal_path.parent)
    names = [link, place / "app.db", os.path.relpath(journal_path), f"file:{journal_path}"]
    for name in names:
        with pytest.raises(JournalLockedError) as caught:
            await Runtime(name, client=False).open()
        assert caught.value.pid == owner.pid
        async with Runtime(name) as client:
            assert await (await client.start(total, 1, 2)) == 3
    await owner.leave()
    async with Runtime(journal_path):
        for name in names:
            with pytest.raises(JournalLockedError, match="open already in this process"):
                await Runtime(name).open()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (":memory:", "in memory and lost with the process: name a file"),
        ("file::memory:", "in memory and lost"),
        ("file:app.db?mode=memory", "in memory and lost"),
        ("", "is empty: name a file"),
        ("{tmp}", "is a directory: name a file in it"),
        ("{tmp}/missing/app.db", "there is no directory .*missing. Create it"),
        ("{tmp}/two.db", "has 2 hard links"),
        ("/dev/null", "not a regular file"),
    ],
)
def test_path_that_cannot_be_a_journal_is_refused(path: str, told: str, tmp_path: Path) -> None:
    """At once, when the runtime is made, with what to do instead."""
    (tmp_path / "one.db").touch()
    (tmp_path / "two.db").hardlink_to(tmp_path / "one.db")
    with pytest.raises(JournalError, match=told):
        Runtime(path.format(tmp=tmp_path))


async def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The journal is not made, and the error tells for whom it must be writable."""
    closed = Path("/sys/kernel")  # where even root may not make a file
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
    with pytest.raises(JournalError, match=rf"{closed}/app.db.* writable for user {os.geteuid()}"):
        await Runtime(closed / "app.db").open()


async def test_failed_opening_can_be_repeated_with_another_runtime(journal_path: Path) -> None:
    """The lock is given back, so the cure is enough."""
    journal_path.write_bytes(b"this is no journal" * 1000)
    for _ in range(2):
        with pytest.raises(JournalError, match="not a"):
            await Runtime(journal_path).open()
    journal_path.unlink()
    async with Runtime(journal_path) as runtime:
        assert runtime.is_owner


# --- an idle client -------------------------------------------------------------------


def _wakings(pid: int) -> dict[str, str]:
    """How often each thread of a process went to sleep so far, and was made to."""
    return {
        task.name: (task / "status").read_text().partition("voluntary_ctxt")[2]
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


async def test_idle_client_does_nothing_at_all(peers: Peers, journal_path: Path) -> None:
    """No thread of it wakes, so no statement is run, with a wait for a result open."""
    owner, client = await peers.start(), await peers.start()
    run_id = await client.ask("(await rt.start(held, 'a')).run_id")
    await owner.happens("began")
    client.tell(f"run({run_id!r}).result()")
    assert await client.ask(f"run({run_id!r}).status()") == "running"
    before: dict[str, str] = {}
    while (wakings := _wakings(client.pid)) != before:
        before = wakings
        await asyncio.sleep(0.1)  # sleeps: until the client has come to rest
    await asyncio.sleep(1.2)  # sleeps: an idle time has to pass, longer than any tick
    assert _wakings(client.pid) == before
