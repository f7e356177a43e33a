"""Which attempts are running right now, in a place that outlives the process.

Owns the file `<journal>.running`: one small slot per running attempt, written through a
memory map, so that a mark costs no system call and is there after SIGKILL all the same.
The next owner of the journal reads who was running when the process died. Without it every
attempt that had been committed to would be suspected of having killed the process, whether
its code had begun or not.

It decides nothing that must be right: a file that is missing, damaged, of another boot of
the machine (a power cut is nobody's fault) or that could not be made means "not known".
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress

SLOTS = 4096
_MAGIC = b"durable running 1"
_HEAD_BYTES = 64  # the magic, the boot id of the machine, and whether slots ran out
_SLOT = struct.Struct("<qq")  # key of the run, number of its step
_EMPTY = bytes(_SLOT.size)
_BOOT_AT, _BOOT_BYTES, _FULL_AT = 20, 36, 60


class Marks:
    """See the module's docstring.

    Attributes:
        previous: (key of the run, number of the step) of the attempts that were running when
            the previous owner died; None when that is not known.
    """

    def __init__(self) -> None:
        self.previous: frozenset[tuple[int, int]] | None = None
        self._map: mmap.mmap | None = None
        self._free: list[int] = []
        self._path = ""

    def open(self, path: str) -> None:
        """Read what the previous owner left in `path`, and begin anew."""
        self._path = path
        with suppress(OSError, ValueError):
            self._map = self._opened(path)
            self._free = list(range(_HEAD_BYTES, len(self._map), _SLOT.size))

    def _opened(self, path: str) -> mmap.mmap:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            size = _HEAD_BYTES + SLOTS * _SLOT.size
            boot = boot_id()
            self.previous = _marked(os.read(descriptor, size + 1), size, boot)
            head = (_MAGIC.ljust(_BOOT_AT, b"\0") + boot).ljust(_HEAD_BYTES, b"\0")
            os.ftruncate(descriptor, 0)
            # Written out, not left as a hole: a hole that the disk cannot fill would kill us.
            os.pwrite(descriptor, head + bytes(size - _HEAD_BYTES), 0)
            return mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def mark(self, pk: int, seq: int) -> int:
        """Note that an attempt begins to run; return its slot, 0 for none. Thread-safe."""
        place = self._map
        if place is None:
            return 0
        try:
            slot = self._free.pop()
        except IndexError:
            place[_FULL_AT] = 1
            return 0
        place[slot : slot + _SLOT.size] = _SLOT.pack(pk, seq)
        return slot

    def clear(self, slot: int) -> None:
        """Note that the attempt in this slot does not run any more. Thread-safe."""
        place = self._map
        if place is not None:
            place[slot : slot + _SLOT.size] = _EMPTY
            self._free.append(slot)

    def close(self, *, clean: bool) -> None:
        """Let go of the file; after a `clean` end nobody will ask for it."""
        place, self._map = self._map, None
        if place is not None:
            place.close()
            if clean:
                with suppress(OSError):
                    os.unlink(self._path)


def _marked(data: bytes, size: int, boot: bytes) -> frozenset[tuple[int, int]] | None:
    there = data[_BOOT_AT : _BOOT_AT + _BOOT_BYTES].rstrip(b"\0")
    if len(data) != size or not data.startswith(_MAGIC) or data[_FULL_AT]:
        return None
    if there != boot:
        return frozenset()  # the machine went down, and took everybody with it
    slots = data[_HEAD_BYTES:]
    empty = len(slots) - len(slots.lstrip(b"\0"))  # they are taken from the end of the file
    used = slots[empty - empty % _SLOT.size :]
    return frozenset(pair for pair in _SLOT.iter_unpack(used) if any(pair))


def boot_id() -> bytes:
    """Return what names this boot of the machine; empty where that cannot be told."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(_BOOT_BYTES).strip()
    except OSError:
        return b""
