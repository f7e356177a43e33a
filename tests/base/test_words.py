"""Numbers with their nouns."""

from __future__ import annotations

from durable._base.words import counted


def test_one_thing_is_no_plural() -> None:
    """None and several are; an odd plural is given."""
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert counted(1, "copy", "copies") == "1 copy"
    assert counted(2, "copy", "copies") == "2 copies"
