"""What people type: durations, instants, and cursors that come back from the outside.

A duration is a whole number of microseconds in its range, and exactly the one that was
written; anything else is a `DurationError` that is short and names the parameter. A cursor
gives the position it was made for, or an `InvalidCursorError`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from durable._base.duration import MAX_US, parse_duration, parse_instant, when
from durable._journal.selection import STATUSES, Selection
from durable._surface.cursors import decode_cursor, encode_cursor
from durable.errors import DurationError, InvalidCursorError
from tests.campaign.programme import FoundError
from tests.fuzz import mutations
from tests.fuzz.target import Judge, Make, Target

UNITS = {
    "weeks": 604_800_000_000, "w": 604_800_000_000, "days": 86_400_000_000, "d": 86_400_000_000,
    "h": 3_600_000_000, "hours": 3_600_000_000, "min": 60_000_000, "m": 60_000_000,
    "s": 1_000_000, "seconds": 1_000_000, "ms": 1000, "us": 1, "\u00b5s": 1, "\u03bcs": 1,
}  # fmt: skip
ZONES = [ZoneInfo(name) for name in ("Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "UTC")]
_MESSAGE_CHARS_MAX = 400


class Written(NamedTuple):
    """A duration, and what it is exactly if that is known."""

    value: Any
    microseconds: int | None = None


class _OddZone(tzinfo):
    """A time zone by somebody else."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def utcoffset(self, moment: datetime | None) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


# --- durations ------------------------------------------------------------------------------


def duration(draw: random.Random) -> Written:
    """Return something given as a duration or an instant."""
    kind = draw.random()
    if kind < 0.4:
        return _by_the_grammar(draw)
    if kind < 0.7:
        return Written(mutations.text(draw, "1h30m", "500ms", "2 days", "0.1s", "1 week", "1e3s"))
    if kind < 0.8:
        return Written(draw.choice(mutations.ODD_VALUES))
    if kind < 0.9:
        return Written(
            draw.choice((draw.uniform(-1e3, 1e12), draw.expovariate(1e6), Decimal(1), 1j, b"1s"))
        )
    return Written(_moment(draw))


def _by_the_grammar(draw: random.Random) -> Written:
    sizes = sorted({size: unit for unit, size in UNITS.items()}.items(), reverse=True)
    chosen = [pair for pair in sizes if draw.random() < 0.3] or [draw.choice(sizes)]
    text, exact = "", Fraction(0)
    parts = []
    for size, _unit in chosen:
        unit = draw.choice([name for name, other in UNITS.items() if other == size])
        whole = str(draw.choice((0, 1, 59, draw.randrange(10_000))))
        fraction = str(draw.randrange(1000)).zfill(3) if draw.random() < 0.3 else ""
        parts.append(-((-Fraction(f"{whole}.{fraction or 0}") * size) // 1))
        gap = draw.choice(("", " "))
        text += f"{whole}{'.' * bool(fraction)}{fraction}{gap}{draw.choice((unit, unit.upper()))} "
    exact = sum(parts, Fraction(0))
    if len(text) > 64 or exact > MAX_US:
        return Written(text)
    return Written(text.rstrip() if draw.random() < 0.5 else text, math.ceil(exact))


def _moment(draw: random.Random) -> datetime | timedelta:
    if draw.random() < 0.3:
        days = draw.choice((-1, 0, 36_525, 36_526, 999_999_999, draw.randrange(-5, 40_000)))
        return timedelta(days=days, microseconds=draw.choice((-1, 0, 1)))
    odd = (None, 5, timedelta(days=2), timedelta(0), ValueError("no"), RecursionError())
    zone: tzinfo | None = draw.choice(
        (None, UTC, timezone(timedelta(hours=23, minutes=59)), *ZONES, _OddZone(draw.choice(odd)))
    )
    year = draw.choice((1, 2, 1970, 2024, 2124, 2125, 9999, draw.randrange(1, 10_000)))
    return datetime(year, draw.choice((1, 3, 10, 12)), draw.choice((1, 28, 31)), 2, 30, tzinfo=zone)


def _judge_duration(given: Written) -> None:
    value, exact = given
    for read in (_as_duration, _as_instant, _as_wait):
        try:
            found = read(value)
        except DurationError as error:
            if exact is not None and read is not _as_instant:
                raise FoundError("broken", f"refused: {error}") from error
            if len(str(error)) > _MESSAGE_CHARS_MAX or "limit" not in str(error):
                raise FoundError("broken", f"a message that is no help: {error}") from error
            continue
        if exact is not None and found != exact:
            raise FoundError("corrupt", f"{found} us, and {exact} us were written")


def _as_duration(value: Any) -> int:
    found = parse_duration(value, what="limit")
    if type(found) is not int or not 0 <= found <= MAX_US:
        raise FoundError("corrupt", f"the duration {found!r}")
    return found


def _as_instant(value: Any) -> int | None:
    found = parse_instant(value, what="limit")
    if type(found) is not int:
        raise FoundError("corrupt", f"the instant {found!r}")
    return None


def _as_wait(value: Any) -> int | None:
    now = 1_704_067_200_000_000
    due, absolute = when(value, now, what="limit")
    if type(due) is not int or not now <= due <= now + MAX_US:
        raise FoundError("corrupt", f"due at {due!r}")
    return None if absolute else due - now


# --- cursors --------------------------------------------------------------------------------


class Cursor(NamedTuple):
    """A cursor that comes back, and the listing it is used for."""

    text: Any
    selection: Selection
    order: str
    position: tuple[int, int]
    same: bool  # the listing that gave it


def cursor(draw: random.Random) -> Cursor:
    """Return a cursor that is right, of another listing, spoiled, or none at all."""
    position = (draw.randrange(2**62), draw.randrange(1, 2**40))
    given, order = _selection(draw), draw.choice(("newest", "oldest"))
    text: Any = encode_cursor(position, given, order)
    kind = draw.random()
    if kind < 0.2:
        return Cursor(text, given, order, position, same=True)
    if kind < 0.4:
        other = _selection(draw)
        other_order = draw.choice(("newest", "oldest"))
        same = (other, other_order) == (given, order)
        return Cursor(text, other, other_order, position, same=same)
    if kind < 0.9:
        text = mutations.spoil_text(draw, text)
    else:
        text = draw.choice((mutations.text(draw), draw.choice(mutations.ODD_VALUES)))
    return Cursor(text, given, order, position, same=False)


def _selection(draw: random.Random) -> Selection:
    return Selection(
        workflow=draw.choice((None, mutations.text(draw))),
        statuses=tuple(status for status in STATUSES if draw.random() < 0.3),
        attributes=((mutations.text(draw), "x"),) if draw.random() < 0.5 else (),
        created_from=draw.choice((None, 0, 5)),
    )


def _judge_cursor(given: Cursor) -> None:
    try:
        found = decode_cursor(given.text, given.selection, given.order)
    except InvalidCursorError as error:
        if given.same:
            raise FoundError("lost", f"refused: {error}") from error
        if len(str(error)) > _MESSAGE_CHARS_MAX:
            raise FoundError("broken", f"a message that is no help: {error}") from error
        return
    if found != given.position:
        raise FoundError("corrupt", f"position {found}, and {given.position} was written")


@contextmanager
def _durations(place: Path) -> Iterator[tuple[Make, Judge]]:
    yield duration, _judge_duration


@contextmanager
def _cursors(place: Path) -> Iterator[tuple[Make, Judge]]:
    yield cursor, _judge_cursor


DURATIONS = Target("durations", 500, _durations)
CURSORS = Target("cursors", 500, _cursors)
