"""Durations and instants: what is accepted, and how the rest is refused."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable._base.duration import MAX_US, parse_duration, parse_instant, when
from durable.errors import DurationError


@pytest.mark.parametrize(
    ("value", "us"),
    [
        ("1h30m", 5_400_000_000),
        ("500ms", 500_000),
        ("2 days", 172_800_000_000),
        ("1m", 60_000_000),
        ("1 H 30 Min", 5_400_000_000),
        ("1.5h", 5_400_000_000),
        ("0.1s", 100_000),
        ("1w2d3h4m5s6ms7us", 788_645_006_007),
        ("250µs", 250),
        ("0.5us", 1),
        ("0s", 0),
        (1.1, 1_100_000),
        (0.3, 300_000),
        (1e-9, 1),
        (0, 0),
        (0.0, 0),
        (86_400, 86_400_000_000),
        (timedelta(days=1, microseconds=1), 86_400_000_001),
        (timedelta(days=36_525), MAX_US),
    ],
)
def test_durations_are_exact_microseconds(value: float | timedelta | str, us: int) -> None:
    """Numbers, timedeltas and text agree to the microsecond."""
    assert parse_duration(value, what="delay") == us


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (True, "bool"),
        (None, "NoneType"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
        (1e308, "100 years"),
        (-1, "negative"),
        (-0.5, "negative"),
        (timedelta(seconds=-1), "negative"),
        (timedelta.max, "100 years"),
        (10**400, "100 years"),
        pytest.param(10**5000, "100 years", id="an int too long to print"),
        (1e12, "100 years"),
        ("101 years", "unknown unit 'years'"),
        ("9999999 weeks", "100 years"),
        ("-1s", "never negative"),
        ("30", "unit is missing"),
        ("", "not a duration"),
        ("   ", "not a duration"),
        ("soon", "not a duration"),
        ("1m1h", "out of order"),
        ("5m5m", "out of order"),
        ("1h 30", "not a duration"),
        ("1..5s", "not a duration"),
        ("١s", "not a duration"),
        ("9" * 1000 + "s", "64 characters"),
        (b"1s", "bytes"),
    ],
)
def test_refused_durations_name_value_cause_and_cure(value: object, cause: str) -> None:
    """The message says which parameter, what was given, why not, and what to write."""
    with pytest.raises(DurationError) as caught:
        parse_duration(value, what="timeout")  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith("timeout: ")
    assert cause in message
    assert "1h30m" in message
    assert len(message) < 300


@given(st.text() | st.from_regex(r"[0-9.]{0,5} ?[a-zµ]{0,7} ?[0-9]{0,3}[hms]?", fullmatch=True))
@example("1" * 64)
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    """Whatever people type: microseconds in range, or a `DurationError`."""
    try:
        assert 0 <= parse_duration(text, what="delay") <= MAX_US
    except DurationError:
        pass


@given(st.floats() | st.integers() | st.timedeltas())
def test_no_number_does_anything_but_parse_or_be_refused(value: float | timedelta) -> None:
    """NaN, infinities and absurd values never reach a loop."""
    try:
        assert 0 <= parse_duration(value, what="delay") <= MAX_US
    except DurationError:
        pass


@given(st.integers(0, MAX_US))
def test_a_timedelta_is_its_microseconds(us: int) -> None:
    """No rounding, up to the limit."""
    assert parse_duration(timedelta(microseconds=us), what="delay") == us


def test_an_instant_is_the_same_in_every_zone() -> None:
    """What counts is the instant, not how it was written."""
    zone = timezone(timedelta(hours=5, minutes=30))
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert parse_instant(noon) == parse_instant(noon.astimezone(zone)) == 1_704_110_400_000_000


class _BrokenZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        raise ArithmeticError("broken")


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (datetime(2024, 1, 1), "no time zone"),  # noqa: DTZ001  # the subject
        (datetime(2024, 1, 1, tzinfo=_BrokenZone()), "unusable time zone"),
        ("2024-01-01", "not a datetime"),
    ],
)
def test_an_instant_without_a_zone_is_refused(value: object, cause: str) -> None:
    """Nobody knows which instant it is."""
    with pytest.raises(DurationError, match=cause):
        parse_instant(value)  # type: ignore[arg-type]


NOW = 1_704_067_200_000_000


def test_when_tells_durations_from_instants() -> None:
    """A duration counts from now, an instant stands, a past instant is due now."""
    assert when("1m", NOW) == (NOW + 60_000_000, False)
    assert when(1.5, NOW) == (NOW + 1_500_000, False)
    assert when(timedelta(0), NOW) == (NOW, False)
    assert when(datetime(2024, 1, 2, tzinfo=UTC), NOW) == (NOW + 86_400_000_000, True)
    assert when(datetime(1999, 1, 1, tzinfo=UTC), NOW) == (NOW, True)


def test_an_instant_in_another_age_is_refused() -> None:
    """The limit of 100 years holds for instants too."""
    with pytest.raises(DurationError, match="100 years ahead"):
        when(datetime(9999, 1, 1, tzinfo=UTC), NOW)


@pytest.mark.parametrize("value", [5, "2024-01-01", datetime(2024, 1, 1)])  # noqa: DTZ001
def test_refused_instants_do_not_advise_durations(value: object) -> None:
    """The message names the parameter and what to write."""
    with pytest.raises(DurationError, match=r"^at: .* use an aware datetime") as caught:
        parse_instant(value, what="at")  # type: ignore[arg-type]
    assert "1h30m" not in str(caught.value)


def test_types_are_named_in_proper_english() -> None:
    """An int, a list."""
    with pytest.raises(DurationError, match="is an int, not a datetime"):
        parse_instant(5)  # type: ignore[arg-type]
    with pytest.raises(DurationError, match="is a list, not a duration"):
        parse_duration([], what="delay")  # type: ignore[arg-type]
