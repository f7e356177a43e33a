"""What a target of the fuzzing is, and a trial of it: many inputs, each judged.

A target makes inputs from a generator and judges what came of each. An input is also judged
by what it costs: processor time and memory. Whatever a judge does not expect ends the trial
with a `FoundError` that holds the input.
"""

from __future__ import annotations

import random
import reprlib
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaign.programme import Counts, FoundError
from tests.fuzz.watch import MEMORY_BYTES_MAX, Memory, seconds_of

Make = Callable[[random.Random], Any]
Judge = Callable[[Any], object]
_SHOWN_CHARS = 3_000


@dataclass(frozen=True)
class Target:
    """One way in.

    Attributes:
        name: in a word.
        inputs: of one trial.
        open: makes the target ready in an empty directory; gives a maker and a judge.
        seconds_max: of processor time for one input.
    """

    name: str
    inputs: int
    open: Callable[[Path], AbstractContextManager[tuple[Make, Judge]]]
    seconds_max: float = 0.1


def run_target(target: Target, seed: int, place: Path, inputs: int | None = None) -> Counts:
    """Make and judge the inputs of one trial.

    Raises:
        FoundError: for the first input that was not dealt with as documented.
    """
    draw = random.Random(f"{target.name} {seed}")
    with target.open(place) as (make, judge):
        for number in range(target.inputs if inputs is None else inputs):
            _feed(target, f"{target.name}, seed {seed}, input {number}", make(draw), judge)
    return Counter(inputs=number + 1)


def _feed(target: Target, what: str, given: Any, judge: Judge) -> None:
    memory = Memory()
    try:
        took = seconds_of(lambda: judge(given), target.seconds_max)
    except FoundError as error:
        raise FoundError(error.verdict, f"{what}: {error}\n{_shown(given)}") from error
    except Exception as error:
        cause = "".join(traceback.format_exception(error)[-12:])
        raise FoundError("broken", f"{what}: {cause}\n{_shown(given)}") from error
    if took > target.seconds_max:
        raise FoundError("hung", f"{what} took {took:.3f} s\n{_shown(given)}")
    if (grown := memory.grown()) > MEMORY_BYTES_MAX:
        raise FoundError("broken", f"{what} took {grown >> 20} MB\n{_shown(given)}")


def _shown(given: Any) -> str:
    try:
        return f"the input: {given!r:.{_SHOWN_CHARS}}"
    except RecursionError:
        return f"the input: {reprlib.repr(given)}"
