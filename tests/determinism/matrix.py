"""The cells of the determinism matrix: which Pythons there are, and processes in them.

A Python without this project's dependencies is lent the pure ones of ours, by PYTHONPATH;
uvloop is compiled for one Python, so others do without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import aiosqlite
import cloudpickle

ROOT = Path(__file__).parents[2]
MINORS = ("3.11", "3.12", "3.13", "3.14")
LENT = os.pathsep.join(
    {str(Path(module.__file__).parents[1]) for module in (aiosqlite, cloudpickle)}
)
_ASKED = "import sqlite3, sys; print(*sys.version_info[:2], sep='.')"


class CellError(AssertionError):
    """A cell has found a difference, or has died."""


@dataclass(frozen=True)
class Cell:
    """A process: of which Python, with which hash seed, loop and debug mode."""

    hash_seed: int
    loop: str = "asyncio"
    debug: bool = False
    python: str = sys.executable

    def run(self, seeds: range, *actions: object) -> list[str]:
        """Have histories written and replayed; return a digest for each action.

        Args:
            seeds: of the workflows.
            actions: "write" or "replay", each followed by a file.

        Raises:
            CellError: a body has decided something else than its history says.
        """
        debug = "debug" if self.debug else "plain"
        arguments = [self.loop, debug, seeds.start, len(seeds), *actions]
        path = {"PYTHONPATH": LENT} if self.python != sys.executable else {}
        ran = subprocess.run(
            [self.python, "-m", "tests.determinism.cell", *map(str, arguments)],
            env={**os.environ, "PYTHONHASHSEED": str(self.hash_seed), **path},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise CellError(f"{self} with {arguments}:\n{ran.stderr[-3000:]}")
        return ran.stdout.split()


@cache
def other_pythons() -> dict[str, str]:
    """Return the other Pythons of this machine that can run us, by their minor version."""
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found = {minor: python for minor in MINORS if minor != ours and (python := _find(minor))}
    return {minor: python for minor, python in found.items() if python is not None}


def _find(minor: str) -> str | None:
    installed = sorted((Path.home() / ".pyenv/versions").glob(f"{minor}.*/bin/python"))
    for candidate in [shutil.which(f"python{minor}"), *map(str, installed)]:
        if candidate is not None and _is(candidate, minor):
            return candidate
    return None


def _is(python: str, minor: str) -> bool:
    # A version manager's stand-in may be found and still not run.
    ran = subprocess.run([python, "-c", _ASKED], capture_output=True, text=True, check=False)
    return ran.stdout.strip() == minor


def loops() -> list[str]:
    """Return the event loops that this Python has."""
    try:
        import uvloop
    except ImportError:
        return ["asyncio"]
    return ["asyncio", uvloop.__name__]
