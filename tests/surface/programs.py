"""Programs that tests start, watch line by line, and end in every way there is."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAIT = 30.0  # seconds until a test gives up on a program


@dataclass(frozen=True)
class Program:
    """A Python program in a file of its own, run in its folder."""

    folder: Path
    text: str
    name: str = "program.py"

    def write(self) -> Path:
        """Write the file and return its path."""
        path = self.folder / self.name
        path.write_text(textwrap.dedent(self.text), encoding="utf-8")
        return path


class Process:
    """A program that is running. Its output is read all the time."""

    def __init__(self, program: Program, *arguments: str) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        environment.pop("DURABLE_JOURNAL", None)
        self._popen = subprocess.Popen(
            [sys.executable, str(program.write()), *arguments],
            cwd=program.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._news.put(line.rstrip("\n"))
        self._news.put(None)

    def until(self, text: str) -> str:
        """Wait for a line that contains `text` and return it."""
        while (line := self._next()) is not None:
            if text in line:
                return line
        raise AssertionError(f"the program ended without {text!r}: {self.lines}")

    def _next(self) -> str | None:
        try:
            line = self._news.get(timeout=WAIT)
        except queue.Empty:
            raise AssertionError(f"the program says nothing any more: {self.lines}") from None
        if line is not None:
            self.lines.append(line)
        return line

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.end()

    def end(self) -> int:
        """Wait for the end, read the rest of the output, return the exit code."""
        while self._next() is not None:
            pass
        return self._popen.wait(WAIT)

    def ends_within(self, seconds: float) -> int:
        """Return the exit code of a program that ends by itself in time; fail otherwise."""
        began = time.monotonic()
        code = self.end()
        took = time.monotonic() - began
        assert took < seconds, f"it took {took:.1f} s to end: {self.lines}"
        return code

    def close(self) -> None:
        """Make sure that nothing is left of it."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait(WAIT)
        self._reader.join(WAIT)
        assert self._popen.stdout is not None
        self._popen.stdout.close()


@contextmanager
def spawn(program: Program, *arguments: str) -> Iterator[Process]:
    """Start a program; it is gone at the end of the block, whatever happens."""
    process = Process(program, *arguments)
    try:
        yield process
    finally:
        process.close()
