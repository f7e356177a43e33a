"""Unix sockets for the control connection: where they lie and who may use them.

Owns the place of the socket file, its creation with mode 0600, its removal, and the
check that the process at the other end runs as the same user.

Invariants: a socket file is only ever removed by the holder of the owner lock (a stale
one of a dead owner) or by the one who made it, recognised by its inode; nothing that is
not a socket is removed. Both ends are kept out of forked children. Nothing here waits.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import stat
import struct
from contextlib import suppress

from durable._journal import forkguard
from durable._journal.filesystem import journal_file
from durable.errors import JournalError

PATH_BYTES_MAX = 100  # the kernel's limit is 104 on macOS, 108 on Linux, with the final NUL
_BACKLOG = 128
_UCRED = struct.Struct("iII")  # pid, uid, gid


def socket_path_of(journal_path: str) -> str:
    """Where the control socket of a journal is expected: beside it, as ``<journal>.sock``."""
    return journal_file(journal_path) + ".sock"


def listen(path: str) -> tuple[socket.socket, str]:
    """A listening, non-blocking socket at `path`, or elsewhere if it cannot be there.

    The second place, for paths that are too long and filesystems without sockets, is a
    directory of mode 0700 below the temporary one. Only the holder of the owner lock
    may call this: a socket file found in the way is removed.

    Raises:
        JournalError: no socket can be made in either place.
    """
    try:
        return _listen(path), path
    except OSError as error:
        first = error
    try:
        elsewhere = _elsewhere(path)
        return _listen(elsewhere), elsewhere
    except OSError as error:
        raise JournalError(
            f"no control socket can be made at {path} ({first}), nor in the temporary directory "
            f"({error}): give one of them room and permissions, or set TMPDIR"
        ) from error


def connect(path: str) -> socket.socket:
    """A non-blocking socket connected to whoever listens at `path`.

    Raises:
        OSError: nobody listens, or the listener belongs to another user.
    """
    peer = _guarded_socket()
    try:
        peer.connect(path)  # on unix sockets at once, or an error: the kernel answers
        if not may_answer(peer):
            raise PermissionError(errno.EPERM, "the listener belongs to another user", path)
    except BaseException:
        close(peer)
        raise
    return peer


def may_ask(peer: socket.socket) -> bool:
    """Whether an owner hears the process at the other end: of the same user, or root's."""
    return _uid(peer) in {os.geteuid(), 0}


def may_answer(peer: socket.socket) -> bool:
    """Whether a client believes the listener: as `may_ask`, but root may work with any."""
    return os.geteuid() == 0 or may_ask(peer)


def _uid(peer: socket.socket) -> int:
    credentials = getattr(socket, "SO_PEERCRED", None)
    if credentials is None:  # macOS, where the mode of the socket file has to do
        return os.geteuid()
    packed = peer.getsockopt(socket.SOL_SOCKET, credentials, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(packed)
    return int(uid)


def accept(listener: socket.socket) -> socket.socket:
    """The next waiting connection, non-blocking and kept out of forked children.

    Raises:
        OSError: there is none (`BlockingIOError`), or it cannot be had.
    """
    with forkguard.forking:
        peer, _address = listener.accept()
        forkguard.guard(peer.fileno())
    peer.setblocking(False)
    return peer


def abort(peer: socket.socket, writer: asyncio.StreamWriter) -> None:
    """Close a connection at once through the asyncio transport that has taken `peer` over."""
    # The object may be closed already, and then knows its number no more; the fork guard
    # recognises an outdated number by itself.
    if peer.fileno() >= 0:
        forkguard.unguard(peer.fileno())
    writer.transport.abort()


async def note_break(writer: asyncio.StreamWriter) -> None:
    """Close a connection that broke, and take note of its error; asyncio reports it else."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


def close(peer: socket.socket) -> None:
    """Close a socket and forget that it was guarded against forks."""
    if peer.fileno() >= 0:
        forkguard.unguard(peer.fileno())
    peer.close()


def inode(path: str) -> tuple[int, int] | None:
    """What the name stands for now, or None when there is no such name."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def remove(path: str, made: tuple[int, int] | None) -> None:
    """Remove the socket file if it is still the one that was `made`."""
    if made is not None and inode(path) == made:
        with suppress(OSError):
            os.unlink(path)


def _guarded_socket() -> socket.socket:
    with forkguard.forking:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        forkguard.guard(peer.fileno())
    peer.setblocking(False)
    return peer


def _listen(path: str) -> socket.socket:
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, "the path is too long for a socket", path)
    _remove_stale(path)
    listener = _guarded_socket()
    try:
        listener.bind(path)
        # Nobody can connect before `listen`, so there is no moment of a wider mode; umask
        # would do it in one call, but for all threads of the process.
        os.chmod(path, 0o600)
        listener.listen(_BACKLOG)
    except BaseException:
        close(listener)
        raise
    return listener


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file in the way that is not a socket", path)
    os.unlink(path)


def _elsewhere(path: str) -> str:
    import tempfile  # which is not free, and most paths are short enough

    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16] + ".sock"
    found = os.path.join(_private_directory(tempfile.gettempdir()), name)
    if len(os.fsencode(found)) > PATH_BYTES_MAX:
        found = os.path.join(_private_directory("/tmp"), name)  # noqa: S108 - made private below
    return found


def _private_directory(parent: str) -> str:
    """A directory that only this user can enter; the same each time, so nothing piles up."""
    directory = os.path.join(parent, f"durable-{os.geteuid()}")
    with suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    status = os.lstat(directory)
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if private and status.st_uid == os.geteuid():
        return directory
    import tempfile

    # Somebody else made it, perhaps to listen in our place.
    return tempfile.mkdtemp(prefix="durable-", dir=parent)
