"""`durable rekey`: another key for all of a journal, or its first seals."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durable import Encryption, Runtime
from durable._base.clock import SystemClock
from durable._journal.care.rekey import Resealed, reseal
from durable._journal.driver import DriverFactory, ThreadDriver
from durable._journal.files import JournalFiles
from durable._journal.keys import Key, add_key, create_key_file, read_key_file
from durable._journal.seals import is_sealed, key_id_of
from durable._surface.cli import main
from durable.errors import JournalCorruptError, JournalError, PayloadDecodeError
from tests.security.rig import (
    KEY,
    OTHER_KEY,
    SENTINEL,
    WAIT,
    chunks_of,
    evil,
    history_of,
    put_event,
    rows,
    shopped,
    waiting,
)


async def made(path: Path, encryption: Encryption | None) -> None:
    """A journal with a run that has ended and one that waits."""
    async with Runtime(path, encryption=encryption) as runtime:
        await shopped(runtime, "one")
        await runtime.start(waiting.options(run_id="two"), f"{SENTINEL}-card")


async def goes_on(path: Path, encryption: Encryption) -> None:
    """The ended run can be read, the other one goes on."""
    async with Runtime(path, encryption=encryption) as runtime:
        assert (await runtime.get_run("one").result(WAIT)).startswith(SENTINEL)
        stream = [chunk async for chunk in runtime.get_run("one").stream(follow=False)]
        assert stream == [f"{SENTINEL}-chunk"]
        await runtime.send("two", "letters", "hello")
        assert await runtime.get_run("two").result(WAIT) == f"{SENTINEL}-hello"


def key_ids(path: Path) -> set[str]:
    """The keys of all rows; "" for rows without a seal."""
    found = [each.payload for run_id in ("one", "two") for each in history_of(path, run_id)]
    found += [each.payload for each in chunks_of(path, "one")]
    return {key_id_of(payload) if is_sealed(payload) else "" for payload in found}


async def work(
    path: Path, *keys: bytes, takes_plain: bool = False, driver: DriverFactory = ThreadDriver
) -> Resealed:
    """Seal everything with the first of the keys."""
    ring, now = Encryption(*keys).ring(), SystemClock().wall_us()
    return await reseal(JournalFiles(path), driver, ring, now, takes_plain=takes_plain)


def test_all_rows_get_the_newest_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Then the old one is needed for nothing any more; done again, it does nothing."""
    path, file = tmp_path / "app.db", tmp_path / "app.key"
    old = create_key_file(file)
    asyncio.run(made(path, Encryption(file)))
    assert key_ids(path) == {old.id}
    new = add_key(file)
    command = ["rekey", "--db", str(path), "--key-file", str(file)]
    assert main(command) == 0
    assert key_ids(path) == {new.id}
    assert main(command) == 0
    assert ": 0 rows sealed" in capsys.readouterr().out
    asyncio.run(goes_on(path, Encryption(new.secret)))
    assert read_key_file(file)[0].id == new.id


def test_a_plain_journal_gets_its_first_seals_and_loses_its_plain_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only if that is asked for; nothing of the old rows stays in the file."""
    path, file = tmp_path / "app.db", tmp_path / "app.key"
    key = create_key_file(file)
    asyncio.run(made(path, None))
    with closing(sqlite3.connect(path)) as conn, conn:  # as an SQLite that does not zero rows
        conn.execute("PRAGMA secure_delete = 0")
        conn.execute("CREATE TABLE mine AS SELECT ? AS x", (SENTINEL * 1000,))
        conn.execute("DROP TABLE mine")
    assert SENTINEL.encode() * 50 in path.read_bytes()
    command = ["rekey", "--db", str(path), "--key-file", str(file)]
    assert main(command) == 1
    assert "--from-plain" in capsys.readouterr().err
    assert main([*command, "--from-plain"]) == 0
    assert key_ids(path) == {key.id}
    for each in tmp_path.iterdir():
        assert SENTINEL.encode() not in each.read_bytes(), each
    asyncio.run(goes_on(path, Encryption(file)))


async def test_rekeying_can_be_cut_off_anywhere_and_begun_again(tmp_path: Path) -> None:
    """After each statement that writes; no runtime opens a journal that is half sealed."""
    path, cuts = tmp_path / "app.db", 0

    class Cut(ThreadDriver):
        left = 0

        async def call(self, fn):  # type: ignore[no-untyped-def]
            if Cut.left == 0:
                raise sqlite3.OperationalError("cut off")
            Cut.left -= 1
            return await super().call(fn)

    await made(path, None)
    plain = path.read_bytes()  # all of it, since it was closed
    while True:
        path.write_bytes(plain)
        Cut.left = cuts
        try:
            await work(path, KEY, takes_plain=True, driver=Cut)
        except JournalError:
            pass
        else:
            break
        if 2 <= cuts <= 5:
            for encryption in (None, Encryption(KEY)):
                with pytest.raises(JournalError, match="let `durable rekey` finish it"):
                    await Runtime(path, encryption=encryption).open()
        await work(path, KEY, takes_plain=True)
        assert key_ids(path) == {Key(KEY).id}
        cuts += 1
    await goes_on(path, Encryption(KEY))
    assert cuts >= 6


async def test_nothing_forged_becomes_authentic(tmp_path: Path) -> None:
    """A row that is not authentic stops the work, and so does one whose key is not there."""
    path = tmp_path / "app.db"
    await made(path, Encryption(KEY))
    with pytest.raises(PayloadDecodeError, match=Key(KEY).id):
        await work(path, OTHER_KEY)
    event = history_of(path, "one")[3]
    put_event(path, "one", event._replace(payload=evil(tmp_path / "trap")))
    with pytest.raises(JournalCorruptError, match="event 4 of run one is not authentic"):
        await work(path, OTHER_KEY, KEY)
    put_event(path, "one", event._replace(payload=b"\xff" + (event.payload or b"")[1:-1] + b"x"))
    with pytest.raises(JournalCorruptError, match="event 4 of run one is not authentic"):
        await work(path, OTHER_KEY, KEY, takes_plain=True)
    put_event(path, "one", event)
    await work(path, OTHER_KEY, KEY)
    await goes_on(path, Encryption(OTHER_KEY))


def test_a_journal_that_is_open_is_not_rekeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its owner would go on writing with the old key."""
    path, file = tmp_path / "app.db", tmp_path / "app.key"
    create_key_file(file)

    async def program() -> int:
        async with Runtime(path, encryption=Encryption(file)):
            command = ["rekey", "--db", str(path), "--key-file", str(file)]
            return await asyncio.to_thread(main, command)

    assert asyncio.run(program()) == 1
    assert "open" in capsys.readouterr().err
    assert rows(path, "SELECT value FROM meta WHERE key = 'sealed'") == [("encrypt",)]
