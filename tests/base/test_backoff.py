"""Backoff: a pure function of attempt and draw, within its limits."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable._base.backoff import Backoff


def test_the_default_doubles_from_one_second_to_a_minute() -> None:
    """Without jitter's share: 1, 2, 4 ... 60, 60."""
    delays = [Backoff().delay(attempt, 0.0) for attempt in range(1, 9)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_jitter_takes_off_up_to_its_share() -> None:
    """Half of it for a draw of one half; none at all without jitter."""
    assert Backoff(initial=10, jitter=0.5).delay(1, 0.5) == 7.5
    assert Backoff(initial=10, jitter=0).delay(1, 0.999) == 10.0


@given(
    st.floats(0, 1e6),
    st.floats(1, 1e6),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.integers(1, 10**6),
    st.floats(0, 1, exclude_max=True),
)
def test_every_delay_lies_between_its_limits(
    initial: float, factor: float, more: float, jitter: float, attempt: int, draw: float
) -> None:
    """Never negative, NaN or above the maximum; never below what jitter leaves."""
    backoff = Backoff(initial, factor, initial + more, jitter)
    delay = backoff.delay(attempt, draw)
    assert 0 <= initial * (1 - jitter) * (1 - 1e-9) <= delay <= backoff.max


def test_the_millionth_attempt_costs_nothing() -> None:
    """No overflow, and no giant integers when the factor is an int."""
    assert Backoff(factor=10).delay(10**6, 0.0) == 60.0
    assert Backoff(initial=0, factor=10).delay(10**6, 0.0) == 0.0
    assert Backoff(factor=1).delay(10**6, 0.0) == 1.0


def test_pauses_may_be_given_like_every_other_duration() -> None:
    """As text or a `timedelta`; they are seconds then."""
    assert Backoff(initial="500ms", max=timedelta(minutes=2)) == Backoff(initial=0.5, max=120)
    assert Backoff(initial="500ms", max="1m", jitter=0).delay(2, 0.0) == 1.0


def test_a_backoff_is_a_value() -> None:
    """Equal by content, hashable, immutable: it may be a default argument."""
    assert Backoff(initial=2) == Backoff(initial=2.0)
    assert hash(Backoff()) == hash(Backoff())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Backoff().initial = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"initial": -1}, "Backoff.initial: -1 is negative"),
        ({"initial": math.nan}, "Backoff.initial"),
        ({"initial": True}, "Backoff.initial"),
        ({"max": math.inf}, "Backoff.max"),
        ({"factor": 0.5}, "at least 1"),
        ({"factor": math.inf}, "at least 1"),
        ({"factor": "2"}, "at least 1"),
        ({"jitter": 1.5}, "from 0 to 1"),
        ({"jitter": math.nan}, "from 0 to 1"),
        ({"jitter": False}, "from 0 to 1"),
        ({"initial": 120}, "below initial"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], cause: str) -> None:
    """At the definition, not at the first failure."""
    with pytest.raises(ValueError, match=cause):
        Backoff(**options)
