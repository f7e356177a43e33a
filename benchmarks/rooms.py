"""Which room of the house a piece of running code belongs to.

Owns the mapping from files to rooms, and the rule for code that is in none (asyncio,
selectors, pickle, ...): it belongs to the nearest caller that is in one. Waiting is
told apart by what the journal's thread does meanwhile.
"""

from __future__ import annotations

import sys
import threading
from functools import cache
from pathlib import Path
from types import FrameType

WAIT_COMMIT = "waiting: journal thread in SQL or COMMIT"
WAIT_HOP = "waiting: hand-over between threads, or idle"
COLLECTING = "garbage collection (of all rooms)"
HOST_LOOP = "host loop (asyncio itself)"

# First match wins; paths are relative to the folder that holds `durable` and `benchmarks`.
ROOMS = (
    ("benchmarks/workloads/", "user code"),
    ("durable/_replay/", "deterministic loop"),
    ("durable/_journal/codec", "codec"),
    ("durable/_journal/failure", "codec"),
    ("durable/_journal/", "journal writer (loop side)"),
    ("durable/_engine/executor", "engine: executor"),
    ("durable/_engine/", "engine: scheduling"),
    ("durable/_authoring/", "authoring"),
    ("durable/", "surface"),
)

ROOT = str(Path(__file__).absolute().parent.parent) + "/"


@cache
def room_of_file(filename: str) -> str | None:
    """The room of a source file; None when it is in no room."""
    path = filename.removeprefix(ROOT)
    for prefix, room in ROOMS:
        if path.startswith(prefix):
            return room
    return "journal writer (loop side)" if "/aiosqlite/" in filename else None


def room_of_frame(frame: FrameType | None) -> str:
    """The room of the code that a thread is executing."""
    if frame is not None and frame.f_code.co_filename.endswith("/selectors.py"):
        return WAIT_COMMIT if _journal_thread_works() else WAIT_HOP
    while frame is not None and not _is_host_loop(frame):
        room = room_of_file(frame.f_code.co_filename)
        if room is not None:
            return room
        frame = frame.f_back
    return HOST_LOOP


def place(frame: FrameType | None) -> str:
    """File and function of the code being executed, for people."""
    if frame is None:
        return "?"
    code = frame.f_code
    return f"{short(code.co_filename)}:{code.co_firstlineno} {code.co_qualname}"


def short(filename: str) -> str:
    """A file name without what every file name here begins with."""
    path = filename.removeprefix(ROOT)
    return path if path != filename else "/".join(filename.split("/")[-2:])


def _is_host_loop(frame: FrameType) -> bool:
    name = frame.f_code.co_name
    return name == "_run_once" and frame.f_code.co_filename.endswith("asyncio/base_events.py")


def _journal_thread_works() -> bool:
    """Whether some other thread is inside the journal's code at this moment."""
    here = threading.get_ident()
    frames = [frame for ident, frame in sys._current_frames().items() if ident != here]
    return any(_in_journal(frame) for frame in frames)


def _in_journal(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(ROOT + "durable/_journal/"):
            return True
        frame = frame.f_back
    return False
