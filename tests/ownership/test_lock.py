"""One owner per journal, for exactly as long as its process lives."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from durable._journal.filesystem import canonical_journal_path
from durable._journal.lock import OwnerLock
from durable.errors import ForkedJournalError, JournalError, JournalLockedError

OWNER = """
    import os, sys
    from durable._journal.lock import OwnerLock
    lock = OwnerLock(sys.argv[1])
    print(lock.acquire({"command": "the owner", "since": 7}), flush=True)
    input()
    lock.release()
    print("released", flush=True)
    input()
"""


@pytest.fixture
def journal(journal_path: Path) -> str:
    """The canonical path of a journal that does not exist."""
    return canonical_journal_path(journal_path)


# --- two processes ------------------------------------------------------------------


def test_second_process_cannot_take_the_lock(journal: str, process: Callable) -> None:
    """It gets False at once, and learns who the owner is."""
    owner = process(OWNER, journal)
    assert owner.line() == "True"
    lock = OwnerLock(journal)
    assert lock.acquire({}) is False
    assert not lock.held
    assert lock.holder() == {"pid": owner.pid, "command": "the owner", "since": 7}
    error = lock.locked_error()
    assert (error.pid, error.path) == (owner.pid, journal)
    assert f"process {owner.pid} (the owner)" in str(error)


def test_released_lock_can_be_taken_by_another_process(journal: str, process: Callable) -> None:
    """An owner that ends in order frees the lock before its process ends."""
    owner = process(OWNER, journal)
    assert owner.line() == "True"
    owner.proceed()
    assert owner.line() == "released"
    lock = OwnerLock(journal)
    assert lock.holder() is None
    assert lock.acquire({})
    lock.release()


def test_killed_owner_frees_the_lock_at_once(journal: str, process: Callable) -> None:
    """There is no lease to wait for, and what is left in the file is only information."""
    owner = process(OWNER, journal)
    assert owner.line() == "True"
    owner.kill()
    lock = OwnerLock(journal)
    assert lock.holder() == {"pid": owner.pid, "command": "the owner", "since": 7}
    assert lock.acquire({})
    assert lock.holder() == {"pid": os.getpid()}
    lock.release()


def test_forked_child_does_not_keep_the_lock_of_a_killed_owner(
    journal: str, process: Callable
) -> None:
    """An orphan that lives on does not stand in the way of the next owner."""
    program = """
        import os, sys, time
        from durable._journal.lock import OwnerLock
        lock = OwnerLock(sys.argv[1])
        assert lock.acquire({})
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            time.sleep(60)
            os._exit(0)
        input()
    """
    owner = process(program, journal)
    child = int(owner.line())
    try:
        owner.kill()
        os.kill(child, 0)  # alive
        lock = OwnerLock(journal)
        assert lock.acquire({})
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_only_one_of_many_racing_processes_becomes_owner(journal: str, process: Callable) -> None:
    """Whoever comes first, exactly one gets it."""
    racers = [process(OWNER, journal) for _ in range(4)]
    assert sorted(racer.line() for racer in racers) == ["False", "False", "False", "True"]


# --- one process --------------------------------------------------------------------


def test_second_lock_in_the_same_process_is_refused_by_name(journal: str) -> None:
    """Not False as for another process: there is nobody else to wait for."""
    lock = OwnerLock(journal)
    assert lock.acquire({})
    for other in (lock, OwnerLock(journal), OwnerLock(f"file:{journal}?vfs=unix")):
        with pytest.raises(JournalLockedError, match="open already in this process") as caught:
            other.acquire({})
        assert caught.value.pid == os.getpid()
    lock.release()


@pytest.mark.parametrize("how", ["symlink", "relative", "hardlink of the lock"])
def test_other_names_of_the_same_journal_are_recognised(
    how: str, journal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock file is known by its inode, whatever the path to it is."""
    lock = OwnerLock(journal)
    assert lock.acquire({})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    os.link(lock.path, tmp_path / "hard.db.lock")
    other = {"symlink": "link/app.db", "relative": "./app.db"}.get(how, "hard.db")
    with pytest.raises(JournalLockedError, match="opened as"):
        OwnerLock(other).acquire({})
    lock.release()


def test_only_one_of_many_racing_threads_becomes_owner(journal: str) -> None:
    """The others are told that it is this process."""
    barrier = threading.Barrier(8)
    locks = [OwnerLock(journal) for _ in range(8)]
    refused: list[int | None] = []

    def race(lock: OwnerLock) -> None:
        barrier.wait()
        try:
            lock.acquire({})
        except JournalLockedError as error:
            refused.append(error.pid)

    threads = [threading.Thread(target=race, args=[lock]) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lock.held for lock in locks].count(True) == 1
    assert refused == [os.getpid()] * 7
    for lock in locks:
        lock.release()


def test_lock_can_be_released_and_taken_again(journal: str) -> None:
    """Releasing twice, or without holding it, does nothing."""
    lock = OwnerLock(journal)
    lock.release()
    for _ in range(3):
        assert lock.acquire({"command": "x"})
        assert lock.held
        assert lock.intact()
        lock.release()
        lock.release()
        assert not lock.held
        assert not lock.intact()
    assert lock.holder() is None


def test_lock_works_before_the_journal_exists_and_leaves_only_its_file(
    journal: str, tmp_path: Path
) -> None:
    """The lock file is private, close-on-exec, and never deleted."""
    lock = OwnerLock(journal)
    assert lock.acquire({})
    assert os.listdir(tmp_path) == ["app.db.lock"]
    assert stat.S_IMODE(os.stat(lock.path).st_mode) == 0o600
    lock.release()
    assert os.listdir(tmp_path) == ["app.db.lock"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_lock_file_is_private_under_any_umask(umask: int, journal: str) -> None:
    """Also one that lay there with a wider mode before."""
    before = os.umask(umask)
    try:
        Path(journal + ".lock").touch(0o666)
        lock = OwnerLock(journal)
        assert lock.acquire({})
        assert stat.S_IMODE(os.stat(lock.path).st_mode) == 0o600
        lock.release()
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"{", b"[1]", b'{"pid": "x", "socket": 1}', b"[" * 60000, b"\xff\xfe\n{}"],
    ids=["empty", "zeros", "cut", "list", "wrong types", "deep", "no text"],
)
def test_garbage_in_the_lock_file_stops_nobody(content: bytes, journal: str) -> None:
    """It is information only."""
    Path(journal + ".lock").write_bytes(content)
    lock = OwnerLock(journal)
    assert lock.holder() is None
    assert str(lock.locked_error())
    assert lock.acquire({"socket": "s"})
    assert lock.holder() == {"pid": os.getpid(), "socket": "s"}
    lock.release()


def test_published_information_is_added_and_bounded(journal: str) -> None:
    """The socket is known only after the lock is held."""
    lock = OwnerLock(journal)
    assert lock.acquire({"command": "c" * 100_000})
    lock.publish({"socket": "/tmp/ä.sock"})
    holder = lock.holder()
    assert holder is not None
    assert holder["socket"] == "/tmp/ä.sock"
    assert len(holder["command"]) < 1000
    assert len(Path(lock.path).read_bytes().splitlines()) == 1
    lock.release()
    with pytest.raises(JournalError, match="not held"):
        lock.publish({})


def test_half_written_information_reads_as_the_newer_line(journal: str) -> None:
    """A writer that was stopped between writing and cutting leaves the rest behind a newline."""
    new = json.dumps({"pid": 1}).encode() + b"\n"
    Path(journal + ".lock").write_bytes(new + b'"command": "the old one"}\n')
    assert OwnerLock(journal).holder() == {"pid": 1}


def test_deleted_or_replaced_lock_file_is_noticed(journal: str) -> None:
    """The holder can see that another process could become owner too."""
    lock = OwnerLock(journal)
    assert lock.acquire({})
    os.unlink(lock.path)
    assert not lock.intact()
    assert lock.held
    Path(lock.path).touch()
    assert not lock.intact()
    lock.release()


def test_lock_on_a_file_replaced_while_locking_is_not_taken(journal: str) -> None:
    """What counts is the file that the path names after the lock was taken."""

    class Replacing(OwnerLock):
        opened = 0

        def _open(self) -> int:
            descriptor = super()._open()
            self.opened += 1
            if self.opened <= 3:
                os.unlink(self.path)  # as by somebody who tidies up
            return descriptor

    lock = Replacing(journal)
    assert lock.acquire({})
    assert lock.opened == 4
    assert lock.intact()
    lock.release()

    lock.opened = -1000
    with pytest.raises(JournalError, match="was replaced 100 times"):
        lock.acquire({})
    assert not lock.held


@pytest.mark.parametrize("obstacle", ["directory", "symlink", "fifo", "no parent"])
def test_unusable_lock_file_is_named(obstacle: str, journal: str, tmp_path: Path) -> None:
    """Nothing is followed, replaced or waited for."""
    path = Path(journal + ".lock")
    match obstacle:
        case "directory":
            path.mkdir()
        case "symlink":
            path.symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(path)
        case _:
            journal = str(tmp_path / "none" / "app.db")
    lock = OwnerLock(journal)
    with pytest.raises(JournalError, match=r"the lock file .*app\.db\.lock"):
        lock.acquire({})
    assert lock.holder() is None


def test_closing_another_descriptor_of_the_lock_file_keeps_the_lock(
    journal: str, process: Callable
) -> None:
    """Unlike POSIX locks: reading or copying the file in this process is harmless."""
    lock = OwnerLock(journal)
    assert lock.acquire({})
    Path(lock.path).read_bytes()
    assert process(OWNER, journal).line() == "False"
    lock.release()


# --- fork ---------------------------------------------------------------------------


def in_child(act: Callable[[], str]) -> str:
    """What `act` returns in a forked child of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = "nothing"
        try:
            text = act()
        except BaseException as error:
            text = repr(error)
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as result:
        return result.read()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_holds_nothing_and_releases_nothing(journal: str) -> None:
    """The lock stays with the parent, whatever the child does with the object."""
    lock = OwnerLock(journal)
    assert lock.acquire({})

    def child() -> str:
        before = (lock.held, lock.forked, lock.intact())
        lock.release()
        try:
            lock.acquire({})
        except ForkedJournalError:
            return f"{before} refused {OwnerLock(journal).acquire({})}"
        return f"{before} acquired"

    assert in_child(child) == "(False, True, False) refused False"
    assert lock.intact()
    assert lock.holder() == {"pid": os.getpid()}
    lock.release()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_may_own_another_journal_and_keeps_foreign_descriptors(
    journal: str, tmp_path: Path
) -> None:
    """Only what was guarded is taken from it."""
    lock = OwnerLock(journal)
    assert lock.acquire({})
    note = tmp_path / "note"
    with note.open("w") as file:

        def child() -> str:
            file.write("hello")
            file.flush()
            other = OwnerLock(str(tmp_path / "other.db"))
            return f"{other.acquire({})} {other.intact()}"

        assert in_child(child) == "True True"
    assert note.read_text() == "hello"
    lock.release()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_number_reused_after_the_lock_was_closed_is_left_alone_in_a_child(
    journal: str, tmp_path: Path
) -> None:
    """A descriptor is diverted only while it is still the file that was guarded."""
    from durable._journal import forkguard

    reading, writing = os.pipe()
    forkguard.guard(writing)
    os.close(writing)  # without a word to the guard
    file = os.open(tmp_path / "note", os.O_RDWR | os.O_CREAT)
    assert file == writing
    assert in_child(lambda: str(os.write(file, b"kept"))) == "4"
    assert (tmp_path / "note").read_bytes() == b"kept"
    os.close(file)
    os.close(reading)
    forkguard.unguard(file)
