"""What the replay tests share: bodies that a test leaves in the middle are let go of.

Else they would be found by a garbage collection in a later test, or at the end, and
asyncio would tell then that their tasks were destroyed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.replay.rig import made_bodies


@pytest.fixture(autouse=True)
def _abandon_bodies() -> Iterator[None]:
    yield
    for body in list(made_bodies):
        body.abandon()
    made_bodies.clear()
