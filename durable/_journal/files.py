"""The files of a journal: the database, its -wal and -shm, and the reserve.

Owns names, permissions (0600 whatever the umask), identity (has somebody replaced or
deleted a file that we hold open?) and the reserve, a file of 1 MB that is deleted when
the disk is full, because even deleting rows and checkpointing need space then.

Existing database files are never opened here: closing any descriptor of such a file
would drop SQLite's POSIX locks of the whole process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from durable._journal.faults import FileReplacedError
from durable.errors import JournalError

RESERVE_BYTES = 1 << 20
# The reserve is only taken from a disk that has this much left afterwards.
_RESERVE_MARGIN = 8 << 20
_PIECE = 1 << 20

Identity = tuple[int, int]


class JournalFiles:
    """Where a journal lies.

    Args:
        location: a path, or a `file:` URI whose query (such as ``vfs=``) is kept.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        text = os.fspath(location)
        query: list[tuple[str, str]] = []
        if text.startswith("file:"):
            parts = urlsplit(text)
            text = unquote(parts.path)
            query = [pair for pair in parse_qsl(parts.query) if pair[0] != "mode"]
        if not text or text == ":memory:":
            raise JournalError(f"{location!r} names no file: a journal must lie in a file")
        self.path = os.path.realpath(text)
        self.wal = self.path + "-wal"
        self.shm = self.path + "-shm"
        self.reserve = self.path + ".reserve"
        self._query = query
        self.still_owned: Callable[[], bool] | None = None
        self._opened: tuple[Identity | None, Identity | None] = (None, None)

    def uri(self, mode: str) -> str:
        """Return the URI that opens the database; `mode` is ``"rw"`` or ``"ro"``."""
        return f"file:{quote(os.fsencode(self.path))}?{urlencode([*self._query, ('mode', mode)])}"

    def create(self) -> bool:
        """Make sure that the file exists with mode 0600; return True when it is new.

        Raises:
            JournalError: the directory is missing or may not be written.
        """
        try:
            return self._create()
        except OSError as error:
            raise JournalError(
                f"the journal {self.path} cannot be opened by user {os.getuid()}: "
                f"{error.strerror}. Give that user write access to the file and its directory, "
                "or choose another path"
            ) from error

    def _create(self) -> bool:
        try:
            descriptor = os.open(
                self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
        except FileExistsError:
            self._check_existing()
            return False
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        sync_directory(self.path)
        return True

    def _check_existing(self) -> None:
        if os.path.isdir(self.path):
            raise IsADirectoryError(0, "it is a directory")
        for path in (self.path, self.wal, self.shm):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_mode & 0o777 != 0o600:
                    os.chmod(path, 0o600)
        for path in (self.path, os.path.dirname(self.path)):
            if not os.access(path, os.R_OK | os.W_OK):
                raise PermissionError(0, f"no write access to {path}")

    def remember(self) -> None:
        """Take the files as they are now for the ones that we hold open."""
        self._opened = (_identity(self.path), _identity(self.wal))

    def check_owner(self) -> None:
        """Raise `FileReplacedError` when the right to write to the database is gone."""
        if self.still_owned is not None and not self.still_owned():
            raise FileReplacedError(
                0,
                "its lock file was deleted or replaced while it was open, so another process may "
                "own it by now: close the Runtime and open it again",
            )

    def check_database(self) -> None:
        """Raise `FileReplacedError` when the database is gone."""
        if _identity(self.path) != self._opened[0]:
            raise FileReplacedError(
                0,
                "the file was deleted or replaced while it was open; put the original back, "
                "or close the Runtime and open it again",
            )

    def wal_moved(self) -> bool:
        """Tell whether the -wal file is not the opened one."""
        return _identity(self.wal) != self._opened[1]

    def sync_wal(self) -> None:
        """Force the present length and content of the -wal file to disk."""
        try:
            # Safe, unlike for the database: SQLite keeps no POSIX locks on the -wal.
            descriptor = os.open(self.wal, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        sync_and_close(descriptor)

    def rewrite_wal(self) -> None:
        """Write every byte of the -wal file once more, as it reads, and force it to disk.

        A kernel whose sync has failed takes what it could not write for written: reads show
        it, later syncs skip it, and a power cut drops it. Only writing it again helps, and
        only before SQLite builds on it.
        """
        try:
            file = open(self.wal, "r+b", buffering=0)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return
        with file:
            at = 0
            while piece := os.pread(file.fileno(), _PIECE, at):
                at += os.pwrite(file.fileno(), piece, at)
            if at:
                os.fsync(file.fileno())

    def take_reserve(self) -> bool:
        """Create the reserve; return False when there is too little space for it."""
        if os.path.exists(self.reserve):
            return True
        try:
            return self._allocate_reserve()
        except OSError:
            self.free_reserve()
            return False

    def _allocate_reserve(self) -> bool:
        space = os.statvfs(os.path.dirname(self.path))
        if space.f_bavail * space.f_frsize < RESERVE_BYTES + _RESERVE_MARGIN:
            return False
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        descriptor = os.open(self.reserve, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            else:
                os.write(descriptor, bytes(RESERVE_BYTES))
        finally:
            os.close(descriptor)
        return True

    def free_reserve(self) -> None:
        """Delete the reserve, so that its space can be used."""
        with contextlib.suppress(OSError):
            os.unlink(self.reserve)


def sync_and_close(descriptor: int) -> None:
    """Flush a file to disk and close it."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make the directory entry of `path` durable (not possible on every system)."""
    with contextlib.suppress(OSError):
        sync_and_close(os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC))


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def write_whole(path: str | os.PathLike[str], data: bytes, *, overwrite: bool) -> None:
    """Write a file of mode 0600 that is there whole, and durable, or not at all.

    Raises:
        FileExistsError: there is one already, and `overwrite` is False.
        OSError: it cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    draft, descriptor = new_draft(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(draft, path, overwrite=overwrite)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def refuse_existing(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise a FileExistsError if `path` is taken and may not be overwritten."""
    if os.path.lexists(path) and not (overwrite and os.path.isfile(path)):
        raise FileExistsError(
            errno.EEXIST, "it exists already: choose another path, or give overwrite=True",
            os.fspath(path),
        )  # fmt: skip


def new_draft(path: str | os.PathLike[str]) -> tuple[str, int]:
    """Return the name and descriptor of a new file, of mode 0600, beside `path`."""
    draft = f"{os.fspath(path)}.{secrets.token_hex(4)}.part"
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    return draft, descriptor


def put_in_place(draft: str, path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Give a finished draft its name, durably."""
    if overwrite:
        os.replace(draft, path)
    else:
        try:
            os.link(draft, path)  # unlike a rename, it refuses a name that is taken meanwhile
            os.unlink(draft)
        except FileExistsError:
            raise
        except OSError:  # a filesystem without links
            refuse_existing(path, overwrite=False)
            os.rename(draft, path)
    sync_directory(os.path.abspath(path))
