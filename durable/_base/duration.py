"""Turns what people write for a time span or an instant into whole microseconds.

Owns the duration grammar (``"1h30m"``, ``"500ms"``, ``"2 days"``) and the limits that
every wait obeys: not negative, finite, at most 100 years, no naive datetimes. Loops
differ in what they do with NaN or an absurd delay, so such values stop here, at the
call that brings them, with a message that names value, cause and cure.

Invariants: the only error raised is `DurationError`; text is computed in integers, so
``"0.1s"`` is exactly 100,000 us; what is finer than a microsecond is rounded up, so
no wait becomes shorter than it was asked for.

Does not read a clock: the caller passes the present time.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from durable.errors import DurationError

__all__ = ["MAX_US", "parse_duration", "parse_instant", "when"]

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
MAX_US = 36_525 * _DAY  # 100 years

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT_CURE = "use an aware datetime, such as datetime.now(UTC) + timedelta(hours=1)"
_CURE = 'use seconds, a timedelta, or text such as "1h30m", "500ms" or "2 days"'
_TEXT_MAX = 64

_UNITS = {
    unit: size
    for size, units in {
        1: "us \u00b5s \u03bcs microsecond microseconds",
        1000: "ms millisecond milliseconds",
        _SECOND: "s sec secs second seconds",
        60 * _SECOND: "m min mins minute minutes",
        3600 * _SECOND: "h hr hrs hour hours",
        _DAY: "d day days",
        7 * _DAY: "w week weeks",
    }.items()
    for unit in units.split()
}
_PART = re.compile(r"\s*([0-9]+)(?:\.([0-9]+))?\s*([a-z\u00b5\u03bc]+)\s*")


def parse_duration(value: float | timedelta | str, *, what: str) -> int:
    """A time span in microseconds.

    Args:
        value: seconds, a `timedelta`, or text: numbers with units, largest unit first
            (w, d, h, m, s, ms, us, also written out), such as ``"1h30m"``.
        what: name of the parameter, for the message.

    Returns:
        Microseconds, 0 to 100 years.

    Raises:
        DurationError: bool or another type, NaN, infinite, negative, more than
            100 years, or text that is not a duration.

    Example:
        ``parse_duration("1m", what="delay") == 60_000_000``
    """
    if isinstance(value, timedelta):
        us = value // _MICROSECOND
    elif isinstance(value, str):
        us = _parse_text(value, what)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refuse(what, value, f"is {_kind(value)}, not a duration")
    else:
        us = _from_seconds(value, what)
    if us < 0:
        raise _refuse(what, value, "is negative")
    if us > MAX_US:
        raise _refuse(what, value, "is more than 100 years")
    return us


def parse_instant(value: datetime, *, what: str = "time") -> int:
    """An aware `datetime` as UTC microseconds since 1970.

    Raises:
        DurationError: not a `datetime`, or a naive one, whose instant nobody knows.
    """
    if not isinstance(value, datetime):
        raise _refuse(what, value, f"is {_kind(value)}, not a datetime", _INSTANT_CURE)
    try:
        if value.utcoffset() is None:
            raise _refuse(what, value, "has no time zone", _INSTANT_CURE)
        return (value - _EPOCH) // _MICROSECOND
    except DurationError:
        raise
    except Exception as error:  # a tzinfo may be anybody's code
        cause = f"has an unusable time zone ({error!r})"
        raise _refuse(what, value, cause, _INSTANT_CURE) from error


def when(
    value: float | timedelta | str | datetime, now_us: int, *, what: str = "time"
) -> tuple[int, bool]:
    """The due time of a wait, and whether it was given as an instant.

    Args:
        value: a duration from now, or an aware `datetime`; a past one is due now.
        now_us: the present, in UTC microseconds.
        what: name of the parameter, for the message.

    Returns:
        `(due_us, absolute)`; `due_us` is never before `now_us`.

    Raises:
        DurationError: as for `parse_duration` and `parse_instant`.
    """
    if not isinstance(value, datetime):
        return now_us + parse_duration(value, what=what), False
    due_us = max(now_us, parse_instant(value, what=what))
    if due_us - now_us > MAX_US:
        raise _refuse(what, value, "is more than 100 years ahead")
    return due_us, True


def _from_seconds(seconds: float, what: str) -> int:
    if isinstance(seconds, int):
        return seconds * _SECOND
    if not math.isfinite(seconds):
        raise _refuse(what, seconds, "is not finite")
    us = seconds * 1e6
    # 1.1 s must be 1,100,000 us and not one more; but a tiny wait is still a wait.
    return (round(us) or math.ceil(us)) if math.isfinite(us) else MAX_US + 1


def _parse_text(text: str, what: str) -> int:
    if len(text) > _TEXT_MAX:
        raise _refuse(what, text, f"is longer than {_TEXT_MAX} characters")
    total, position, last_size = 0, 0, MAX_US
    lowered = text.lower()
    while position < len(lowered) or not position:
        part = _PART.match(lowered, position)
        if part is None:
            raise _refuse(what, text, "is not a duration" + _hint(text))
        whole, fraction, unit = part.groups(default="")
        size = _UNITS.get(unit)
        if size is None:
            raise _refuse(what, text, f"has the unknown unit {unit!r}")
        if size >= last_size:
            raise _refuse(what, text, f"has {unit!r} out of order (the largest unit first)")
        # Rounded up, in integers: floats would lose microseconds of long waits.
        total += int(whole) * size - (-int(fraction or 0) * size // 10 ** len(fraction))
        position, last_size = part.end(), size
    return total


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _hint(text: str) -> str:
    stripped = text.strip()
    if stripped.startswith("-"):
        return " (a duration is never negative)"
    if re.fullmatch(r"[0-9.]+", stripped):
        return " (the unit is missing)"
    return ""


def _refuse(what: str, value: object, cause: str, cure: str = _CURE) -> DurationError:
    try:
        shown = repr(value)
    except Exception:  # a huge int, or somebody's __repr__
        shown = f"<{type(value).__name__}>"
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    return DurationError(f"{what}: {shown} {cause}; {cure}")
