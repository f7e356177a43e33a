"""Where a journal may lie: one canonical name per file, on a filesystem that is safe.

Owns the spelling of journal paths (`canonical_journal_path`, `journal_file`) and the
refusal of filesystems (`check_filesystem`) on which SQLite's WAL or `flock` does not
hold. WAL needs memory shared by all processes that open the file, the owner lock needs
an `flock` that all of them see; network and host-shared filesystems give neither, and
the damage shows only later. So they are refused before anything is created.

The mount table is read, never the file itself. Where there is none (macOS) every path is
accepted. This module opens and locks nothing.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote

from durable.errors import JournalError, UnsafeFilesystemError

_log = logging.getLogger("durable")

_MOUNTINFO = "/proc/self/mountinfo"
_NETWORK = "it is a network filesystem: locks and shared memory do not reach across machines"
_HOST_SHARE = (
    "it is shared with the host of this virtual machine, whose programs see neither the "
    "locks nor the shared memory of this side"
)
_CLUSTER = "it is a cluster filesystem: SQLite's shared memory does not reach across machines"
_OBJECTS = "it maps files onto an object store or a remote service"
_FUSE = "it is a FUSE filesystem of unknown kind, which need not support locks and shared memory"

_UNSAFE = {
    **dict.fromkeys(
        ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "davfs"), _NETWORK
    ),
    **dict.fromkeys(("fuse.sshfs", "fuse.davfs2", "fuse.smbnetfs", "fuse.curlftpfs"), _NETWORK),
    **dict.fromkeys(("9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "drvfs"), _HOST_SHARE),
    **dict.fromkeys(("fakeowner", "osxfs", "grpcfuse", "fuse.vmhgfs-fuse"), _HOST_SHARE),
    **dict.fromkeys(("fuse.grpcfuse", "fuse.osxfs", "fuse.portal"), _HOST_SHARE),
    **dict.fromkeys(
        ("ceph", "lustre", "gpfs", "beegfs", "gfs2", "ocfs2", "orangefs", "pvfs2"), _CLUSTER
    ),
    **dict.fromkeys(("fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.mfs"), _CLUSTER),
    **dict.fromkeys(("fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.juicefs"), _OBJECTS),
}
_LOCAL_FUSE = frozenset(
    {
        "fuseblk",  # a local disk through ntfs-3g or exfat-fuse
        "fuse.exfat",
        "fuse.fuse-overlayfs",  # the root of rootless containers
        "fuse.gocryptfs",
        "fuse.encfs",
        "fuse.cryfs",
        "fuse.zfs",
    }
)


class Mount(NamedTuple):
    """One line of the mount table."""

    ident: int
    parent: int
    point: str
    kind: str
    source: str


# --- names --------------------------------------------------------------------------


def canonical_journal_path(path: str | os.PathLike[str]) -> str:
    """The one absolute name of a journal file, symbolic links resolved.

    A ``file:`` URI stays a URI and keeps its parameters; only its path is made canonical.

    Raises:
        JournalError: the path cannot be a journal: empty, in memory, a directory or
            another special file, in a directory that does not exist, or a file with
            more than one name (hard links), of which each would get a journal of its own.

    Example:
        >>> canonical_journal_path("/tmp/../tmp/app.db")
        '/tmp/app.db'
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise JournalError(f"the journal path {text!r} is bytes: give it as text")
    if not text.startswith("file:"):
        return _canonical_file(text)
    file, query = _split_uri(text)
    return _join_uri(_canonical_file(file), query)


def journal_file(path: str) -> str:
    """The file that a journal path means: the path itself, or the path part of its URI."""
    return _split_uri(path)[0] if path.startswith("file:") else path


def _split_uri(uri: str) -> tuple[str, str]:
    rest, _, query = uri.partition("#")[0][len("file:") :].partition("?")
    if rest.startswith("//"):
        authority, slash, below = rest[2:].partition("/")
        if authority not in ("", "localhost"):
            raise JournalError(
                f"the journal {uri!r} names the host {authority!r}: a journal is a local file, "
                "write file:/absolute/path"
            )
        rest = slash + below
    if "memory" in parse_qs(query).get("mode", []):
        rest = ":memory:"
    return unquote(rest), query


def _join_uri(file: str, query: str) -> str:
    return "file:" + quote(file) + (f"?{query}" if query else "")


def _canonical_file(text: str) -> str:
    _refuse_unnamed(text)
    file = os.path.realpath(text)
    _refuse_directory_missing(file)
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return file
    except OSError as error:
        raise JournalError(f"the journal {file} cannot be examined: {error.strerror}") from error
    _refuse_special(file, status)
    return file


def _refuse_unnamed(text: str) -> None:
    if not text:
        raise JournalError('the journal path is empty: name a file, such as "app.db"')
    if ":memory:" in text:
        raise JournalError(
            f"the journal {text!r} would be in memory and lost with the process: name a file, "
            "in tests one below a temporary directory"
        )
    if "\0" in text:
        raise JournalError(f"the journal path {text!r} holds a NUL character: remove it")


def _refuse_directory_missing(file: str) -> None:
    directory = os.path.dirname(file)
    if not os.path.isdir(directory):
        raise JournalError(
            f"the journal {file} cannot be created: there is no directory {directory}. "
            "Create it first"
        )


def _refuse_special(file: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise JournalError(f"the journal {file} is a directory: name a file in it")
    if stat.S_ISLNK(status.st_mode):
        raise JournalError(f"the journal {file} is a symbolic link that leads back to itself")
    if not stat.S_ISREG(status.st_mode):
        raise JournalError(f"the journal {file} is not a regular file: name another one")
    if status.st_nlink > 1:
        raise JournalError(
            f"the journal {file} has {status.st_nlink} hard links: under each name SQLite would "
            "keep its own WAL and lose data. Remove the other names, or copy the file and "
            "open the copy"
        )


# --- filesystems --------------------------------------------------------------------


def check_filesystem(
    path: str, *, mountinfo: str | None = None, allow_unsafe: bool = False
) -> None:
    """Refuse a journal path on a filesystem where WAL or `flock` is unsafe.

    Args:
        path: a canonical journal path, or its URI; the file need not exist.
        mountinfo: text of a mount table in the form of ``/proc/self/mountinfo``.
            Default: that file; without one (macOS) every path is accepted.
        allow_unsafe: accept it with a logged warning, for those who know that no
            other machine and no host program ever opens the file.

    Raises:
        UnsafeFilesystemError: naming the filesystem, the reason and the way out.
    """
    table = _own_mountinfo() if mountinfo is None else mountinfo
    mount = mount_of(journal_file(path), parse_mountinfo(table))
    reason = None if mount is None else unsafe_reason(mount.kind)
    if mount is None or reason is None:
        return
    message = f"the journal {path} lies on {mount.kind} ({mount.source} at {mount.point}): {reason}"
    if allow_unsafe:
        _log.warning("%s. Allowed by allow_unsafe_filesystem=True", message)
        return
    raise UnsafeFilesystemError(
        f"{message}. Put it on a local disk (in a container: on a named volume), or pass "
        "allow_unsafe_filesystem=True if this process alone will ever open it"
    )


def unsafe_reason(kind: str) -> str | None:
    """Why this filesystem type is unsafe for a journal, or None when it is accepted."""
    if kind in _LOCAL_FUSE:
        return None
    reason = _UNSAFE.get(kind)
    if reason is None and (kind == "fuse" or kind.startswith("fuse.")):
        return _FUSE
    return reason


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of a mount table, in its order; lines of another shape are left out."""
    return [mount for line in text.splitlines() if (mount := _parse_mount(line)) is not None]


def _parse_mount(line: str) -> Mount | None:
    # id parent major:minor root point options [optional fields] - type source options
    left, separator, right = line.partition(" - ")
    before, after = left.split(" "), right.split(" ")
    if not separator or len(before) < 6 or len(after) < 2:
        return None
    if not (before[0].isdigit() and before[1].isdigit()):
        return None
    return Mount(
        int(before[0]), int(before[1]), _unescape(before[4]), after[0], _unescape(after[1])
    )


def _unescape(field: str) -> str:
    # The kernel writes blank, tab, newline and backslash as three octal digits.
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount that a path lies on, found as the kernel walks: from mount to child mount.

    The longest mount point alone would be wrong, because a later mount over ``/a`` hides
    an earlier one at ``/a/b`` that stays in the table. A child of the mount we are in
    whose point lies on the way takes us on; the nearest one is met first, and of two
    at one point the newest covers the other.
    """
    known = {mount.ident for mount in mounts}
    current: Mount | None = None
    remaining = [mount for mount in mounts if _covers(mount.point, path)]
    while True:
        nearest: Mount | None = None
        for mount in remaining:
            if not _is_child(mount, current, known):
                continue
            if nearest is None or len(mount.point) <= len(nearest.point):
                nearest = mount
        if nearest is None:
            return current
        remaining.remove(nearest)
        current = nearest


def _is_child(mount: Mount, current: Mount | None, known: set[int]) -> bool:
    if current is None:  # the root of the table: its parent is itself or not in the table
        return mount.parent == mount.ident or mount.parent not in known
    return mount.parent == current.ident


def _covers(point: str, path: str) -> bool:
    return point in {"/", path} or path.startswith(point + "/")


def _own_mountinfo() -> str:
    try:
        with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as table:
            return table.read()
    except OSError:
        return ""
