"""The short version of the campaign's programme SEAL."""

from __future__ import annotations

from pathlib import Path

from tests.campaign.seal_tampering import opened


def test_no_tampering_makes_a_row_say_something_else(tmp_path: Path, seed: int) -> None:
    """A few random forgeries of a sealed journal, by seed."""
    total = 0
    with opened() as trial:
        for number in range(12):
            place = tmp_path / str(number)
            place.mkdir()
            total += trial(seed + number, place)["refused"]
    assert total > 5
