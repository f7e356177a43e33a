"""T7: the public API in any order, with restarts and crashes, against a model in memory.

A trial draws a few examples of the state machine from its seed. Odd seeds play on uvloop.
What a failure prints ends with the calls that led to it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from tests.campaign.programme import Counts, FoundError, Programme, Trial
from tests.machine.machine import Machine

EXAMPLES, STEPS = 5, 40


def _loops() -> list[type[asyncio.AbstractEventLoop]]:
    try:
        import uvloop
    except ImportError:
        return [asyncio.SelectorEventLoop]
    return [asyncio.SelectorEventLoop, uvloop.Loop]


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share nothing."""
    loops = _loops()

    def trial(seed: int, place: Path) -> Counts:
        counts = Counter(seeds=1)
        chosen = loops[seed % len(loops)]
        made = type("Seeded", (Machine,), {"new_loop": chosen, "counts": counts, "within": place})
        try:
            run_state_machine_as_test(
                seeded(seed)(made),
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    database=None,
                    deadline=None,
                    report_multiple_bugs=False,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except AssertionError as error:
            calls = "\n".join(getattr(error, "__notes__", ()))
            verdict = error.verdict if isinstance(error, FoundError) else "broken"
            raise FoundError(verdict, f"{error}\n{calls}") from error
        return counts

    yield trial


PROGRAMME = Programme("T7", "the API in any order, against a model", open_trials, 300.0)
