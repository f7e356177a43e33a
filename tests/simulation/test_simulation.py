"""T5 in short: some worlds by seed, and the simulator's own workings."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaign.programme import Counts, FoundError, Trial
from tests.campaign.t5_simulation import PROGRAMME, make_template
from tests.campaign.tally import MARK
from tests.simulation import acts
from tests.simulation.loop import DeadlockError, SimClock, SimLoop
from tests.simulation.marks import MARKED
from tests.simulation.plan import Act, Order, Plan, draw
from tests.simulation.simulate import fingerprint, play, tell

SEEDS = 100
# These showed defects that are mended.
FOUND = (1217, 4684, 5224, 10563, 106258, 111805, 121106, 702853, 750869, 847410)
STEP = {"id": "r0", "tree": ["seq", ["do", "work", 0, 1.0, True], ["sleep", 3600]]}


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with PROGRAMME.open() as opened:
        yield opened


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.mark.slow
def test_simulated_worlds_keep_all_promises(trial: Trial, tmp_path: Path) -> None:
    """Each seed is a world of its own, with crashes and faults of the disk."""
    counts = Counts()
    for seed in (*range(SEEDS), *FOUND):
        counts += trial(seed, tmp_path)
    assert counts["seeds"] == SEEDS + len(FOUND)
    reached = {word for word in MARKED if MARK + MARKED[word] in counts}
    missed = {"crash at any time", "restart", "unknown commit", "payload"} - reached
    assert not missed, f"{SEEDS} seeds have not reached {missed}"


def test_same_seed_gives_the_same_world(template: bytes, tmp_path: Path) -> None:
    """Byte for byte: else no finding could be looked at twice."""
    prints = []
    for home in ("a", "b"):
        (tmp_path / home).mkdir()
        prints.append(fingerprint(play(draw(7), tmp_path / home, template)))
    assert prints[0] == prints[1]


def test_a_story_tells_what_happened(template: bytes, tmp_path: Path) -> None:
    """The program, the acts and the history, with virtual times."""
    plan = Plan(1, [Order("r0", STEP, {})], [Act(0, "start", (0,)), Act(5, "crash")])
    story = tell(play(plan, tmp_path, template))
    for line in (
        r"run r0 .*'work'",
        r"0\.000000s life 0  start \(0,\): done",
        r"5\.000000s life 0  crash at any time",
        r"3 step_created +'sim.work'",
    ):
        assert re.search(line, story), line


def test_a_broken_promise_is_found(
    template: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: a start that nobody has asked for is said to be acknowledged."""

    async def forgets(world, runtime, number):  # type: ignore[no-untyped-def]
        world.acked.add("r0")
        acts._seen(world, "r0")

    monkeypatch.setitem(acts.VERBS, "start", forgets)
    plan = Plan(1, [Order("r0", STEP, {})], [Act(0, "start", (0,))])
    with pytest.raises(FoundError, match="r0 was acknowledged") as found:
        play(plan, tmp_path, template)
    assert found.value.verdict == "lost"


def test_loop_jumps_to_what_is_due_next() -> None:
    """A year passes in no time, in the order of deadlines."""
    clock = SimClock()
    loop = SimLoop(clock)

    async def main() -> list[str]:
        told: list[str] = []
        clock.call_later(loop, 20.0, lambda: told.append(f"clock {clock.boot():g}"))
        loop.call_later(10.0, lambda: told.append(f"loop {loop.time():g}"))
        await asyncio.sleep(86400 * 365)
        return told

    assert loop.finish(main()) == ["loop 10", "clock 20"]
    assert clock.boot() == 86400 * 365
    loop.close()


def test_loop_says_when_nothing_can_happen_any_more() -> None:
    """Else a simulation that hangs would hang."""
    loop = SimLoop(SimClock())

    async def main() -> None:
        await loop.create_future()

    with pytest.raises(DeadlockError):
        loop.finish(main())
    loop.close()
