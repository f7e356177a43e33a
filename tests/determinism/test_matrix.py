"""Generated workflows decide the same in every process, whatever differs between processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.determinism.matrix import Cell, loops, other_pythons

SEEDS = range(60)


@pytest.mark.slow
def test_generated_workflows_decide_the_same_in_processes_that_differ(tmp_path: Path) -> None:
    """Hash seed, memory, event loop, debug mode: histories are equal, and replay elsewhere."""
    one, two = tmp_path / "one", tmp_path / "two"
    [first] = Cell(1).run(SEEDS, "write", one)
    other = Cell(2345, loop=loops()[-1], debug=True)
    second, replayed = other.run(SEEDS, "write", two, "replay", one)
    assert first == second == replayed


@pytest.mark.slow
@pytest.mark.skipif(not other_pythons(), reason="there is no other Python here")
def test_histories_are_replayed_by_other_pythons(tmp_path: Path) -> None:
    """What one minor version has recorded, the others take up, and the other way round."""
    ours, theirs = tmp_path / "ours", []
    [first] = Cell(3).run(SEEDS, "write", ours)
    for number, python in enumerate(other_pythons().values()):
        file = tmp_path / str(number)
        theirs += ["replay", file]
        assert Cell(4, python=python).run(SEEDS, "write", file, "replay", ours)[1] == first
    Cell(5).run(SEEDS, *theirs)
