"""The programs that are killed and resumed: each uses `durable` as an application would.

A scenario starts runs under fixed ids and waits for their results; played again on the
same journal it goes on where the last process died. Every step and every acknowledgement
is noted in the ledger. Play one by hand:

    python -m tests.crash.player sequential /tmp/somewhere

Steps have one name per call, so that journal and ledger can be compared by name. Waits
are a few milliseconds or end early by `wake_up`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from durable import (
    create_hook,
    receive,
    resume_hook,
    send,
    sleep,
    start,
    step,
    workflow,
)
from tests.crash import lifecycle
from tests.crash.program import (
    BrokenError,
    Program,
    attempt,
    insist,
    make,
    make_bulky,
    make_sync,
    note,
)
from tests.crash.streaming import main_streaming
from tests.crash.tagging import main_tagging

LONG = 3600.0


@dataclass(frozen=True)
class Scenario:
    """A program and what must come out of it.

    Attributes:
        main: the program, given the runtime.
        results: expected ``(status, value)`` by run id, as the ledger writes them.
        batch: how many further runs of `batch_flow` there must be in the end; with
            a crash before their acknowledgement there may be more.
        failing: names of the steps that are meant to fail now and then.
        stride: a sweep tries only every so many of its operations: it makes very many.
        retried: runs that are meant to fail and to be tried again.
    """

    main: Callable[[Program], Awaitable[None]]
    results: dict[str, tuple[str, str]]
    batch: dict[str, int] = field(default_factory=dict)
    failing: frozenset[str] = frozenset()
    stride: int = 1
    retried: frozenset[str] = frozenset()


# --- 1. sequential steps ----------------------------------------------------------------

SEQUENCE = [make(f"s{n}") for n in range(1, 6)]


@workflow(name="crash.sequential")
async def sequential(value: int) -> int:
    """Five steps, each fed with the result of the one before."""
    for each in SEQUENCE:
        value = await each(value)
    return value


async def main_sequential(program: Program) -> None:
    """One run after another."""
    for name, value in (("seq-1", 10), ("seq-2", 20)):
        await program.finish(await program.start(sequential.options(run_id=name), value))


# --- 2. parallel steps with retries -----------------------------------------------------

BRANCHES = [make("g1"), make("g2", fails=1), make("g3", fails=2), make("g4")]
JOINED = make("joined", fails=1)


@workflow(name="crash.fan")
async def fan(value: int) -> int:
    """Four parallel steps, two of which need retries, then one more."""
    return await JOINED(sum(await asyncio.gather(*(each(value) for each in BRANCHES))))


async def main_fan(program: Program) -> None:
    """Two runs at the same time."""
    runs = [await program.start(fan.options(run_id=f"fan-{n}"), n) for n in (1, 2)]
    await asyncio.gather(*map(program.finish, runs))


# --- 3. durable sleep and wake_up -------------------------------------------------------

BEFORE, BETWEEN, AFTER = make("before"), make("between"), make("after")


@workflow(name="crash.sleeper")
async def sleeper(value: int) -> int:
    """An hour's sleep that somebody ends early, then a short one that ends by itself."""
    value = await BEFORE(value)
    await sleep(LONG)
    value = await BETWEEN(value)
    await asyncio.sleep(0.001)
    return await AFTER(value)


async def main_sleeper(program: Program) -> None:
    """Start, wait for the first step, wake until the hour is over."""
    run = await program.start(sleeper.options(run_id="sleep-1"), 1)
    await program.until(run, "before")
    ending = asyncio.create_task(program.finish(run))
    while not ending.done():
        await insist(run.wake_up)
        await asyncio.wait([ending], timeout=0.002)
    await ending


# --- 4. a batch, and runs that start runs -----------------------------------------------

SINGLE, FIRST, LAST = make("single"), make("first"), make("last")


@workflow(name="crash.one")
async def one(value: int) -> int:
    """A single step."""
    return await SINGLE(value)


@workflow(name="crash.parent")
async def parent(value: int) -> list[str]:
    """Start two children between two steps; return their ids."""
    value = await FIRST(value)
    children = [await start(one, value + n) for n in range(2)]
    await LAST(value)
    return [child.run_id for child in children]


async def main_family(program: Program) -> None:
    """A batch of four, and a parent with two children."""
    if "batch-done" not in program.known:
        runs = await insist(lambda: program.runtime.start_many(one, [(n,) for n in range(4)]))
        for run in runs:
            note("acked", run.run_id)
        await asyncio.gather(*map(program.finish, runs))
        await program.start(sequential.options(run_id="batch-done"), 0)
    await program.finish(program.runtime.get_run("batch-done"))
    family = await program.start(parent.options(run_id="parent-1"), 5)
    children = await program.finish(family)
    assert isinstance(children, list), f"the parent did not return its children: {children}"
    for child in children:
        await program.finish(program.runtime.get_run(child))


# --- 5. cancellation with clean-up ------------------------------------------------------

BOOK, UNDO, TELL = make("book"), make("undo"), make("tell", fails=1)


@workflow(name="crash.cancellable")
async def cancellable(value: int) -> int:
    """Book, wait; when cancelled, undo in `finally` with two steps."""
    value = await BOOK(value)
    try:
        await sleep(LONG)
    finally:
        await UNDO(value)
        await TELL(value)
    return value


async def main_cancel(program: Program) -> None:
    """Cancel a run that sleeps, once; a cancel that was recorded is not repeated."""
    run = await program.start(cancellable.options(run_id="cancel-1"), 1)
    await program.until(run, "book")
    events = await insist(run.events)
    if not any(event.kind == "cancel_requested" for event in events):
        await insist(lambda: run.cancel("enough"))
        note("cancelled", run.run_id)
    await program.finish(run)


# --- 6. steps that fail for good, and a start that is repeated ---------------------------

DOOMED = make("doomed", fails=99, max_retries=2)
FATAL = make("fatal", fails=99, max_retries=1)
AMENDS = make("amends")


@workflow(name="crash.careful")
async def careful(value: int) -> int:
    """Catch what a step raises after its last attempt, and make amends."""
    try:
        return await DOOMED(value)
    except BrokenError:
        return await AMENDS(value)


@workflow(name="crash.careless")
async def careless(value: int) -> int:
    """Let it out."""
    return await FATAL(value)


async def main_failing(program: Program) -> None:
    """Start each run twice: the second start finds the first."""
    for flow, name in ((careful, "careful-1"), (careless, "careless-1")):
        runs = [await program.start(flow.options(run_id=name), 7) for _ in range(2)]
        await program.finish(runs[0])
        again = await program.start(flow.options(run_id=name), 7)
        await program.finish(again)


# --- 7. plain functions in threads ------------------------------------------------------

THREADED = [make_sync(f"t{n}", fails=n % 2) for n in range(1, 5)]


@workflow(name="crash.threaded")
async def threaded(value: int) -> int:
    """Two plain functions one after the other, two at the same time."""
    value = await THREADED[1](await THREADED[0](value))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each(value)) for each in THREADED[2:]]
    return sum(task.result() for task in tasks)


async def main_threaded(program: Program) -> None:
    """One run."""
    await program.finish(await program.start(threaded.options(run_id="threads-1"), 3))


# --- 8. races: the loser is cancelled -----------------------------------------------------

QUICK, LATE = make("quick"), make("late")


@workflow(name="crash.race")
async def race(value: int) -> int:
    """A step against an hour, then a wait that times out, then one more step."""
    hour = asyncio.create_task(asyncio.sleep(LONG))
    work = asyncio.create_task(QUICK(value))
    _done, pending = await asyncio.wait({hour, work}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    try:
        async with asyncio.timeout(0.002):
            await asyncio.sleep(LONG)
    except TimeoutError:
        value = await LATE(work.result())
    return value


async def main_race(program: Program) -> None:
    """Two runs at the same time."""
    runs = [await program.start(race.options(run_id=f"race-{n}"), n) for n in (1, 2)]
    await asyncio.gather(*map(program.finish, runs))


# --- 9. a step that starts a run ----------------------------------------------------------


@step(name="crash.spawn", max_retries=0)
async def spawn(value: int) -> str:
    """Start a run under a fixed id, after a while; stopping may come in between."""
    finish = attempt(fails=0)
    await asyncio.sleep(0.003)
    run = await insist(lambda: start(one.options(run_id=f"spawned-{value}"), value))
    finish()
    return run.run_id


@workflow(name="crash.spawner")
async def spawner(value: int) -> str:
    """One such step."""
    return await spawn(value)


async def main_spawner(program: Program) -> None:
    """Two runs that start two more."""
    runs = [await program.start(spawner.options(run_id=f"spawner-{n}"), n) for n in (1, 2)]
    for run in runs:
        await program.finish(program.runtime.get_run(await program.finish(run)))


# --- 10. so much data that SQLite moves its -wal into the database on the way ---------------

BULK = [make_bulky(f"b{n}", 200_000) for n in range(24)]


@workflow(name="crash.bulky")
async def bulky(value: int) -> int:
    """Results of 4.8 MB, in three rows of parallel steps."""
    total = 0
    for row in (BULK[:2], BULK[2:22], BULK[22:]):
        total += sum(map(len, await asyncio.gather(*(each(value) for each in row))))
    return total


async def main_bulky(program: Program) -> None:
    """One run, then a small one: the first to write after the -wal was moved."""
    await program.finish(await program.start(bulky.options(run_id="bulky-1"), 1))
    await program.finish(await program.start(sequential.options(run_id="small-1"), 1))


# --- 11. payloads from outside, for a hook and a mailbox, and a token that is taken ------------

HEARD, REPORTED = make("heard"), make("reported")
PAYLOADS = range(4)


@workflow(name="crash.listener")
async def listener(value: int) -> str:
    """A step, then payloads with a time limit each, then two letters that came early."""
    async with create_hook(int, token="crash") as hook:
        await HEARD(value)
        found = [await hook.get(timeout=LONG) for _ in PAYLOADS]
    found += [await receive("early", int) for _ in range(2)]
    await REPORTED(value)
    return repr(found)


@workflow(name="crash.rival")
async def rival(value: int) -> str:
    """Claim the token of the listener, and hear who has it; then once more, when it is free."""
    async with create_hook(token="crash") as hook:
        holder = await hook.get_conflict()
    word = await receive("go")
    async with create_hook(token="crash") as hook:
        return f"{holder and holder.run_id}, {word}, {await hook.get_conflict()}"


async def main_hooks(program: Program) -> None:
    """Letters at once; the rival's conflict; then payloads one by one, each under its key."""
    run = await program.start(listener.options(run_id="listener-1"), 1)
    for n in range(2):
        await program.post(run, n, lambda key, n=n: send(run, "early", n, dedupe_key=key))
    await program.until(run, "heard")
    other = await program.start(rival.options(run_id="rival-1"), 1)
    while "hook_conflict" not in [event.kind for event in await insist(other.events)]:
        await asyncio.sleep(0.001)  # sleeps: an application that looks again
    for n in PAYLOADS:
        await program.post(run, n, lambda key, n=n: resume_hook("crash", n, dedupe_key=key))
    await program.finish(run)
    await program.post(other, "go", lambda key: send(other, "go", "on", dedupe_key=key))
    await program.finish(other)


TAGS = "last,name,stage,step0,step1,step2,step3,step4,step5"

SCENARIOS = {
    "sequential": Scenario(
        main_sequential, {"seq-1": ("completed", "15"), "seq-2": ("completed", "25")}
    ),
    "fan": Scenario(
        main_fan,
        {"fan-1": ("completed", "9"), "fan-2": ("completed", "13")},
        failing=frozenset({"crash.g2", "crash.g3", "crash.joined"}),
    ),
    "sleeper": Scenario(main_sleeper, {"sleep-1": ("completed", "4")}),
    "family": Scenario(
        main_family, {"batch-done": ("completed", "5")}, batch={"crash.one": 6, "crash.parent": 1}
    ),
    "cancel": Scenario(
        main_cancel, {"cancel-1": ("cancelled", "enough")}, failing=frozenset({"crash.tell"})
    ),
    "failing": Scenario(
        main_failing,
        {"careful-1": ("completed", "8"), "careless-1": ("failed", "BrokenError")},
        failing=frozenset({"crash.doomed", "crash.fatal"}),
    ),
    "threaded": Scenario(
        main_threaded,
        {"threads-1": ("completed", "12")},
        failing=frozenset({"crash.t1", "crash.t3"}),
    ),
    "race": Scenario(main_race, {"race-1": ("completed", "3"), "race-2": ("completed", "4")}),
    "spawner": Scenario(
        main_spawner,
        {
            "spawner-1": ("completed", "spawned-1"),
            "spawner-2": ("completed", "spawned-2"),
            "spawned-1": ("completed", "2"),
            "spawned-2": ("completed", "3"),
        },
    ),
    "tagging": Scenario(
        main_tagging,
        dict.fromkeys(("tags-1", "tags-2"), ("completed", TAGS)),
        failing=frozenset({"crash.tag2"}),
    ),
    "streaming": Scenario(main_streaming, {"stream-1": ("completed", "80")}),
    "bulky": Scenario(
        main_bulky,
        {"bulky-1": ("completed", "4800000"), "small-1": ("completed", "6")},
        stride=37,
    ),
    "hooks": Scenario(
        main_hooks,
        {
            "listener-1": ("completed", "[0, 1, 2, 3, 0, 1]"),
            "rival-1": ("completed", "listener-1, on, None"),
        },
    ),
    "retry": Scenario(
        lifecycle.main_retry,
        {"retry-1": ("completed", "7")},
        failing=frozenset({"crash.fragile", "crash.beside"}),
        retried=frozenset({"retry-1"}),
    ),
    "pause": Scenario(
        lifecycle.main_pause,
        {"pause-1": ("completed", "4")},
        failing=frozenset({"crash.latest"}),
    ),
    "chain": Scenario(
        lifecycle.main_chain,
        {"bound-1": ("cancelled", "its parent run has ended")},
        batch={"crash.counting": 4},
    ),
    "gatherer": Scenario(
        lifecycle.main_gatherer,
        {"gather-1": ("completed", "6")},
        batch={"crash.part": 3},
    ),
    "fork": Scenario(
        lifecycle.main_fork,
        {
            "edit-1": ("completed", "3"),
            "edit-2": ("completed", "101"),
            "edit-3": ("completed", "3"),
        },
        batch={"crash.edited": 3},
    ),
}
