"""The owner lock: at most one process executes from a journal, for as long as it lives.

Owns the file ``<journal>.lock`` and the process-wide record of the locks held here. The
lock is an `flock` on that file, so the kernel frees it at the instant the owner dies:
no lease, no time-out, nothing to clean up. It is a file of its own because SQLite's
POSIX locks vanish as soon as anything in the process closes a descriptor of the database.

Invariants: the lock file is never deleted, by anyone of us. A waiting process may hold
it open already; deleting the name would let the next one lock a new file of that name
while the first locks the nameless old one: two owners. What is written in it is
information for people and clients, never the lock itself, and outlives a killed owner.
Children made by fork do not inherit the lock.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TypedDict

from durable._journal import forkguard
from durable._journal.filesystem import journal_file
from durable.errors import (
    ForkedJournalError,
    JournalError,
    JournalLockedError,
    UnsafeFilesystemError,
)

_log = logging.getLogger("durable")

_ATTEMPTS = 100  # of locking a file that somebody replaces each time; then give up
_INFO_BYTES_MAX = 64 * 1024
_COMMAND_CHARS_MAX = 300
_NO_FLOCK = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


class OwnerInfo(TypedDict, total=False):
    """What an owner tells about itself in the lock file.

    `pid` is filled in by `OwnerLock`; `socket` is where its control server listens,
    `since` when it took the lock (UTC microseconds), `command` how it was started, `ended`
    that it went down on request, without the time to close the journal.
    """

    pid: int
    socket: str
    since: int
    command: str
    ended: str


_TYPES: dict[str, type] = {
    "pid": int, "socket": str, "since": int, "command": str, "ended": str,
}  # fmt: skip

# (st_dev, st_ino) of a lock file -> who locked it. An entry inherited through fork counts
# for nothing in the child.
_held_here: dict[tuple[int, int], OwnerLock] = {}


def _in_use() -> bool:
    return False


class OwnerLock:
    """The lock on one journal; held from `acquire` to `release` or the process's end.

    Args:
        journal_path: a canonical journal path or URI. The journal need not exist.
        let_go: called when this process wants the lock once more. True: the holder could
            not be used any more, and has released it. Default: it is in use.

    Example:
        >>> lock = OwnerLock("/tmp/app.db")
        >>> if lock.acquire({"command": "python app.py"}):
        ...     lock.release()
    """

    def __init__(self, journal_path: str, let_go: Callable[[], bool] = _in_use) -> None:
        self.journal_path = journal_path
        self.path = journal_file(journal_path) + ".lock"
        self._let_go = let_go
        self._descriptor: int | None = None
        self._pid = os.getpid()
        self._info: OwnerInfo = {}
        self.previous: OwnerInfo = {}  # what the owner before us wrote

    @property
    def held(self) -> bool:
        """Whether this process holds the lock through this object."""
        return self._descriptor is not None and not self.forked

    @property
    def forked(self) -> bool:
        """Whether this object came through a fork from the process that made it."""
        return self._pid != os.getpid()

    def acquire(self, info: OwnerInfo) -> bool:
        """Take the lock without waiting; False when another process holds it.

        Raises:
            JournalLockedError: this process holds it already, through another object.
            ForkedJournalError: this object was made before a fork.
            UnsafeFilesystemError: the filesystem does not know `flock`.
            JournalError: the lock file cannot be opened.
        """
        if self.forked:
            raise ForkedJournalError(
                f"the journal {self.journal_path} was opened by process {self._pid} before a "
                "fork: open a Runtime of its own in the child"
            )
        if self.held:
            raise self._held_error(self.journal_path)
        # Under the fork lock as a whole: no child inherits a lock that is not guarded yet,
        # and two threads of this process see each other instead of "another process".
        with forkguard.forking:
            return self._acquire(info)

    def publish(self, info: OwnerInfo) -> None:
        """Change what the lock file tells, such as the socket once the server listens."""
        if self._descriptor is None or self.forked:
            raise JournalError(f"the lock file {self.path} is not held by this object")
        self._info.update(info)
        try:
            _write_info(self._descriptor, self._info)
        except OSError as error:  # the lock is what counts; a full disk must not stop us
            _log.warning("the lock file %s could not be written: %s", self.path, error)

    def holder(self) -> OwnerInfo | None:
        """What the last owner wrote, without touching the lock; None when unreadable.

        An owner that was killed leaves its entry behind, so this answers "who?" once
        `acquire` has returned False, and never "is there one?".
        """
        try:
            descriptor = os.open(
                self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError:
            return None
        try:
            return _parse_info(os.pread(descriptor, _INFO_BYTES_MAX, 0))
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def intact(self) -> bool:
        """Whether the lock is held and its path still names the locked file.

        False after somebody deleted or replaced the lock file: another process can then
        become owner too, so the holder must stop writing at once. Costs two `stat` calls.
        """
        return self._descriptor is not None and not self.forked and self._names(self._descriptor)

    def locked_error(self) -> JournalLockedError:
        """The error for those who need the lock while another process has it."""
        holder = self.holder() or {}
        command = holder.get("command")
        if "pid" not in holder or command is None:
            return JournalLockedError(self.journal_path, holder.get("pid"))
        return JournalLockedError(
            self.journal_path,
            holder["pid"],
            f"the journal {self.journal_path} is owned by process {holder['pid']} ({command}): "
            "stop it, or open with client=True to work through it",
        )

    def unreachable_error(self) -> JournalLockedError:
        """The error for those who cannot work through the owner either."""
        holder = self.holder() or {}
        pid, command = holder.get("pid"), holder.get("command", "unknown command")
        return JournalLockedError(
            self.journal_path,
            pid,
            f"the journal {self.journal_path} is owned by process {pid} ({command}), which does "
            "not listen for clients: it may have ended its event loop without closing its "
            "Runtime; close that Runtime, or stop the process",
        )

    def release(self, *, forget: bool = True) -> None:
        """Give the lock up; nothing happens when it is not held, or after a fork.

        With `forget` False what was published stays, for the next owner to read.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or self.forked:
            return
        if forget:
            with suppress(OSError):  # the entry of an owner that is gone on purpose
                os.ftruncate(descriptor, 0)
        with forkguard.forking:
            _held_here.pop(_identity(descriptor), None)
            # Unlocked by name and not only by closing: a child forked by foreign code
            # (without Python's fork hooks) would keep the open file, and the lock with it.
            _flock_module().flock(descriptor, _flock_module().LOCK_UN)
            _close(descriptor)

    def _acquire(self, info: OwnerInfo) -> bool:
        for _ in range(_ATTEMPTS):
            descriptor = self._open()
            try:
                locked = self._lock(descriptor)
            except BaseException:
                _close(descriptor)
                raise
            if locked and self._names(descriptor):
                self._keep(descriptor, info)
                return True
            _close(descriptor)
            if not locked:
                return False
        raise JournalError(
            f"the lock file {self.path} was replaced {_ATTEMPTS} times while it was being "
            "locked: find the program that does it and stop it"
        )

    def _open(self) -> int:
        try:
            descriptor = forkguard.open_guarded(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except OSError as error:
            raise self._open_error(error) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            _close(descriptor)
            raise JournalError(f"the lock file {self.path} is not a regular file: remove it")
        if stat.S_IMODE(status.st_mode) != 0o600:
            with suppress(OSError):  # not ours, or a filesystem without modes
                os.fchmod(descriptor, 0o600)
        return descriptor

    def _open_error(self, error: OSError) -> JournalError:
        cure = {
            errno.EACCES: f"make the directory and the file writable for user {os.geteuid()}",
            errno.EPERM: f"make the directory and the file writable for user {os.geteuid()}",
            errno.EROFS: "the filesystem is read-only: a journal must be writable",
            errno.ELOOP: "it is a symbolic link: remove it",
            errno.ENOENT: "create its directory first",
            errno.EISDIR: "it is a directory: remove it, or name another journal",
        }.get(error.errno or 0, "see the cause")
        return JournalError(
            f"the lock file {self.path} cannot be opened ({error.strerror}): {cure}"
        )

    def _lock(self, descriptor: int) -> bool:
        holder = _held_here.get(_identity(descriptor))
        if holder is not None and not holder.forked and not holder._let_go():
            raise self._held_error(holder.journal_path)
        flock = _flock_module()
        try:
            flock.flock(descriptor, flock.LOCK_EX | flock.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._flock_error(error) from error
        return True

    def _held_error(self, path: str) -> JournalLockedError:
        known_as = "" if path == self.journal_path else f" (opened as {path})"
        return JournalLockedError(
            self.journal_path,
            os.getpid(),
            f"the journal {self.journal_path} is open already in this process {os.getpid()}"
            f"{known_as}: use that Runtime, or close it (or its event loop) first",
        )

    def _flock_error(self, error: OSError) -> JournalError:
        if error.errno in _NO_FLOCK:
            return UnsafeFilesystemError(
                f"the filesystem of {self.path} does not support flock ({error.strerror}): put "
                "the journal on a local disk"
            )
        return JournalError(f"the lock file {self.path} cannot be locked ({error.strerror})")

    def _names(self, descriptor: int) -> bool:
        try:
            status = os.lstat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == _identity(descriptor)

    def _keep(self, descriptor: int, info: OwnerInfo) -> None:
        _held_here[_identity(descriptor)] = self
        self._descriptor = descriptor
        self.previous = _parse_info(os.pread(descriptor, _INFO_BYTES_MAX, 0)) or {}
        self._info = {"pid": os.getpid()}
        self.publish(info)


def _flock_module() -> ModuleType:
    # Imported late, so that `import durable` works (and steps run as plain functions) where
    # there is no flock.
    try:
        import fcntl
    except ImportError as error:
        raise JournalError(
            f"this platform ({sys.platform}) has no flock, which the owner of a journal needs: "
            "Linux and macOS are supported, on Windows use WSL"
        ) from error
    return fcntl


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _close(descriptor: int) -> None:
    forkguard.unguard(descriptor)
    os.close(descriptor)


def _write_info(descriptor: int, info: OwnerInfo) -> None:
    short = OwnerInfo(**info)
    if "command" in short:
        short["command"] = short["command"][:_COMMAND_CHARS_MAX]
    line = json.dumps(short).encode("ascii") + b"\n"
    # Write first, cut after: a reader meets the old line or the new one, never none.
    os.pwrite(descriptor, line, 0)
    os.ftruncate(descriptor, len(line))


def _parse_info(content: bytes) -> OwnerInfo | None:
    try:
        fields = json.loads(content.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    known = OwnerInfo()
    for name, kind in _TYPES.items():
        value = fields.get(name)
        if isinstance(value, kind) and not isinstance(value, bool):
            known[name] = value  # type: ignore[literal-required]
    return known or None
