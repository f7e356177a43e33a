"""What the figures were taken on: processor, kernel, versions, filesystem.

Owns the facts that make a figure readable a year later. Reads /proc where there is
one and leaves out what it cannot know; it never guesses and never fails a run.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("durable", "aiosqlite", "cloudpickle", "uvloop")
MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})


class Filesystem(NamedTuple):
    """Where the journals lie: a COMMIT is only as good as this."""

    kind: str
    mount: str
    options: str


def describe(directory: Path) -> dict[str, str]:
    """The machine as readable pairs, in the order in which they are printed."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    filesystem = filesystem_of(directory)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{os.cpu_count()} x {_processor()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before": f"{load:.2f}",
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "sqlite": sqlite3.sqlite_version,
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "filesystem": f"{filesystem.kind} at {filesystem.mount} ({filesystem.options})",
    }


def filesystem_of(directory: Path) -> Filesystem:
    """The mount that holds `directory`, from /proc/self/mountinfo (longest prefix wins)."""
    best = Filesystem("unknown", "/", "")
    for found in _mounts():
        inside = directory.resolve().is_relative_to(found.mount)
        if inside and len(found.mount) >= len(best.mount):
            best = found
    return best


def scratch_directory() -> Path:
    """A place for journals that is a disk: the temp directory, unless that is memory."""
    temp = Path(tempfile.gettempdir())
    in_memory = filesystem_of(temp).kind in MEMORY_FILESYSTEMS
    return Path.cwd() if in_memory else temp


def versions(packages: Sequence[str], python: str) -> dict[str, str]:
    """The versions of those of some packages that an interpreter has."""
    program = (
        "import json, sys\n"
        "from importlib.metadata import distributions\n"
        "found = {d.metadata['Name'].lower(): d.version for d in distributions()}\n"
        "print(json.dumps({name: found[name] for name in sys.argv[1:] if name in found}))\n"
    )
    said = subprocess.run([python, "-c", program, *packages], check=True, stdout=subprocess.PIPE)
    found: dict[str, str] = json.loads(said.stdout)
    return found


def _mounts() -> list[Filesystem]:
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return []
    return [_mount(line) for line in lines]


def _mount(line: str) -> Filesystem:
    left, _, right = line.partition(" - ")
    return Filesystem(kind=right.split()[0], mount=left.split()[4], options=left.split()[5])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
