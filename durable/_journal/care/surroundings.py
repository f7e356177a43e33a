"""What lies around a journal: its other files, their modes, its owner, the disk.

Owns the looks that `durable doctor` takes beside the database. All of them read names and
attributes of files only; the lock is never touched, not even for a moment, because an
owner that is just opening would find it taken. Who holds it is read from the kernel's list
of locks where there is one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from durable._journal.files import JournalFiles
from durable._journal.filesystem import mount_of, parse_mountinfo, unsafe_reason
from durable._journal.lock import OwnerInfo, OwnerLock

_OWN_SUFFIXES = ("", "-wal", "-shm", ".lock", ".reserve", ".running", ".sock", ".mark", ".repair")
_LEFTOVER = re.compile(
    r"(?P<backup>\.bak-v\d+)|(?P<draft>\..*\.part|\.[0-9a-f]{8}\.part)|(?P<repair>\.repaired-.+)"
    r"|(?P<journal>\.replaced-.+)"
)
_PRIVATE = 0o600


class Owner(NamedTuple):
    """Who has a journal open. `alive` is None where that cannot be told."""

    alive: bool | None
    info: OwnerInfo


class Leftover(NamedTuple):
    """What lies beside a journal and nobody needs: a "backup", "draft", "repair" or "journal"."""

    kind: str
    path: str
    bytes: int


def owner_of(files: JournalFiles) -> Owner:
    """Return who owns the journal, or was the last one to."""
    lock = OwnerLock(files.path)
    info = lock.holder() or OwnerInfo()
    held = _is_locked(lock.path, info.get("pid", 0))
    if held is None and "pid" in info:
        held = _is_alive(info["pid"])
    return Owner(held if held is not None else (None if "pid" in info else False), info)


def _is_locked(path: str, pid: int) -> bool | None:
    """Tell whether any process that can be seen from here holds the lock; None: unknown."""
    try:
        status = os.stat(path)
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None if os.path.exists(path) else False
    except OSError:
        return None
    inode = f":{status.st_ino}"
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}{inode}"
    words = [line.split() for line in lines if " FLOCK " in line]
    # Some filesystems show another device here; then the process has to be the right one.
    return any(
        device in line or (str(pid) in line and any(word.endswith(inode) for word in line))
        for line in words
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def modes(files: JournalFiles) -> Iterator[str]:
    """Yield what is wrong with who may read and write the files and their folder."""
    for suffix in _OWN_SUFFIXES:
        path = files.path + suffix
        with suppress(FileNotFoundError):
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                yield f"{path} is a symbolic link"
            elif stat.S_IMODE(status.st_mode) & ~_PRIVATE and not stat.S_ISDIR(status.st_mode):
                yield f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: chmod 600 it"
            elif status.st_uid != os.stat(files.path).st_uid:
                yield f"{path} belongs to user {status.st_uid}, and the journal to another one"
    folder = os.stat(os.path.dirname(files.path))
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        yield f"everybody may write to the folder {os.path.dirname(files.path)}: chmod o-w it"
    if not os.access(os.path.dirname(files.path), os.W_OK):
        yield f"the folder {os.path.dirname(files.path)} cannot be written by user {os.geteuid()}"


def filesystem_of(files: JournalFiles) -> tuple[str, str | None]:
    """Return the kind of filesystem, "unknown" if it cannot be told, and why it is unsafe."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            mount = mount_of(files.path, parse_mountinfo(table.read()))
    except OSError:
        mount = None
    return ("unknown", None) if mount is None else (mount.kind, unsafe_reason(mount.kind))


def free_bytes(files: JournalFiles) -> int:
    """Return how much space the journal's disk has left for us."""
    space = os.statvfs(os.path.dirname(files.path))
    return space.f_bavail * space.f_frsize


def size_of(path: str) -> int:
    """Return the size of a file, 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def leftovers(files: JournalFiles) -> Iterator[Leftover]:
    """Yield what earlier backups, migrations, repairs and restores have left beside the journal."""
    folder, name = os.path.split(files.path)
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        rest = entry.name.removeprefix(name)
        is_ours = rest != entry.name
        draft = re.search(r"\.[0-9a-f]{8}\.part$", entry.name)
        match = _LEFTOVER.fullmatch(rest) if is_ours else None
        if match is not None or draft is not None:
            kind = "draft" if match is None else str(match.lastgroup)
            yield Leftover(kind, entry.path, size_of(entry.path))
