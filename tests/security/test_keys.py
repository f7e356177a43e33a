"""Keys: where they may come from, what is refused, and that they show nowhere."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import pickle
import re
from pathlib import Path

import pytest

from durable import Encryption, Runtime, send, start
from durable._journal.keys import Key, add_key, create_key_file, read_key_file
from durable._journal.seals import is_sealed
from durable._surface.cli import main
from durable.errors import JournalError
from tests.security.rig import (
    KEY,
    OTHER_KEY,
    SENTINEL,
    WAIT,
    history_of,
    shopped,
    waiting,
)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key file as `durable keygen` makes it."""
    file = tmp_path / "app.key"
    create_key_file(file)
    return file


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_key_file_is_new_and_for_its_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], umask: int
) -> None:
    """Whatever the umask; what the command prints is the key's id."""
    file = tmp_path / "app.key"
    before = os.umask(umask)
    try:
        assert main(["keygen", str(file)]) == 0
        assert main(["keygen", str(file), "--add"]) == 0
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["app.key"]
    first, second = read_key_file(file)
    assert capsys.readouterr().out.count(second.id) == 1
    assert first.id != second.id
    assert main(["keygen", str(file)]) == 1
    assert capsys.readouterr().err == f"durable: {file} exists already: choose another path\n"
    assert read_key_file(file)[0].id == first.id


def test_keys_are_random(tmp_path: Path) -> None:
    """Two files have two keys of 32 bytes; the id is made from the key."""
    one, two = (create_key_file(tmp_path / name) for name in ("one", "two"))
    assert len(one.secret) == len(two.secret) == 32
    assert one.secret != two.secret
    assert Key(one.secret).id == one.id
    assert one.secret[:8].hex() != one.id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666])
def test_a_key_file_that_others_may_use_is_refused(key_file: Path, mode: int) -> None:
    """Also for those who may only write or execute it."""
    key_file.chmod(mode)
    with pytest.raises(JournalError, match=re.escape(f"(mode {mode:04o}): chmod 600 it")):
        Encryption(key_file).ring()


def test_a_key_file_that_is_a_link_is_refused(key_file: Path, tmp_path: Path) -> None:
    """It may lead to a file of somebody else."""
    link = tmp_path / "link"
    link.symlink_to(key_file)
    with pytest.raises(JournalError, match="it is a link"):
        Encryption(link).ring()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_file_of_another_user_is_refused(key_file: Path) -> None:
    """Even if we may read it."""
    os.chown(key_file, 12345, -1)
    with pytest.raises(JournalError, match="it belongs to user 12345, and this is 0"):
        Encryption(key_file).ring()


def test_what_is_no_key_file_is_refused(key_file: Path, tmp_path: Path) -> None:
    """A folder, a pipe, a missing, empty or damaged file; the error shows nothing of it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path, why in ((tmp_path, "plain file"), (pipe, "plain file"), (tmp_path / "x", "opened")):
        with pytest.raises(JournalError, match=why):
            Encryption(path).ring()
    text = key_file.read_bytes()
    wrong = text[:-5], text + b"durable-key-1:AAAA\n", text.replace(b"key-1", b"key-9")
    for damaged in (b"", b"# nothing\n", *wrong):
        key_file.write_bytes(damaged)
        with pytest.raises(JournalError, match="no key") as caught:
            Encryption(key_file).ring()
        assert text.split(b":")[-1].strip().decode()[:10] not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", [b"", b"xy", bytes(31), bytes(33), 7, None, ["x"], bytearray(32)])
def test_what_is_no_key_is_refused_without_being_shown(key: object) -> None:
    """Its length or its type are told."""
    with pytest.raises((TypeError, ValueError), match=r"32 (random )?bytes"):
        Encryption(key)  # type: ignore[arg-type]


def test_keys_may_be_fetched_by_a_callable() -> None:
    """One key or several; what it returns is checked when it is asked."""
    ring = Encryption(lambda: [KEY, OTHER_KEY]).ring()
    assert list(ring.keys) == [Key(KEY).id, Key(OTHER_KEY).id]
    assert list(Encryption(lambda: KEY).ring().keys) == [Key(KEY).id]
    with pytest.raises(ValueError, match="not str"):
        Encryption(lambda: "0" * 32).ring()  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="has given no key"):
        Encryption(list).ring()
    with pytest.raises(ValueError, match="there is no key"):
        Encryption()


def test_the_newest_of_all_keys_is_the_first(key_file: Path) -> None:
    """Several sources are taken in their order, and a file's keys in theirs."""
    added = add_key(key_file)
    ring = Encryption(key_file, OTHER_KEY).ring()
    assert ring.newest is not None
    assert ring.newest.id == added.id
    assert list(ring.keys)[-1] == Key(OTHER_KEY).id


def test_keys_show_nowhere_and_cannot_be_pickled(key_file: Path) -> None:
    """Neither in the text of objects nor in a journal by mistake."""
    encryption = Encryption(KEY, key_file, lambda: OTHER_KEY)
    ring = encryption.ring()
    shown = " ".join(map(repr, [encryption, ring, *ring.keys.values()]))
    assert Key(KEY).id in shown
    for key in ring.keys.values():
        for form in (key.secret.hex(), repr(key.secret)[2:-1], str(list(key.secret))):
            assert form not in shown
        with pytest.raises(TypeError, match="not to be pickled"):
            pickle.dumps(key)
    with pytest.raises(TypeError, match="not to be pickled"):
        pickle.dumps(encryption)


def test_a_runtime_takes_nothing_else_for_an_encryption(journal_path: Path) -> None:
    """A key by itself is not repeated in the error."""
    with pytest.raises(TypeError, match="encryption is a bytes: give") as caught:
        Runtime(journal_path, encryption=KEY)  # type: ignore[arg-type]
    assert str(list(KEY))[1:20] not in str(caught.value)


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cryptography is not installed; to authenticate, nothing else is needed."""
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> object:
        return None if name == "cryptography" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert Encryption(KEY, hide=False).ring().newest is not None
    with pytest.raises(JournalError, match=r"pip install 'durable\[crypto\]'.* hide=False"):
        Encryption(KEY)


def test_a_default_runtime_takes_its_keys_from_the_environment(
    key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it takes the path of its journal."""
    monkeypatch.setenv("DURABLE_JOURNAL", str(tmp_path / "app.db"))
    monkeypatch.setenv("DURABLE_KEY_FILE", str(key_file))

    async def program() -> str:
        run = await start(waiting.options(run_id="one"), "card")
        await send(run, "letters", "hello")
        return await run.result(WAIT)

    assert asyncio.run(program()) == f"{SENTINEL}-hello"
    assert all(is_sealed(event.payload) for event in history_of(tmp_path / "app.db", "one"))


def test_the_command_line_reads_with_the_key_and_tells_structure_without(
    key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that is given for a journal without seals is not used."""
    path = tmp_path / "app.db"

    async def program(encryption: Encryption | None) -> None:
        async with Runtime(path, encryption=encryption) as runtime:
            await shopped(runtime, "one")

    for encryption in (Encryption(key_file), None):
        if encryption is None:
            path.unlink()
        asyncio.run(program(encryption))
        for words in (["show", "one"], ["stream", "one"]):
            command = [*words, "--db", str(path)]
            assert main([*command, "--key-file", str(key_file)]) == 0
            assert SENTINEL in capsys.readouterr().out
            assert main(command) == 0
            shown = capsys.readouterr().out
            assert (SENTINEL in shown) == (encryption is None)
            assert ("sealed with the key" in shown) == (encryption is not None)
        assert main(["show", "one", "--json", "--db", str(path)]) == 0
        assert "'customer': 'acme'" in str(json.loads(capsys.readouterr().out))
