"""Planting a bug in a copy of the package, and running tests against the copy.

Nothing of the checkout is changed. The copy lies in a directory of its own, in which the
tests run in a process of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.sabotage.bugs import Bug

CHECKOUT = Path(__file__).parents[2]
SECONDS_MAX = 240
_LEFT_OUT = shutil.ignore_patterns("docs")


def plant(bug: Bug, place: Path) -> None:
    """Make a copy of package and tests below `place`, with the bug in it.

    Raises:
        LookupError: its module does not hold the text to be changed exactly once.
    """
    for folder in ("durable", "tests"):
        shutil.copytree(CHECKOUT / folder, place / folder, ignore=_LEFT_OUT)
    shutil.copy(CHECKOUT / "pyproject.toml", place)
    module = place / "durable" / bug.module
    text = module.read_text()
    if text.count(bug.right) != 1:
        raise LookupError(
            f"{bug.module} holds the text to be changed {text.count(bug.right)} times: bring "
            f"tests/sabotage/bugs.py up to date for the bug {bug.name!r}:\n{bug.right}"
        )
    module.write_text(text.replace(bug.right, bug.wrong))


def run_tests(place: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy below `place` until the first one fails."""
    command = [sys.executable, "-m", "pytest", "-n0", "-x", "-q", "-p", "no:cacheprovider", *tests]
    settings = os.environ | {"PYTHONPATH": str(place)}
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"):
        settings.pop(name, None)
    return subprocess.run(
        command, cwd=place, env=settings, capture_output=True, text=True, timeout=SECONDS_MAX,
        check=False,
    )  # fmt: skip
