"""Marks of running attempts: what the next owner learns from the file, and when nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from durable._journal import running as module
from durable._journal.running import SLOTS, Marks


def opened(path: Path) -> Marks:
    """Return marks on a file, as an owner of the journal has them."""
    made = Marks()
    made.open(str(path))
    return made


def left_by(path: Path) -> frozenset[tuple[int, int]] | None:
    """Return what an owner that begins now finds."""
    found = opened(path)
    found.close(clean=False)
    return found.previous


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of the test lies."""
    return tmp_path / "app.db.running"


def test_killed_process_leaves_the_marks_of_what_was_running(path: Path) -> None:
    """SIGKILL gives nobody time to write anything."""
    program = (
        "import os, sys; from durable._journal.running import Marks;"
        "m = Marks(); m.open(sys.argv[1]);"
        "m.mark(7, 3); m.clear(m.mark(8, 4)); m.mark(9, 2**40); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -9
    assert left_by(path) == {(7, 3), (9, 2**40)}
    assert left_by(path) == frozenset()


def test_file_is_private_and_gone_after_a_proper_end(path: Path) -> None:
    """It is of no use then."""
    marks = opened(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert marks.previous is None
    marks.mark(1, 1)
    marks.close(clean=True)
    assert not path.exists()
    assert marks.mark(1, 1) == 0


def test_freed_slots_are_used_again(path: Path) -> None:
    """A long life needs no more slots than attempts at a time."""
    marks = opened(path)
    for seq in range(3 * SLOTS):
        slot = marks.mark(1, seq)
        assert slot
        marks.clear(slot)
    marks.close(clean=False)
    assert left_by(path) == frozenset()


def test_nothing_is_known_when_there_were_more_attempts_than_slots(path: Path) -> None:
    """Those without a slot must not count as innocent."""
    marks = opened(path)
    slots = [marks.mark(1, seq) for seq in range(SLOTS + 1)]
    assert slots[-1] == 0
    marks.close(clean=False)
    assert left_by(path) is None


@pytest.mark.parametrize("damage", [b"", b"something else", bytes(100_000)])
def test_damaged_file_says_nothing_and_is_made_anew(path: Path, damage: bytes) -> None:
    """Then all that was in flight counts as interrupted, as before."""
    path.write_bytes(damage)
    assert left_by(path) is None
    assert left_by(path) == frozenset()


def test_power_cut_is_the_fault_of_no_step(path: Path) -> None:
    """The machine has another boot id afterwards."""
    marks = opened(path)
    marks.mark(1, 1)
    marks.close(clean=False)
    data = bytearray(path.read_bytes())
    at = module._BOOT_AT
    data[at : at + 4] = b"xxxx"
    path.write_bytes(data)
    assert left_by(path) == frozenset()


def test_file_that_cannot_be_made_costs_nothing_but_the_knowledge(tmp_path: Path) -> None:
    """A link in its place is not followed either."""
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    link = tmp_path / "app.db.running"
    os.symlink(target, link)
    for path in (link, tmp_path / "no such folder" / "app.db.running"):
        marks = opened(path)
        assert (marks.previous, marks.mark(1, 1)) == (None, 0)
        marks.clear(0)
        marks.close(clean=True)
    assert target.read_bytes() == b"precious"
