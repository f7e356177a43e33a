"""What one step costs, in things that can be counted: a guard against slow decay.

Times depend on the machine and on what else it does; counts do not. Each budget says what
it is made of. A change that needs more than a budget allows must say in its commit why the
step is worth more now; one that needs less lowers the budget.

Calls of Python functions are counted on the loop's thread alone, with everything that
happens there: our code, asyncio's, the user's. CPython's minor versions differ in asyncio,
so other ones than 3.11 get a margin.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from durable import Runtime, step, workflow
from durable._journal.driver import ThreadDriver

MARGIN = 1.0 if sys.version_info[:2] == (3, 11) else 1.25


@step
async def echo(value: int) -> int:
    """A step that does nothing and returns at once."""
    return value


@workflow
async def one_after_the_other(count: int) -> None:
    """W2, and each run of W3."""
    for number in range(count):
        await echo(number)


@workflow
async def all_at_once(count: int) -> None:
    """W4."""
    await asyncio.gather(*[echo(number) for number in range(count)])


class CountingDriver(ThreadDriver):
    """Counts how often the loop's thread hands work to the journal's."""

    handed_over = 0

    def submit(self, fn: Any, done: Any) -> None:
        """Hand over."""
        if "rw" in str(self._connector):
            CountingDriver.handed_over += 1
        super().submit(fn, done)


@dataclass
class Costs:
    """What some work has cost, in all."""

    commits: int = 0
    statements: int = 0
    hand_overs: int = 0
    calls: int = 0
    names: Counter[str] | None = None


@contextmanager
def counting(rt: Runtime) -> Iterator[Costs]:
    """Count what happens until the end of the block."""
    costs, names = Costs(), Counter[str]()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            names[frame.f_code.co_qualname] += 1

    writer = rt.journal.disk
    before = writer.commits, writer.statements, CountingDriver.handed_over
    gc.collect()
    sys.setprofile(profile)
    try:
        yield costs
    finally:
        sys.setprofile(None)
        costs.commits = writer.commits - before[0]
        costs.statements = writer.statements - before[1]
        costs.hand_overs = CountingDriver.handed_over - before[2]
        costs.calls = names.total()
        costs.names = names


Work = Callable[[Runtime, int], Awaitable[None]]


async def sequential(rt: Runtime, steps: int) -> None:
    """One run of so many steps."""
    await (await rt.start(one_after_the_other, steps)).result()


async def gathered(rt: Runtime, steps: int) -> None:
    """One run that gathers so many steps."""
    await (await rt.start(all_at_once, steps)).result()


async def many_runs(rt: Runtime, steps: int, runs: int = 100) -> None:
    """A hundred runs that share so many steps."""
    started = await rt.start_many(one_after_the_other, [(steps // runs,)] * runs)
    await asyncio.gather(*[run.result() for run in started])


async def cost_of_steps(rt: Runtime, work: Work, few: int, many: int) -> tuple[Costs, int]:
    """Return what the steps between `few` and `many` cost, and how many they are.

    The difference of two sizes leaves out what a run costs that is not its steps.
    """
    await work(rt, few)
    with counting(rt) as small:
        await work(rt, few)
    with counting(rt) as large:
        await work(rt, many)
    assert small.names is not None and large.names is not None
    return (
        Costs(
            large.commits - small.commits,
            large.statements - small.statements,
            large.hand_overs - small.hand_overs,
            large.calls - small.calls,
            names=large.names - small.names,
        ),
        many - few,
    )


def explain(costs: Costs, steps: int) -> str:
    """Return the calls per step, the most frequent first."""
    assert costs.names is not None
    lines = [f"{count / steps:7.2f} {name}" for name, count in costs.names.most_common(60)]
    return "\n".join(["calls per step:", *lines])


@pytest.fixture(params=["full", "process"])
def durability(request: pytest.FixtureRequest) -> str:
    """Both kinds of durability."""
    return str(request.param)


async def test_sequential_step_costs_one_commit_of_one_insert(
    journal_path: Path, durability: str
) -> None:
    """`step_completed(n)` and `step_created(n+1)` share a transaction and an INSERT."""
    async with Runtime(journal_path, durability=durability) as rt:
        costs, steps = await cost_of_steps(rt, sequential, 20, 120)
    assert costs.commits == steps
    # BEGIN, INSERT of two rows, COMMIT; at `process` a few settings change hands.
    assert costs.statements == 3 * steps


async def test_sequential_step_wakes_the_journal_thread_once_at_most(
    journal_path: Path, durability: str
) -> None:
    """Once to flush; not at all where nothing is flushed."""
    options: Any = {"durability": durability, "driver": CountingDriver}
    async with Runtime(journal_path, **options) as rt:
        costs, steps = await cost_of_steps(rt, sequential, 20, 120)
    assert costs.hand_overs == (steps if durability == "full" else 0)


# Per step of each shape. In all of them about 18 calls are the replay room's (the command, its
# event and its future; the outcome, its event and the turn of the body's loop), 19 the engine's
# (the activation and its write, the attempt and its outcome), 4 the codec's, 2 the user's.
# W2 pays 45 more for what the others share among many steps: two turns of the host's loop
# (22), a slice of the scheduler (10), a batch of the writer and its way there and back (13);
# and up to 9 because the journal's thread may wake the loop once more than needed.
# W4 pays 8 for a task of the body's loop and for `gather`. A loaded machine has more turns of the
# host's loop, among which less is shared: 4 of W3 and W4 are for that.
BUDGETS: list[tuple[str, Work, tuple[int, int], float]] = [
    ("W2, one after the other", sequential, (20, 120), 103),
    ("W3, many runs", many_runs, (500, 1500), 52),
    ("W4, gathered", gathered, (100, 600), 52),
]


@pytest.mark.parametrize(("name", "work", "sizes", "budget"), BUDGETS)
async def test_python_calls_per_step_stay_within_their_budget(
    journal_path: Path, name: str, work: Work, sizes: tuple[int, int], budget: float
) -> None:
    """On the loop's thread, all of asyncio and of the user's code included."""
    async with Runtime(journal_path) as rt:
        costs, steps = await cost_of_steps(rt, work, *sizes)
    assert costs.calls / steps <= budget * MARGIN, f"{name}: {explain(costs, steps)}"


async def test_gathered_steps_share_commits_and_statements(journal_path: Path) -> None:
    """A hundred rows to an INSERT, and some thousand to a COMMIT."""
    async with Runtime(journal_path) as rt:
        costs, steps = await cost_of_steps(rt, gathered, 100, 1100)
    assert costs.commits <= steps / 20
    assert costs.statements <= steps / 5


# Bytes that go to the -wal per step, between the sizes; a page there takes 4,120. A lone COMMIT
# writes one page at least. The half more: a step's two rows fill a page within some thirty
# steps, and each page that is new or split takes its parent and its neighbour along.
# Gathered steps share pages and COMMITs: little more is written than is kept.
WRITTEN: list[tuple[str, Work, tuple[int, int], int]] = [
    ("W2, one after the other", sequential, (20, 120), 6_300),
    ("W4, gathered", gathered, (100, 600), 200),
]


@pytest.mark.parametrize(("name", "work", "sizes", "budget"), WRITTEN)
async def test_bytes_written_per_step_stay_within_their_budget(
    journal_path: Path, durability: str, name: str, work: Work, sizes: tuple[int, int], budget: int
) -> None:
    """What a COMMIT sends to the disk, before any of it is brought home."""
    wal = Path(f"{journal_path}-wal")
    async with Runtime(journal_path, durability=durability) as rt:
        await work(rt, sizes[0])
        before = wal.stat().st_size
        await work(rt, sizes[0])
        middle = wal.stat().st_size
        await work(rt, sizes[1])
        after = wal.stat().st_size
    each = ((after - middle) - (middle - before)) / (sizes[1] - sizes[0])
    assert 0 < each <= budget, f"{name}: {each:.0f} bytes per step"


async def test_bytes_kept_per_step_stay_within_their_budget(tmp_path: Path) -> None:
    """Two rows of small values: payloads 2 x 15, checksums 2 x 9, the rest keys and B-tree."""
    sizes = []
    for steps in (100, 1100):
        path = tmp_path / f"{steps}.db"
        async with Runtime(path) as rt:
            await gathered(rt, steps)
        sizes.append(path.stat().st_size)
    each = (sizes[1] - sizes[0]) / 1000
    assert 0 < each <= 138, f"{each:.0f} bytes per step"


async def test_one_step_run_costs_two_commits(journal_path: Path, durability: str) -> None:
    """W1: the run with its first step's call, and the step's outcome with the run's."""
    options: Any = {"durability": durability, "driver": CountingDriver}
    async with Runtime(journal_path, **options) as rt:
        await sequential(rt, 1)
        with counting(rt) as costs:
            for _ in range(20):
                await sequential(rt, 1)
    assert costs.commits == 2 * 20
    # One more if the writer's upkeep has come due meanwhile.
    assert costs.hand_overs - (2 * 20 if durability == "full" else 0) in (0, 1)
    # As in W2, and what a run takes: arguments bound, an id drawn, a row and a handle made, a
    # body prepared, its end recorded, who waits for it told; at `process` the SQL, too. Some 30
    # more or less by how often the journal's thread must wake the loop.
    budget = 400 if durability == "full" else 470
    assert costs.calls / 20 <= budget * MARGIN, explain(costs, 20)


async def test_start_of_many_runs_takes_one_commit(journal_path: Path) -> None:
    """Runs, their first events: one transaction, and few for those that begin meanwhile."""
    async with Runtime(journal_path) as rt:
        await rt.start_many(one_after_the_other, [(0,)])
        before = rt.journal.disk.commits
        with counting(rt) as costs:
            started = await rt.start_many(one_after_the_other, [(0,)] * 200)
        # By then the first ones may have begun, a slice of the loop's time after the other.
        assert rt.journal.disk.commits - before <= 6
        # Arguments bound and encoded, an id drawn, a row and an event made, a body prepared.
        assert costs.calls / 200 <= 110 * MARGIN, explain(costs, 200)
        await asyncio.gather(*[run.result() for run in started])


async def test_short_steps_leave_no_tasks_to_the_host(journal_path: Path) -> None:
    """A step that returns without waiting costs no task of the host's loop."""
    made = 0

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        return asyncio.Task(coro, loop=loop, **options)

    async with Runtime(journal_path) as rt:
        await sequential(rt, 5)
        asyncio.get_running_loop().set_task_factory(factory)
        await sequential(rt, 50)
        asyncio.get_running_loop().set_task_factory(None)
    assert made <= 3
