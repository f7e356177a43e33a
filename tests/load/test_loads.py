"""What many runs, long runs and large values cost in memory, descriptors and statements.

A short T14: the limits are those of the campaign, the sizes a fraction of its.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load.limits import FULL, load_trial

SIZES = {"suspended": 1500, "finished": 2000, "long_run": 1500, "payloads": 2, "hooks": 600}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_loads_cost_no_more_memory_files_and_statements_than_they_may(
    name: str, tmp_path: Path
) -> None:
    """In a process of its own, so that nothing else is measured."""
    figures = load_trial(name, SIZES[name], tmp_path)
    assert figures["runs"] > 0
    assert figures.get("refused", 1) == 1
