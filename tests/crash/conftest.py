"""What the crash tests share: one fork server for all trials of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.forkserver import ForkServer


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """A process that has imported `durable` and forks a child for each trial."""
    with ForkServer() as running:
        yield running
