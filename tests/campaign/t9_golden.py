"""T9: golden journals are opened, and finished through crashes and restarts.

A seed names a journal and where the processes die: some turns of the loop after they have
opened it, or while they finish its runs. The last process comes to the end of all runs.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from durable import verify
from durable.testing import VirtualClock, settle
from tests.campaign.programme import Counts, FoundError, Programme, Trial
from tests.engine.rig import crash
from tests.golden.finishing import check_ends, check_kept, finish, runtime_of
from tests.golden.make import names, unpack

DEATHS_MAX, TURNS_MAX = 2, 400


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing."""
    yield lambda seed, place: asyncio.run(trial(seed, place))


async def trial(seed: int, place: Path) -> Counts:
    """Open one journal again and again, and finish it."""
    chance, journals = random.Random(seed), names()
    facts = unpack(journals[seed % len(journals)], place)
    # A step that is cut off three times is set aside, and the unclean ones begin with one.
    clock = VirtualClock(facts["now"])
    deaths = chance.randint(0, DEATHS_MAX - (facts["end"] == "unclean"))
    for _ in range(deaths):
        await _die(place, clock, chance)
    async with runtime_of(place, clock) as runtime:
        await runtime.settled()
        await check_kept(runtime, facts)
        await finish(runtime)
        await check_ends(runtime, facts)
        await check_kept(runtime, facts)
    if findings := (await verify(place / "app.db")).findings:
        raise FoundError("corrupt", f"{findings}")
    return Counter(journals=1, kills=deaths)


async def _die(place: Path, clock: VirtualClock, chance: random.Random) -> None:
    """Open the journal, perhaps begin to finish it, and let the process die."""
    runtime = runtime_of(place, clock)
    await runtime.open()
    finishing = asyncio.ensure_future(finish(runtime) if chance.random() < 0.7 else settle(0))
    await settle(chance.randint(0, TURNS_MAX))
    await crash(runtime)
    finishing.cancel()
    await asyncio.wait([finishing])
    if not finishing.cancelled():
        finishing.exception()


PROGRAMME = Programme("T9", "golden journals, finished through crashes", open_trials, 120.0)
