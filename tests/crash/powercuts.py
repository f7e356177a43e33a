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
from tests.crash.forkserver import INTERRUPTED, ForkServer, Request
from tests.crash.ledger import Ledger
from tests.crash.oracle import Journal
from tests.crash.scenarios import SCENARIOS
from tests.crash.streaming import check_chunks
from tests.crash.trials import FaultFields, expect_success, judge_end, trial


@dataclass(frozen=True)
class Recording:
    """Every operation of a scenario, and where it led.

    Attributes:
        start: what the disk held when it began; None = nothing.
        faulty: whether its disk failed at times.
    """

    scenario: str
    ops: list[Op]
    final: Journal
    start: states.State | None = None
    faulty: bool = False

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
        if not self.faulty:  # a COMMIT that failed may have landed, and be decided otherwise later
            oracle.check_is_continued(journal, self.final)
            oracle.check_streams_are_continued(journal, self.final)


def resume(
    server: ForkServer,
    scenario: str,
    state: states.State,
    place: Path,
    fault: FaultFields | None = None,
) -> Recording:
    """Let a process find `state` and come to the end of `scenario`; record it."""
    state.restore(place)
    before, first = Journal.read(place), Ledger.from_lines(state.marks)
    request = Request(scenario, str(place), 2, fault, [*before.status], record=True)
    expect_success(server.play(request))
    plan, later = SCENARIOS[scenario], Ledger.read(place / "ledger.2")
    after = Journal.read(place)
    oracle.check_completed_is_not_repeated(before, later, plan.retried)
    oracle.check_is_continued(before, after)
    oracle.check_all_finished(after)
    oracle.check_results(later, plan.results)
    oracle.check_nothing_acknowledged_is_lost(after, first)
    return Recording(scenario, states.load(place / "ops.2"), after, state, fault is not None)


def stopped(server: ForkServer, scenario: str, place: Path, at: int) -> states.State:
    """Stop a process in an orderly way at operation `at`; return what it leaves behind."""
    fault = {"at": at, "action": "interrupt"}
    outcome = server.play(Request(scenario, str(place), 1, fault))
    if outcome.code != INTERRUPTED:
        expect_success(outcome)
    files = {name: place / name for name in ("app.db", "app.db-wal") if (place / name).exists()}
    marks = frozenset((place / "ledger.1").read_text().splitlines())
    content = {name: path.read_bytes() for name, path in files.items()}
    return states.State(0, f"stopped at {at}", content, marks)


def _marks(state: states.State, recording: Recording) -> set[str]:
    found = {f"cut: {state.variant}"}
    if {"app.db", "app.db-wal"} <= {*state.files} and "app.db" in state.pending:
        found.add("cut while the -wal moves into the database")
    if state.doubtful:
        found.add("cut where the sync of a COMMIT had failed")
    if recording.start is not None and recording.start.moment:
        found.add("cut while an earlier cut is recovered")
    return found


class PowerCuts:
    """Trials of the states that power cuts may leave.

    Args:
        place: an empty directory.
        resume_share: of the states judged, how many to play to the scenario's end.

    Attributes:
        judged: how many states were judged.
        resumed: how many of them were played to the end.
        seen: marks of what was really reached; see `traces`.
    """

    def __init__(
        self, server: ForkServer, scenario: str, place: Path, *, seed: int, resume_share: float
    ) -> None:
        self.judged = self.resumed = 0
        self.seen: set[str] = set()
        self._server = server
        self._scenario = scenario
        self._place = place
        self._seed = seed
        self._draw = random.Random(seed)
        self._share = resume_share

    def anywhere(self, part: int, parts: int) -> None:
        """Record the scenario; judge one of `parts` shares of its states."""
        recording = Recording.make(self._server, self._scenario, self._place / "recorded")
        self._judge(recording, part, parts)

    def after_failed_syncs(self, stop: int, at: int, times: int, parts: int) -> None:
        """Let syncs of a second process fail; judge a share of the states from then on.

        Args:
            stop: at which operation the first process ends well: the -wal is empty then.
            at: which sync of the second process is the first to fail.
        """
        fault = {"at": at, "action": "ioerr", "times": times, "only": ["sync"]}
        name = f"{self._scenario} stopped at {stop}, with {fault}"
        with trial(self._place / "stopped", name):
            state = stopped(self._server, self._scenario, self._place / "stopped", stop)
        with trial(self._place / "recorded", name):
            place = self._place / "recorded"
            recording = resume(self._server, self._scenario, state, place, fault)
        self._judge(recording, self._draw.randrange(parts), parts, after_failure=True)

    def in_recovery(self, part: int, parts: int) -> None:
        """Let one state be recovered, and judge states that a cut of the recovery leaves."""
        recording = Recording.make(self._server, self._scenario, self._place / "recorded")
        few = parts * len(recording.ops) // 8
        found = states.crash_states(recording.ops, seed=self._seed, part=part, parts=few)
        if (state := next(found, None)) is not None:
            again = self._resume(recording, state)
            self._judge(again, self._draw.randrange(parts), parts)

    def _judge(
        self, recording: Recording, part: int, parts: int, *, after_failure: bool = False
    ) -> None:
        for state in states.crash_states(
            recording.ops, seed=self._seed, part=part, parts=parts,
            start=recording.start, after_failure=after_failure,
        ):  # fmt: skip
            self.judged += 1
            self.seen |= _marks(state, recording)
            with trial(self._place / "state", self._name(state)):
                recording.judge(state, self._place / "state")
            if self._draw.random() < self._share:
                self._resume(recording, state)

    def _resume(self, recording: Recording, state: states.State) -> Recording:
        self.resumed += 1
        with trial(self._place / "resumed", f"{self._name(state)}, resumed"):
            return resume(self._server, recording.scenario, state, self._place / "resumed")

    def _name(self, state: states.State) -> str:
        return f"{self._scenario}: {state} (seed {self._seed})"
