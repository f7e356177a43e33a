"""The sources are read once for all style tests, and not kept for the tests of other rooms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.style.sources import forget


@pytest.fixture(scope="package", autouse=True)
def _forgotten() -> Iterator[None]:
    """Half a million nodes would slow every later garbage collection down."""
    yield
    forget()
