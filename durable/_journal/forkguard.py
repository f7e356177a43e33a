"""Keeps descriptors that mean ownership out of forked children.

Owns the set of such descriptors and the one fork hook of the journal. A forked child
shares the parent's open files: while it lives it would keep the owner's `flock` and the
owner's ends of the control connections open, so the death of the owner would free
nothing and nobody would notice it. In the child every guarded descriptor is therefore
pointed at ``/dev/null``.

Pointed elsewhere, not closed: the child holds copies of objects that believe they own
the number, and would later close whatever had been opened under it. For the same reason
a descriptor is only touched while it still names the file it named when it was guarded.

It also keeps forks away from threads that are inside SQLite: a child forked meanwhile would
inherit SQLite's own locks, held by a thread that it does not have, and hang in its first
statement. Each such thread therefore works under a lock from `quiet_lock`.

Programs started with `exec` are not a matter of this module: everything is close-on-exec.
"""

from __future__ import annotations

import os
import threading
import weakref

_guarded: dict[int, tuple[int, int]] = {}  # descriptor -> (st_dev, st_ino)

# Held over a fork, so that a child never sees a descriptor that is open but not yet
# guarded. Reentrant, because a signal handler may fork while its thread holds it.
forking = threading.RLock()
_quiet: weakref.WeakSet[threading.RLock] = weakref.WeakSet()
_held: list[list[threading.RLock]] = []  # by the forks that are going on
_forks = threading.RLock()  # one at a time


def open_guarded(path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file close-on-exec and guard it, with no fork possible in between."""
    with forking:
        descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), mode)
        guard(descriptor)
    return descriptor


def guard(descriptor: int) -> None:
    """Point this open descriptor at ``/dev/null`` in every child forked from now on."""
    with forking:
        _guarded[descriptor] = _identity(descriptor)


def unguard(descriptor: int) -> None:
    """Forget a descriptor; one that is not guarded is ignored."""
    with forking:
        _guarded.pop(descriptor, None)


def quiet_lock() -> threading.RLock:
    """Return a lock under which a thread works inside SQLite: no other one forks meanwhile.

    The thread must not take `forking` first and then this lock. It may fork itself, in a
    signal handler: between two calls of SQLite it holds none of its locks.
    """
    lock = threading.RLock()
    with forking:
        _quiet.add(lock)
    return lock


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _before() -> None:
    _forks.acquire()
    # The threads first: what they do may need `forking`.
    taken: list[threading.RLock] = []
    _held.append(taken)
    for lock in list(_quiet):
        if not any(lock in locks for locks in _held):  # else a signal handler forks in here
            lock.acquire()
            taken.append(lock)
    forking.acquire()


def _in_parent() -> None:
    forking.release()
    for lock in _held.pop():
        lock.release()
    _forks.release()


def _in_child() -> None:
    _held.clear()
    _quiet.clear()  # their threads stayed behind
    try:
        for descriptor, identity in _guarded.items():
            _divert(descriptor, identity)
        _guarded.clear()
    finally:
        forking.release()
        _forks.release()


def _divert(descriptor: int, identity: tuple[int, int]) -> None:
    try:
        if _identity(descriptor) != identity:
            return
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # closed already, or no descriptor left: nothing better can be done here
    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork either
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
