"""Sleeps across the transitions of time zones, on a clock that stands still until told to move.

Transitions are found in the tzdata of this machine, of every zone. Around each one bodies
sleep until local times before, in and after it, skipped and repeated ones included, and for
whole days. Each must wake at exactly its instant: a local time means what Python's own
`datetime` says that it means, and a duration is so much time, whatever clocks on walls show.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from durable import now, sleep, workflow
from durable.testing import VirtualClock, VirtualRuntime
from tests.campaign.programme import Counts, FoundError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime(1972, 1, 1, tzinfo=UTC), datetime(2037, 12, 1, tzinfo=UTC)
_STRIDE = timedelta(days=20)  # no offset lasts less
_MICROSECOND = timedelta(microseconds=1)
TRANSITIONS = 3  # of one trial
# How far from the transition, on the wall, bodies sleep until.
_OFFSETS = (-90, -61, -60, -59, -30, -1, 0, 1, 29, 30, 31, 59, 60, 61, 90)


@workflow(name="clocks.until")
async def until(moment: datetime) -> datetime:
    """Sleep until an instant, and tell when it is then."""
    await sleep(moment)
    return now()


@workflow(name="clocks.nap")
async def nap(duration: timedelta) -> datetime:
    """Sleep for a time, and tell when it is then."""
    await sleep(duration)
    return now()


def transitions(zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the instants at which the zone's offset from UTC changes, to the second."""
    before = FIRST
    while before < LAST:
        after = before + _STRIDE
        if before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
            yield _between(zone, before, after)
        before = after


def _between(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    old = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        middle = middle.replace(microsecond=0)
        if middle <= before:
            break
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def moments(zone: ZoneInfo, at: datetime) -> Iterator[datetime]:
    """Yield local times around a transition: skipped, repeated (both of them), and plain."""
    local = (at - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None)
    for minutes in _OFFSETS:
        for fold in (0, 1):
            wall = local + timedelta(minutes=minutes, seconds=1)
            yield wall.replace(tzinfo=zone, fold=fold)


def zone_trial(seed: int, place: Path) -> Counts:
    """Sleep across some transitions of one zone.

    Raises:
        FoundError: a sleep ended early, late, or not at all.
    """
    draw = random.Random(seed)
    names = sorted(available_timezones())
    zone = ZoneInfo(names[seed % len(names)])
    found = list(transitions(zone))
    chosen = draw.sample(found, min(TRANSITIONS, len(found))) or [
        FIRST + timedelta(days=seed % 9999)
    ]
    for number, at in enumerate(chosen):
        asyncio.run(_sleep_across(zone, at, place / f"{number}.db"))
    return Counter(transitions=len(chosen), zones=1)


async def _sleep_across(zone: ZoneInfo, at: datetime, path: Path) -> None:
    begin = at - timedelta(days=1)
    clock = VirtualClock((begin - EPOCH) // _MICROSECOND)
    async with VirtualRuntime(path, clock=clock) as rt:
        wanted = {}
        for moment in moments(zone, at):
            wanted[await rt.start(until, moment)] = max(begin, moment.astimezone(UTC))
        for hours in (24, 25, 48):
            wanted[await rt.start(nap, timedelta(hours=hours))] = begin + timedelta(hours=hours)
        await rt.advance("3 days")
        for run, due in wanted.items():
            if await run.status() != "completed":
                raise FoundError("hung", f"{zone}: {due} never came, around {at}")
            woken = await run.result()
            if woken != due:
                early = "early" if woken < due else "late"
                raise FoundError("corrupt", f"{zone}: woken at {woken}, {early} for {due}")
