"""Each target of the fuzzing with a few inputs; the campaign's T10 makes millions of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.aside import quiet
from tests.fuzz.target import Target, run_target
from tests.fuzz.targets import TARGETS

INPUTS = {
    "commands": 25, "cursors": 200, "decoder": 300, "documents": 40, "durations": 300,
    "frames": 200, "http": 120, "listings": 60, "owner": 60, "preview": 200, "rows": 12,
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_inputs_that_nobody_meant_are_answered_as_documented(
    target: Target, seed: int, tmp_path: Path
) -> None:
    """No crash, no 500, no wrong value, nothing loaded, in bounded time and memory."""
    with quiet():
        run_target(target, seed, tmp_path, INPUTS[target.name])
