"""Watches what an input costs, and what it makes the interpreter do.

Owns three watches: processor time of the thread, growth of the process's memory at its peak,
and the events of Python's audit that mean that something was loaded or run.

Time is that of the processor, for a busy machine is nobody's fault; an input that took too
long is tried again before it is accused.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY_BYTES_MAX = 64 << 20
_TRIES = 3
# What a payload could do if it were believed.
_ACTS = frozenset(
    "pickle.find_class exec compile import os.system os.exec os.posix_spawn subprocess.Popen "
    "socket.connect shutil.rmtree os.remove os.rename ctypes.dlopen marshal.loads".split()
)

_seen: list[str] | None = None
_forbidden: Callable[[str, tuple[Any, ...]], bool] | None = None
_hooked = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None or event not in _ACTS:
        return
    _seen.append(f"{event} {arguments[:2]!r:.100}")
    if _forbidden is not None and _forbidden(event, arguments):
        raise PermissionError(f"the input asked for {event} {arguments[:2]!r:.100}")


@contextmanager
def acts(
    forbidden: Callable[[str, tuple[Any, ...]], bool] | None = None,
) -> Iterator[list[str]]:
    """Give the acts of the block, as they are done; those that are forbidden raise instead."""
    global _seen, _forbidden, _hooked
    if not _hooked:
        sys.addaudithook(_hook)  # for the life of the process, so it does nothing by itself
        _hooked = True
    _seen, _forbidden = [], forbidden
    try:
        yield _seen
    finally:
        _seen = _forbidden = None


def seconds_of(act: Callable[[], object], enough: float) -> float:
    """Return the processor seconds that `act` takes: the best of a few, if one is over `enough`."""
    best = float("inf")
    for _ in range(_TRIES):
        began = time.thread_time()
        act()
        best = min(best, time.thread_time() - began)
        if best <= enough:
            break
    return best


class Memory:
    """The peak of the process's memory, from one look to the next.

    Reads Linux's own high-water mark, which costs nothing while the process runs; elsewhere
    it sees nothing.
    """

    def __init__(self) -> None:
        self._base = self._read("VmRSS")
        self._reset()

    def grown(self) -> int:
        """Return how many bytes the peak since the last look lay above what was used then."""
        grown = self._read("VmHWM") - self._base
        self._reset()
        self._base = self._read("VmRSS")
        return grown

    @staticmethod
    def _read(name: str) -> int:
        try:
            status = Path("/proc/self/status").read_text()
        except OSError:
            return 0
        return int(status.partition(f"{name}:")[2].split(maxsplit=1)[0]) << 10

    @staticmethod
    def _reset() -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass
