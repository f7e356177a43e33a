"""Run ids: their form, their order, and which ones users may choose."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable._base.ids import new_run_id, valid_run_id

FORM = re.compile(r"run_[0-7][0-9A-HJKMNP-TV-Z]{25}")
NOW = 1_704_067_200_000_000


@given(st.integers(0, 2**48 * 1000 - 1))
def test_fresh_ids_have_the_form_and_are_valid(wall_us: int) -> None:
    """Crockford's alphabet: no I, L, O or U."""
    run_id = new_run_id(wall_us)
    assert FORM.fullmatch(run_id)
    assert valid_run_id(run_id) == run_id


@given(st.integers(0, 2**47 - 1), st.integers(1, 2**47))
def test_ids_sort_by_the_millisecond_of_creation(ms: int, later: int) -> None:
    """So a listing by id is a listing by age."""
    assert new_run_id(ms * 1000) < new_run_id((ms + later) * 1000)


def test_the_time_part_is_the_millisecond_in_base_32() -> None:
    """Microseconds do not count; the same millisecond gives the same ten characters."""
    assert new_run_id(NOW)[4:14] == new_run_id(NOW + 999)[4:14] == "01HK153X00"


def test_ids_of_one_instant_differ() -> None:
    """80 random bits: no collision among a thousand, every character in use."""
    ids = {new_run_id(NOW) for _ in range(1000)}
    assert len(ids) == 1000
    assert set("".join(run_id[14:] for run_id in ids)) == set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


@pytest.mark.parametrize("text", ["a", "order A-17", "ключ/日本", "x" * 256, "{}'\"; DROP TABLE"])
def test_printable_ids_are_accepted_as_they_are(text: str) -> None:
    """Users name runs after their orders; quoting is the journal's affair."""
    assert valid_run_id(text) == text


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "at least one"),
        ("x" * 257, "257 characters"),
        ("a\nb", "position 1"),
        ("a\x00", "position 1"),
        ("\ud800", "position 0"),
        ("a\u202eb", "position 1"),
        (17, "int"),
        (None, "NoneType"),
        (b"run", "bytes"),
    ],
)
def test_other_ids_are_refused_with_their_cause(text: object, cause: str) -> None:
    """Also lone surrogates, which no database could store, and direction overrides."""
    with pytest.raises(ValueError, match=cause):
        valid_run_id(text)  # type: ignore[arg-type]
