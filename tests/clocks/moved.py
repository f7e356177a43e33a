"""A real process whose machine is suspended and whose clock is set, in an order drawn by seed.

Judged are all ends of sleeps: by the process's own clocks none is early; what is due ends
within a second, and a few more for a busy machine; what is not due sleeps on.
"""

from __future__ import annotations

import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.campaign.programme import Counts, FoundError
from tests.clocks.fakes import Fake, fakes

ROOT = Path(__file__).parents[2]
HOUR = 3600
EVENTS = 4
PROMPT_SECONDS = 8.0  # a second is promised; the rest is for a busy machine
START_SECONDS = 30.0
_SLEEPS = (("nap", 0.3), ("nap", HOUR), ("nap", 10 * HOUR), ("until", 0.5), ("until", HOUR),
           ("until", 10 * HOUR))  # fmt: skip
_EXACT_SECONDS = 0.001


class _Process:
    """The process, and what it says."""

    def __init__(self, place: Path, fake: Fake) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.clocks.sleeper", str(place / "app.db")],
            cwd=ROOT, env=os.environ | fake.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._lines: queue.Queue[list[Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.put(json.loads(line))

    def tell(self, *message: object) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(message) + "\n")
        self._popen.stdin.flush()

    def hear(self, seconds: float) -> list[Any] | None:
        try:
            return self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    def close(self) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.kill()
        self._popen.wait()
        self._reader.join()
        self._popen.stdin.close()
        self._popen.stdout.close()


class _Trial:
    """The sleeps and the offsets of the clocks."""

    def __init__(self, seed: int, place: Path, fake: Fake) -> None:
        self._draw = random.Random(seed)
        self._fake = fake
        self._process = _Process(place, fake)
        self._wall = self._boot = 0
        self.due: dict[str, tuple[str, float]] = {}
        self._ended: set[str] = set()
        self._zero = 0.0  # wall clock less monotonic clock, before it was moved
        self._zero_boot = 0.0

    def play(self) -> None:
        try:
            self._await("open", START_SECONDS)
            self._zero = time.time() - time.monotonic()
            self._zero_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
            for number in range(EVENTS):
                self._begin(number)
                self._move()
                self._look()
        finally:
            self._process.close()

    def _begin(self, number: int) -> None:
        for kind, seconds in self._draw.sample(_SLEEPS, 3):
            name = f"{kind} {seconds} {number}"
            self._process.tell(name, kind, seconds)
            _, wall, boot = self._await(f"began {name}", PROMPT_SECONDS)
            self.due[name] = kind, (wall if kind == "until" else boot) + seconds

    def _move(self) -> None:
        seconds = self._draw.choice((8 * HOUR, 2 * HOUR, -8 * HOUR, -HOUR, 1, -1))
        self._wall += seconds
        if self._fake.suspends and seconds > 0 and self._draw.random() < 0.6:
            self._boot += seconds
        self._fake.move(self._wall, self._boot)

    def _present(self, kind: str) -> float:
        now = time.monotonic()
        return now + (self._zero + self._wall if kind == "until" else self._zero_boot + self._boot)

    def _look(self) -> None:
        """Wait for what is due, then a moment for what is not."""
        until = time.monotonic() + PROMPT_SECONDS
        while missing := self._missing():
            if time.monotonic() > until:
                raise FoundError("hung", f"{missing} are due, and sleep: {self.due}")
            self._hear(0.05)
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            self._hear(0.05)

    def _missing(self) -> list[str]:
        due = [name for name, (kind, at) in self.due.items() if self._present(kind) >= at]
        return [name for name in due if name not in self._ended]

    def _await(self, what: str, seconds: float) -> list[Any]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            line = self._hear(until - time.monotonic())
            if line is not None and line[0] == what:
                return line
        raise FoundError("hung", f"{what!r} is not told")

    def _hear(self, seconds: float) -> list[Any] | None:
        line = self._process.hear(seconds)
        if line is not None and line[0] in self.due:
            name, wall, boot = line
            kind, at = self.due[name]
            if name in self._ended:
                raise FoundError("duplicated", f"{name} ended twice")
            if (wall if kind == "until" else boot) < at - _EXACT_SECONDS:
                raise FoundError("corrupt", f"{name} was due at {at}, and ended at {wall}, {boot}")
            self._ended.add(name)
        return line


def moved_trial(seed: int, place: Path) -> Counts:
    """Move the clocks of a process, and judge when its sleeps end.

    Raises:
        FoundError: one ended early, twice, or not when it was due.
    """
    known = fakes()
    trial = _Trial(seed, place, known[seed % len(known)](place))
    trial.play()
    return Counter(moves=EVENTS, sleeps=len(trial.due))
