"""Counting the system calls of this very process, without touching it.

Owns the reading of /proc/self/io and a tracer that attaches `strace -c` to us from
outside. Where strace is missing or may not attach, there is no count: None, not zero.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

FILE_WRITES = frozenset(
    {"write", "writev", "pwrite64", "pwritev", "pwritev2", "fsync", "fdatasync", "ftruncate"}
    | {"fallocate", "unlink", "unlinkat", "rename"}
)


def io_counters() -> tuple[int, int]:
    """Write calls and bytes sent to the disk by this process so far; zeros without /proc."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0, 0
    values = dict(line.split(": ") for line in lines)
    return int(values["syscw"]), int(values["write_bytes"])


def file_writes(calls: Mapping[str, int]) -> int:
    """How many of the counted calls change a file or force one to the disk."""
    return sum(count for name, count in calls.items() if name in FILE_WRITES)


class SystemCalls:
    """All system calls of all threads of this process between `attach` and `detach`."""

    def __init__(self, report: Path, tracer: subprocess.Popen[bytes] | None) -> None:
        self._report = report
        self._tracer = tracer

    @classmethod
    def attach(cls, report: Path) -> SystemCalls:
        """Begin to count; blocks until the tracer is attached or has refused."""
        if shutil.which("strace") is None:
            return cls(report, None)
        command = ["strace", "-f", "-c", "-U", "calls,name", "-o", str(report)]
        tracer = subprocess.Popen([*command, "-p", str(os.getpid())], stderr=subprocess.PIPE)
        assert tracer.stderr is not None
        first = tracer.stderr.readline()
        if b"attached" not in first:
            tracer.wait()
            return cls(report, None)
        return cls(report, tracer)

    def detach(self) -> dict[str, int] | None:
        """End the count: calls by name, or None when nothing could be counted."""
        if self._tracer is None:
            return None
        self._tracer.send_signal(signal.SIGINT)
        self._tracer.communicate()
        return _parse(self._report.read_text())


def _parse(report: str) -> dict[str, int]:
    rows = [line.split() for line in report.splitlines()]
    return {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdigit()}
