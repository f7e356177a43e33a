"""Permissions of all files, whatever the umask; names that lead elsewhere; deleted values."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from durable import Encryption, Runtime
from durable._journal.sockets import socket_path_of
from durable._surface.cli import main
from tests.security.rig import KEY, SENTINEL, shopped, waiting


@contextmanager
def umask(value: int) -> Iterator[None]:
    """Set the process's umask for a while."""
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """The permissions of each file."""
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in folder.iterdir()}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
async def test_every_file_is_for_its_owner_alone(tmp_path: Path, mask: int) -> None:
    """The journal and all that lies beside it, and what is made from it."""
    with umask(mask):
        async with Runtime(tmp_path / "app.db", encryption=Encryption(KEY)) as runtime:
            run = await shopped(runtime, "one")
            await run.export(tmp_path / "one.json")
            await runtime.backup(tmp_path / "backup.db")
            await runtime.start(waiting, "card")
            found = modes(tmp_path)
            socket = Path(socket_path_of(runtime.path))
            assert stat.S_IMODE(socket.lstat().st_mode) == 0o600
        found |= modes(tmp_path)
    wanted = ["", "-wal", "-shm", ".lock", ".reserve", ".running"]
    assert {f"app.db{end}" for end in wanted} | {"one.json", "backup.db"} <= set(found)
    assert {name: oct(mode) for name, mode in found.items() if mode != 0o600} == {}


async def test_files_that_others_could_read_are_closed_at_opening(tmp_path: Path) -> None:
    """A journal that was copied with other permissions."""
    async with Runtime(tmp_path / "app.db") as runtime:
        await shopped(runtime, "one")
    (tmp_path / "app.db").chmod(0o666)
    async with Runtime(tmp_path / "app.db"):
        assert modes(tmp_path)["app.db"] == 0o600
        assert modes(tmp_path)["app.db-wal"] == 0o600


NAMES = ["../up", "..%2fup", "/abs", "a/../../b", "..\\up", "a\u2215b", "~", "-rf", "x; rm", "%00"]


async def test_ids_are_names_and_never_paths(tmp_path: Path) -> None:
    """A run may be called like a path: exporting it writes the file that the caller names."""
    home = tmp_path / "home"
    home.mkdir()
    async with Runtime(home / "app.db") as runtime:
        for place, name in enumerate(NAMES):
            run = await runtime.start(waiting.options(run_id=name), "card")
            await run.export(home / f"{place}.json")
            copy = await runtime.import_run(home / f"{place}.json", run_id=f"copy of {name}")
            assert copy.run_id == f"copy of {name}"
        before = set(modes(home))
    names = {f"{place}.json" for place in range(len(NAMES))}
    assert {name for name in before if not name.startswith("app.db")} == names
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    for bad in ("a\0b", "a\nb", "\u202e", ""):
        with pytest.raises(ValueError, match="run id"):
            waiting.options(run_id=bad)


def test_an_export_never_goes_through_a_link_or_over_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it is told to; and then it takes the link's place."""
    import asyncio

    async def program() -> None:
        async with Runtime(tmp_path / "app.db") as runtime:
            await shopped(runtime, "one")

    asyncio.run(program())
    precious, link = tmp_path / "precious", tmp_path / "link.json"
    precious.write_text("precious")
    link.symlink_to(precious)
    command = ["export", "one", str(link), "--db", str(tmp_path / "app.db")]
    assert main(command) == 1
    assert "exists" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert precious.read_text() == "precious"
    assert not link.is_symlink()


async def test_a_deleted_run_leaves_no_value_in_the_files(tmp_path: Path) -> None:
    """Its rows are zeroed, where SQLite would only forget them."""
    async with Runtime(tmp_path / "app.db") as runtime:
        run = await shopped(runtime, "one")
        await run.delete()
        await runtime.journal.empty_trash()
    for path in tmp_path.iterdir():
        assert SENTINEL.encode() not in path.read_bytes(), path
