"""Clocks of a real process that a test moves: by a small library of ours, or by libfaketime.

Ours is compiled where there is a C compiler. It moves the wall clock and the clock that counts
suspended time each by an offset in a mapped file, so it can do what a suspended laptop does:
both jump, and the monotonic clock, by which event loops wait, does not. libfaketime moves the
wall clock alone, as a time server or a user does.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Protocol

_TEXT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *offsets;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_OFFSETS"), O_RDONLY);
    real = dlsym(RTLD_NEXT, "clock_gettime");
    offsets = mmap(0, 16, PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, now);
    if (answer == 0 && offsets && clock == CLOCK_REALTIME) now->tv_sec += offsets[0];
    if (answer == 0 && offsets && clock == CLOCK_BOOTTIME) now->tv_sec += offsets[1];
    return answer;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec fine;
    int answer = clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return answer;
}
"""


class Fake(Protocol):
    """Moves the clocks of the processes that run in its environment."""

    suspends: bool  # whether it can do what a suspended machine does
    environment: dict[str, str]

    def move(self, wall: int, boot: int) -> None:
        """Set how far both clocks are off, in seconds."""


class Ours:
    """See the module's docstring."""

    suspends = True

    def __init__(self, place: Path) -> None:
        source, library = place / "clocks.c", place / "clocks.so"
        source.write_text(_TEXT)
        compiler = [str(shutil.which("cc")), "-shared", "-fPIC", "-O1", "-o", str(library)]
        subprocess.run([*compiler, str(source), "-ldl"], check=True)
        self._offsets = os.open(place / "offsets", os.O_CREAT | os.O_RDWR, 0o600)
        self.move(0, 0)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSETS": str(place / "offsets")}

    def move(self, wall: int, boot: int) -> None:
        """Set the offsets."""
        os.pwrite(self._offsets, struct.pack("=qq", wall, boot), 0)


class FakeTime:
    """See the module's docstring."""

    suspends = False

    def __init__(self, place: Path) -> None:
        self._file = place / "faketime"
        self.move(0, 0)
        self.environment = {
            "LD_PRELOAD": str(faketime_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def move(self, wall: int, boot: int) -> None:
        """Write the offset, in one piece: it is read at each look at a clock."""
        assert boot == 0
        new = self._file.with_suffix(".new")
        new.write_text(f"{wall:+d}\n")
        new.replace(self._file)


def faketime_library() -> Path | None:
    """Return where libfaketime is."""
    places = [Path(os.environ.get("LIBFAKETIME", "/nowhere"))]
    places += sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return next((place for place in places if place.exists()), None)


def fakes() -> list[type[Ours | FakeTime]]:
    """Return the ways that there are on this machine."""
    found: list[type[Ours | FakeTime]] = []
    if shutil.which("cc") is not None and Path("/proc/self/statm").exists():
        found.append(Ours)
    return [*found, FakeTime] if faketime_library() is not None else found


def lacking() -> str | None:
    """Tell what this machine lacks to move the clocks of a real process."""
    return None if fakes() else "neither a C compiler (cc) nor libfaketime (Debian: libfaketime)"
