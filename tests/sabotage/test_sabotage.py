"""Tests of the tests: with a bug in the package, they turn red."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sabotage.bugs import BUGS, Bug
from tests.sabotage.workshop import plant, run_tests

FAILED = 1  # pytest's exit code when tests ran and some failed


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "_"))
def test_planted_bug_turns_the_suite_red(bug: Bug, tmp_path: Path) -> None:
    """In a copy, so that nothing of it can stay."""
    plant(bug, tmp_path)
    outcome = run_tests(tmp_path, bug.tests)
    assert outcome.returncode == FAILED, f"{bug.name}:\n{outcome.stdout}\n{outcome.stderr}"
