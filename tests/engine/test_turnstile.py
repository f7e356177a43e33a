"""Many starts at once, and starts from elsewhere: the turnstile before the engine."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable import step, workflow
from durable._base.turnstile import STARTS_PER_TURN
from durable.errors import RuntimeNotRunningError
from tests.engine.rig import opened


@step(name="tests.turnstile.note")
async def note(value: Any) -> Any:
    """Return it."""
    return value


@workflow(name="tests.turnstile.noting")
async def noting(value: Any = None) -> Any:
    """One step."""
    return await note(value)


async def test_many_starts_at_once_leave_the_loop_turns_for_others(journal_path: Path) -> None:
    """A gather of hundreds runs the first part of a few of them in one turn of the host's loop."""
    async with opened(journal_path) as rt:
        encoded, most = set[int](), 0
        arguments = [Telling(number, encoded) for number in range(200)]
        starts = asyncio.gather(*(rt.start(noting, argument) for argument in arguments))
        while not starts.done():
            before = len(encoded)
            await asyncio.sleep(0)
            most = max(most, len(encoded) - before)
        assert len(encoded) == 200
        assert most <= 2 * STARTS_PER_TURN  # those who queued, and one turn's newcomers
        await asyncio.gather(*(run.result() for run in await starts))


async def test_starts_from_another_loop_are_refused_and_hold_nobody_up(journal_path: Path) -> None:
    """Those of the runtime's own loop do not queue behind one whose loop turns no more."""

    def start_elsewhere(rt: Any) -> None:
        with closing(asyncio.new_event_loop()) as loop:
            start = loop.create_task(rt.start(noting))
            loop.stop()
            loop.run_forever()  # one turn, the last of this loop
            with pytest.raises(RuntimeNotRunningError, match="another event loop"):
                start.result()

    async with opened(journal_path) as rt:
        await asyncio.to_thread(start_elsewhere, rt)
        for number in range(2 * STARTS_PER_TURN):
            await asyncio.wait_for(rt.start(noting, number), 5)


class Telling:
    """Notes that it is encoded."""

    def __init__(self, number: int, encoded: set[int]) -> None:
        self.number, self.encoded = number, encoded

    def __reduce__(self) -> tuple[Any, ...]:
        self.encoded.add(self.number)
        return int, (self.number,)
