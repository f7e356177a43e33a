"""A disk whose power can be cut: a real ext4 in a file, which forgets what was not synced.

It is mounted in a mount namespace of this process, so that nobody else sees it, and so that
the kernel unmounts it and frees the loop device when this process and its children are gone,
however they ended. A cut is ext4's own: from then on nothing reaches the disk, neither data
nor its journal; mounting it again replays what had been synced.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_NEW_NAMESPACE = 0x00020000
_SIZE = "96M"
_TOOLS = ("mount", "umount", "mkfs.ext4", "unshare")

_TRY = """
mount -t tmpfs none "$1" && cd "$1" && truncate -s 8M image && mkfs.ext4 -q -F image \
    && mkdir disk && mount -o loop image disk && umount disk
"""


def lacking() -> str | None:
    """Say what this machine lacks for such a disk, or None."""
    if os.geteuid() != 0:
        return "needs root, to mount a disk of its own"
    if missing := [tool for tool in _TOOLS if shutil.which(tool, path=_path()) is None]:
        return f"needs {', '.join(missing)}"
    command = ["unshare", "--mount", "sh", "-c", _TRY, "sh", "/mnt"]
    tried = _run(command, check=False)
    return (
        f"cannot mount an ext4 on a loop device: {tried.stderr.strip()}" * bool(tried.returncode)
        or None
    )


class SmallDisk:
    """The disk, mounted at `mount` while it is entered.

    Args:
        place: an empty directory for the file that holds it and for its mount point.
    """

    def __init__(self, place: Path) -> None:
        self.mount = place / "disk"
        self.journal = self.mount / "journal"
        self._image = place / "disk.ext4"

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_NAMESPACE) != 0:
            raise OSError(ctypes.get_errno(), "no mount namespace of its own")
        _run(["mount", "--make-rprivate", "/"])
        self.mount.mkdir(parents=True)
        _run(["truncate", "-s", _SIZE, str(self._image)])
        quick = ["-E", "lazy_itable_init=0,nodiscard", "-J", "size=4"]
        _run(["mkfs.ext4", "-q", "-F", *quick, str(self._image)])
        self._mount()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _run(["umount", str(self.mount)])
        self._image.unlink()

    def clear(self) -> None:
        """Make an empty directory for a journal, for good."""
        shutil.rmtree(self.journal, ignore_errors=True)
        self.journal.mkdir()
        folder = os.open(self.mount, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def return_power(self) -> None:
        """Mount it again after a cut."""
        _run(["umount", str(self.mount)])
        self._mount()

    def _mount(self) -> None:
        _run(["mount", "-o", "loop,noatime", str(self._image), str(self.mount)])


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "PATH": _path()}
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done
