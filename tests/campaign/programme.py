"""What a programme of the campaign is: trials by seed, and what they found.

A programme (T1, T2, ...) opens what its trials share in one worker process, a fork server
or a recording, and yields the trial: a function of a seed and an empty directory. The
same seed does the same trial again. Whoever runs the trials counts what they return,
turns what they raise into findings, and kills those that take too long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Counts = Counter[str]  # what a trial did, by word: "states", "kills", "cuts", "faults", "seeds"
Trial = Callable[[int, Path], Counts]
Verdict = Literal["lost", "duplicated", "corrupt", "hung", "broken"]


class FoundError(AssertionError):
    """A promise of design.md was broken; `verdict` is the column of the final table."""

    def __init__(self, verdict: Verdict, what: str) -> None:
        super().__init__(what)
        self.verdict: Verdict = verdict


def _nothing_lacks() -> str | None:
    return None


def _endless() -> int | None:
    return None


@dataclass(frozen=True)
class Programme:
    """One row of the campaign.

    Attributes:
        key: "T1" to "T17".
        title: what it does, in a few words.
        open: opens what the trials of one worker process share, and yields the trial.
        limit_seconds: a trial that takes longer counts as hung, and is killed.
        lacking: what this machine lacks to run it, in words, or None.
        whole: how many seeds in a row are one sweep through everything there is to try, from
            whatever seed on, or None where chance decides.
    """

    key: str
    title: str
    open: Callable[[], AbstractContextManager[Trial]]
    limit_seconds: float = 60.0
    lacking: Callable[[], str | None] = _nothing_lacks
    whole: Callable[[], int | None] = _endless
