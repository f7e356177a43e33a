"""What the crash tests share: one fork server for all trials of a session, a fast disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.forkserver import ForkServer
from tests.crash.trials import fast_place


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """A process that has imported `durable` and forks a child for each trial."""
    with ForkServer() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory where fsync costs nothing, if there is one; failed trials stay in it."""
    directory = fast_place() or tmp_path
    failed_before = request.session.testsfailed
    yield directory
    if request.session.testsfailed == failed_before:
        shutil.rmtree(directory, ignore_errors=True)
