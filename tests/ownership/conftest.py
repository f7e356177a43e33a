"""Fixtures of the ownership tests: other processes that really own a journal.

Gives `process`, which runs a Python program given as text and talks to it by lines.
Programs are written in full in the tests, so that a test shows what both sides do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Process:
    """A Python program in a process of its own; it prints a line at each thing it did."""

    def __init__(self, program: str, *arguments: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.pid = self._popen.pid

    def line(self) -> str:
        """Wait for the next line that it prints."""
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def proceed(self) -> None:
        """Answer the `input()` that it waits in."""
        assert self._popen.stdin is not None
        self._popen.stdin.write("\n")
        self._popen.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._popen.send_signal(signal.SIGKILL)
        self._popen.wait()

    def close(self) -> None:
        """End it in any case."""
        self.kill()
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """Starts programs, and ends them with the test."""
    started: list[Process] = []

    def start(program: str, *arguments: str) -> Process:
        started.append(Process(program, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()
