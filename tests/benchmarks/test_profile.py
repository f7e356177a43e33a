"""The profile as it is kept."""

from __future__ import annotations

from benchmarks import profile


def test_each_room_has_a_line_with_its_time_and_its_share_of_each_workload() -> None:
    """And the last line has the sums."""
    columns = {
        "W2 at full": {"codec": 30e-6, "surface": 10e-6},
        "W4 at full": {"codec": 1e-6, "surface": 3e-6},
    }
    lines = profile._together(columns).splitlines()
    assert lines[0] == "| room | W2 at full | W4 at full |"
    assert lines[2:] == [
        "| codec | 30 us (75 %) | 1 us (25 %) |",
        "| surface | 10 us (25 %) | 3 us (75 %) |",
        "| all | 40 us | 4 us |",
    ]
