"""Power cuts on paper: a scenario is recorded, and the states that cuts may leave are judged.

Most states are judged by what lies in them. A share of them is also worked to the
scenario's end by a process that finds just that on its disk.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from tests.crash import oracle, states
from tests.crash.faultfs import Op
from tests.crash.forkserver import ForkServer, Request
from tests.crash.ledger import Ledger
from tests.crash.oracle import Journal
from tests.crash.scenarios import SCENARIOS
from tests.crash.streaming import check_chunks
from tests.crash.trials import expect_success, judge_end, trial


@dataclass(frozen=True)
class Recording:
    """Every operation of a scenario that nobody disturbed, and where it led."""

    scenario: str
    ops: list[Op]
    final: Journal

    @classmethod
    def make(cls, server: ForkServer, scenario: str, place: Path) -> Recording:
        """Play `scenario` in `place` and record it."""
        with trial(place, f"{scenario} recorded"):
            expect_success(server.play(Request(scenario, str(place), record=True)))
            final = judge_end(scenario, place, 1, exactly=True)
            return cls(scenario, states.load(place / "ops.1"), final)

    def judge(self, state: states.State, place: Path) -> None:
        """Judge a state by what lies in it; it is used up."""
        state.restore(place)
        journal = Journal.read_in_place(place)
        ledger = Ledger.from_lines(state.marks)
        oracle.check_nothing_acknowledged_is_lost(journal, ledger)
        check_chunks(journal, ledger)
        oracle.check_is_continued(journal, self.final)
        oracle.check_streams_are_continued(journal, self.final)

    def resume(self, server: ForkServer, state: states.State, place: Path) -> None:
        """Let a process find `state` and come to the end of the scenario."""
        state.restore(place)
        before, first = Journal.read(place), Ledger.from_lines(state.marks)
        known = [*before.status]
        expect_success(server.play(Request(self.scenario, str(place), 2, known=known)))
        plan, later = SCENARIOS[self.scenario], Ledger.read(place / "ledger.2")
        after = Journal.read(place)
        oracle.check_completed_is_not_repeated(before, later, plan.retried)
        oracle.check_is_continued(before, after)
        oracle.check_all_finished(after)
        oracle.check_results(later, plan.results)
        oracle.check_nothing_acknowledged_is_lost(after, first)


def power_cut_trials(
    server: ForkServer,
    scenario: str,
    place: Path,
    *,
    seed: int,
    part: int,
    parts: int,
    resume_share: float,
) -> tuple[int, int]:
    """Record a scenario, and judge one of `parts` shares of the states power cuts may leave.

    Args:
        resume_share: of the states judged, how many to play to the scenario's end.

    Returns how many states were judged, and how many played to the end.
    """
    recording = Recording.make(server, scenario, place / "recorded")
    draw, judged, resumed = random.Random(seed), 0, 0
    for state in states.crash_states(recording.ops, seed=seed, part=part, parts=parts):
        judged += 1
        with trial(place / "state", f"{scenario}: {state} (seed {seed})"):
            recording.judge(state, place / "state")
        if draw.random() < resume_share:
            resumed += 1
            with trial(place / "resumed", f"{scenario}: {state} (seed {seed}), resumed"):
                recording.resume(server, state, place / "resumed")
    return judged, resumed
