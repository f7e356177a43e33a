"""A disk that breaks on command: a SQLite VFS in pure Python, through ctypes.

It copies the default VFS of the very SQLite library that `_sqlite3` uses, registers the
copy under its own name, and puts itself between SQLite and the files of a journal (main
database, -wal, rollback journal). Every write, sync, truncate and delete is one numbered
operation; reads or locks can be numbered instead. At operation n it can kill the process
(before it, or after half of the write), fail once or for a while, refuse locks, or play a
full disk; it can also record every operation, so that the states a power cut may leave
behind can be built (see `states`).

Unmodified `sqlite3` and `aiosqlite` use it, either for one file by a URI
(``file:/x/app.db?vfs=faultfs``) or for every file opened afterwards (``default=True``).
Shared memory goes to the real VFS untouched, and so do reads and locks unless the armed fault
counts them. Operations on other threads are numbered in the order in which they arrive here.

It does not lie about success: what it reports as done has been done.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import ctypes.util
import fcntl
import os
import signal
import sqlite3
import struct
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

OK = 0
BUSY = 5
FULL = 13
IOERR = 10
ERRORS = {
    "read": IOERR | 1 << 8,
    "write": IOERR | 3 << 8,
    "sync": IOERR | 4 << 8,
    "truncate": IOERR | 6 << 8,
    "delete": IOERR | 10 << 8,
    "lock": BUSY,
}
SHM_LOCK = 2  # among the flags of xShmLock: it takes a lock
CHANGES = frozenset({"write", "sync", "truncate", "delete"})
FOREVER = 1 << 60  # for `Fault.times`: until `FaultFS.disarm`
# SQLITE_OPEN_MAIN_DB, _MAIN_JOURNAL and _WAL: the files whose operations count.
JOURNAL_FILES = 0x100 | 0x800 | 0x80000

# ext4's ioctl that cuts the power: nothing, its own journal included, is written any more.
EXT4_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, struct.pack("I", 2)

Action = Literal["kill", "kill-half", "cut", "interrupt", "ioerr", "full"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when.

    Args:
        at: number of the operation, 1 = the first after `FaultFS.arm`.
        action: ``kill`` = SIGKILL just before it; ``kill-half`` = after half of that write;
            ``cut`` = cut the power of the disk (an ext4) and die;
            ``interrupt`` = SIGINT just before it, as by Ctrl-C; ``ioerr`` = report an I/O
            error, or for locks that another program holds them; ``full`` = report a full
            disk, for writes that would make a file longer (others succeed, as on a real
            full disk).
        times: how many operations fail before the disk works again; default one.
        only: kinds of operation that are counted and can fail; default: those that change
            files. There are also ``read``, ``lock`` and ``mark``.
        keep: share of a failing write or read that is done all the same.
        kill_then: SIGKILL at the last of the operations that fail.
    """

    at: int
    action: Action
    times: int = 1
    only: frozenset[str] = CHANGES
    keep: float = 0.0
    kill_then: bool = False


class Op(NamedTuple):
    """One recorded operation; for ``mark`` the file is the label given to `FaultFS.mark`."""

    kind: str  # write, sync, sync failed, rewrite, truncate, delete, mark
    file: str
    offset: int = 0  # of a write; the new size of a truncate; 1 = a delete that was synced
    data: bytes = b""


_P = ctypes.c_void_p
_INT = ctypes.c_int
_I64 = ctypes.c_int64
_OPEN = ctypes.CFUNCTYPE(_INT, _P, _P, _P, _INT, _P)
_DELETE = ctypes.CFUNCTYPE(_INT, _P, _P, _INT)
_WRITE = ctypes.CFUNCTYPE(_INT, _P, _P, _INT, _I64)
_TRUNCATE = ctypes.CFUNCTYPE(_INT, _P, _I64)
_SYNC = ctypes.CFUNCTYPE(_INT, _P, _INT)
_LOCK = _SYNC
_SHM_LOCK = ctypes.CFUNCTYPE(_INT, _P, _INT, _INT, _INT)
_SIZE = ctypes.CFUNCTYPE(_INT, _P, ctypes.POINTER(_I64))


class _Vfs(ctypes.Structure):
    """`struct sqlite3_vfs`, version 3; what is not overridden is an opaque pointer."""

    _fields_ = [
        ("iVersion", _INT),
        ("szOsFile", _INT),
        ("mxPathname", _INT),
        ("pNext", _P),
        ("zName", ctypes.c_char_p),
        ("pAppData", _P),
        ("xOpen", _P),
        ("xDelete", _P),
        *((f"other{i}", _P) for i in range(14)),
    ]


class _Methods(ctypes.Structure):
    """`struct sqlite3_io_methods`, version 3."""

    _fields_ = [
        ("iVersion", _INT),
        ("xClose", _P),
        ("xRead", _P),
        ("xWrite", _P),
        ("xTruncate", _P),
        ("xSync", _P),
        ("xFileSize", _P),
        ("xLock", _P),
        *((f"other{i}", _P) for i in range(6)),
        ("xShmLock", _P),
        *((f"last{i}", _P) for i in range(4)),
    ]


class _File(ctypes.Structure):
    """`struct sqlite3_file`: its first and only public member."""

    _fields_ = [("pMethods", _P)]


def _load_library() -> ctypes.CDLL:
    """Return the SQLite that `sqlite3` itself runs on, never another copy."""
    built_in = getattr(_sqlite3, "__file__", None)  # absent where it is linked statically
    for name in (built_in, ctypes.util.find_library("sqlite3")):
        library = ctypes.CDLL(name)
        try:
            library.sqlite3_libversion.restype = ctypes.c_char_p
        except AttributeError:
            continue
        if library.sqlite3_libversion().decode() == sqlite3.sqlite_version:
            return library
    raise RuntimeError(f"no loadable SQLite {sqlite3.sqlite_version}: the shim cannot be installed")


class FaultFS:
    """The installed shim; get it from `install`."""

    def __init__(self, name: str, *, default: bool) -> None:
        self.name = name
        self.count = 0  # operations since the last arm()
        self.fired = 0  # how often the armed fault has happened
        self.met: list[str] = []  # to what it has happened, such as "sync of app.db-wal"
        self.ops: list[Op] | None = None  # filled while recording
        self._fault: Fault | None = None
        self._lock = threading.Lock()
        self._files: dict[int, str] = {}  # address of the sqlite3_file -> path
        self._methods: dict[int, _Wrapped] = {}  # address of the original -> our copy
        self._register(default)

    # --- what tests call ---

    def arm(self, fault: Fault) -> None:
        """Restart the count and let `fault` happen at its operation."""
        with self._lock:
            self._fault, self.fired, self.count = fault, 0, 0
            self._aim()

    def disarm(self) -> None:
        """End the fault: the disk works again. `count` and `fired` stay readable."""
        with self._lock:
            self._fault = None
            self._aim()

    def record(self) -> list[Op]:
        """Begin a recording, and return the list that it fills from now on."""
        self.ops = []
        return self.ops

    def mark(self, label: str) -> None:
        """Put `label` into the recording: what it stands for was acknowledged by now.

        It is an operation, too, at which a process can be killed.
        """
        self._meet("mark", label)
        self.note(Op("mark", label))

    def note(self, op: Op) -> None:
        """Put `op`, which others have done, into the recording."""
        if self.ops is not None:
            self.ops.append(op)

    # --- decisions ---

    def _next(self, kind: str, path: str, grows: Callable[[], bool]) -> Fault | None:
        """Number one operation; return the fault that it meets, if any."""
        with self._lock:
            fault = self._fault
            if kind not in (fault.only if fault else CHANGES):
                return None
            self.count += 1
            if fault is None or self.count < fault.at or self.fired >= fault.times:
                return None
            if fault.action == "full" and not grows():
                return None
            self.fired += 1
            self.met.append(f"{kind} of {os.path.basename(path)}")
            if fault.kill_then and self.fired == fault.times:
                _die()
            return fault

    def _meet(
        self, kind: str, path: str, grows: Callable[[], bool] = lambda: False
    ) -> tuple[int, float]:
        """Return (SQLite result code, share to write) for one operation, or die."""
        fault = self._next(kind, path, grows)
        if fault is None:
            return OK, 1.0
        if fault.action == "kill-half" and kind == "write":
            return OK, 0.5
        if fault.action in ("kill", "kill-half"):
            _die()
        if fault.action == "cut":
            cut_power(os.path.dirname(next(iter(self._files.values()))))
            _die()
        if fault.action == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            return OK, 1.0
        return (FULL if fault.action == "full" else ERRORS[kind]), fault.keep

    # --- the operations, called by SQLite ---

    def _read(self, raw: _Raw, file: int, data: int, size: int, offset: int) -> int:
        code, share = self._meet("read", self._files[file])
        result: int = raw.read(file, data, int(size * share), offset) if share else OK
        return code or result

    def _write(self, raw: _Raw, file: int, data: int, size: int, offset: int) -> int:
        code, share = self._meet("write", self._files[file], lambda: offset + size > raw.size(file))
        kept = int(size * share)
        if kept:
            result: int = raw.write(file, data, kept, offset)
            if result != OK:
                return result
            self.note(Op("write", self._files[file], offset, ctypes.string_at(data, kept)))
        if code == OK and kept < size:
            _die()
        return code

    def _sync(self, raw: _Raw, file: int, flags: int) -> int:
        code, _ = self._meet("sync", self._files[file])
        if code != OK:
            self.note(Op("sync failed", self._files[file]))
            return code
        result: int = raw.sync(file, flags)
        if result == OK:
            self.note(Op("sync", self._files[file]))
        return result

    def _truncate(self, raw: _Raw, file: int, size: int) -> int:
        code, _ = self._meet("truncate", self._files[file])
        if code != OK:
            return code
        result: int = raw.truncate(file, size)
        if result == OK:
            self.note(Op("truncate", self._files[file], size))
        return result

    def _lock_file(self, raw: _Raw, file: int, level: int) -> int:
        code, _ = self._meet("lock", self._files[file])
        result: int = code or raw.lock(file, level)
        return result

    def _lock_shm(self, raw: _Raw, file: int, offset: int, count: int, flags: int) -> int:
        code, _ = self._meet("lock", self._files[file]) if flags & SHM_LOCK else (OK, 1.0)
        result: int = code or raw.lock_shm(file, offset, count, flags)
        return result

    def _delete(self, _vfs: int, name: int, sync_directory: int) -> int:
        path = os.fsdecode(ctypes.string_at(name))
        code, _ = self._meet("delete", path)
        if code != OK:
            return code
        result: int = self._raw_delete(self._original, name, sync_directory)
        if result == OK:
            self.note(Op("delete", path, int(sync_directory != 0)))
        return result

    def _open(self, _vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        result: int = self._raw_open(self._original, name, file, flags, out)
        opened = _File.from_address(file)
        if result == OK and name and flags & JOURNAL_FILES and opened.pMethods:
            self._files[file] = os.fsdecode(ctypes.string_at(name))
            with self._lock:
                opened.pMethods = self._wrapped(opened.pMethods).address
                self._aim()
        return result

    # --- installation ---

    def _wrapped(self, address: int) -> _Wrapped:
        """Return our copy of the method table at `address`, made once per table."""
        if address not in self._methods:
            methods = _Methods.from_buffer_copy(_Methods.from_address(address))
            raw = _Raw(methods)
            methods.xWrite = _pointer(_WRITE, lambda *a: self._write(raw, *a))
            methods.xSync = _pointer(_SYNC, lambda *a: self._sync(raw, *a))
            methods.xTruncate = _pointer(_TRUNCATE, lambda *a: self._truncate(raw, *a))
            rare = [
                ("read", "xRead", _pointer(_WRITE, lambda *a: self._read(raw, *a))),
                ("lock", "xLock", _pointer(_LOCK, lambda *a: self._lock_file(raw, *a))),
            ]
            if methods.xShmLock:
                locks = _pointer(_SHM_LOCK, lambda *a: self._lock_shm(raw, *a))
                rare.append(("lock", "xShmLock", locks))
            ways = [_Way(kind, name, getattr(methods, name), ours) for kind, name, ours in rare]
            self._methods[address] = _Wrapped(methods, ways)
        return self._methods[address]

    def _aim(self) -> None:
        """Lead reads and locks through here only if they count: each such detour is slow."""
        counted = self._fault.only if self._fault else CHANGES
        for methods, ways in self._methods.values():
            for kind, name, original, ours in ways:
                setattr(methods, name, ours if kind in counted else original)

    def _register(self, default: bool) -> None:
        library = _load_library()
        library.sqlite3_vfs_find.restype = _P
        library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
        library.sqlite3_vfs_register.argtypes = [_P, _INT]
        # The original is called with its own address: SQLite's unix VFS looks into it.
        self._original = library.sqlite3_vfs_find(None)
        original = _Vfs.from_address(self._original)
        if original.iVersion < 3:
            raise RuntimeError(f"unknown sqlite3_vfs version {original.iVersion}")
        self._raw_open = _OPEN(original.xOpen)
        self._raw_delete = _DELETE(original.xDelete)
        self._vfs = _Vfs.from_buffer_copy(original)
        self._vfs.zName = self.name.encode()
        self._vfs.xOpen = _pointer(_OPEN, self._open)
        self._vfs.xDelete = _pointer(_DELETE, self._delete)
        code = library.sqlite3_vfs_register(ctypes.addressof(self._vfs), int(default))
        if code != OK:
            raise RuntimeError(f"sqlite3_vfs_register answered {code}")
        _keep_for_ever(self)


class _Way(NamedTuple):
    """A method by which an operation of a kind goes: the original one, and ours."""

    kind: str
    name: str
    original: int
    ours: int | None


class _Wrapped(NamedTuple):
    """Our copy of a table of methods, and those in it that are ours only now and then."""

    methods: _Methods
    ways: list[_Way]

    @property
    def address(self) -> int:
        """Where SQLite finds it."""
        return ctypes.addressof(self.methods)


class _Raw:
    """The original methods of one kind of file."""

    def __init__(self, methods: _Methods) -> None:
        self.read = _WRITE(methods.xRead)  # same signature as xWrite
        self.write = _WRITE(methods.xWrite)
        self.sync = _SYNC(methods.xSync)
        self.truncate = _TRUNCATE(methods.xTruncate)
        self.lock = _LOCK(methods.xLock)
        if methods.xShmLock:
            self.lock_shm = _SHM_LOCK(methods.xShmLock)
        self._size = _SIZE(methods.xFileSize)

    def size(self, file: int) -> int:
        found = _I64(0)
        self._size(file, ctypes.byref(found))
        return found.value


def cut_power(directory: str | os.PathLike[str]) -> None:
    """Cut the power of the ext4 on which `directory` lies, without writing anything more."""
    folder = os.open(directory, os.O_RDONLY)
    fcntl.ioctl(folder, EXT4_SHUTDOWN, NO_LOG_FLUSH)
    os.close(folder)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL came back")


def _keep_for_ever(thing: object) -> None:
    # SQLite keeps bare addresses, also while the interpreter tears its modules down.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _pointer(prototype: Any, function: Callable[..., int]) -> int | None:
    """Return the C address of `function`; an exception in it becomes an I/O error."""

    def guarded(*args: Any) -> int:
        try:
            return function(*args)
        except Exception:
            # ctypes would print it and return 0, which SQLite takes for success.
            os.write(2, b"faultfs: a callback raised\n")
            traceback.print_exc()
            return IOERR

    callback = prototype(guarded)
    _keep_for_ever(callback)
    return ctypes.cast(callback, _P).value


_installed: FaultFS | None = None


def install(*, default: bool = False) -> FaultFS:
    """Register the VFS ``faultfs`` in this process, once, and return it.

    Args:
        default: also make it the VFS of every database opened from now on.
    """
    global _installed
    if _installed is None:
        _installed = FaultFS("faultfs", default=default)
    return _installed
