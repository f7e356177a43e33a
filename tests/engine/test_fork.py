"""New runs that share the history of another one, with results of steps edited."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Run,
    RunOrigin,
    create_hook,
    get_step_metadata,
    random,
    resume_hook,
    set_attributes,
    sleep,
    step,
    uuid4,
    workflow,
)
from durable.errors import (
    ForkError,
    RunExistsError,
    RunStateError,
    SerializationError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
)
from durable.testing import VirtualClock
from tests.engine.rig import WAIT, crash, kinds, make, opened, quiet, until

CALLS: Counter[str] = Counter()
BROKEN: set[str] = set()
GATES: dict[str, asyncio.Event] = {}
KEYS: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    CALLS.clear()
    BROKEN.clear()
    GATES.clear()
    KEYS.clear()


async def act(name: str, value: Any) -> Any:
    """Note the call; wait for the gate if there is one; fail if it is broken."""
    CALLS[name] += 1
    KEYS.append(get_step_metadata().idempotency_key)
    if name in GATES:
        await GATES[name].wait()
    if name in BROKEN:
        raise ValueError(name)
    return f"{value}{name}"


@step(name="fork.a", max_retries=0)
async def a(value: Any) -> Any:
    """Add an a."""
    return await act("a", value)


@step(name="fork.b", max_retries=0)
async def b(value: Any) -> Any:
    """Add a b."""
    return await act("b", value)


@step(name="fork.c", max_retries=0)
async def c(value: Any) -> Any:
    """Add a c."""
    return await act("c", value)


@workflow(name="fork.line")
async def line(value: str) -> str:
    """Three steps."""
    return str(await c(await b(await a(value))))


async def finished(rt: Any, flow: Any = line, *args: Any, **options: Any) -> Run[Any]:
    """Return a run that has completed."""
    run: Run[Any] = await rt.start(flow.options(**options) if options else flow, *(args or (">",)))
    await run.result(WAIT)
    CALLS.clear()
    return run


async def test_fork_at_a_step_attempts_that_step_and_what_follows(journal_path: Path) -> None:
    """What came before is shared and does not run again; the original stays as it is."""
    async with opened(journal_path) as rt:
        run = await finished(rt, run_id="r")
        before = await run.events()
        made = await run.fork(at="fork.b", run_id="f")
        assert await made.result(WAIT) == ">abc"
        assert CALLS == {"b": 1, "c": 1}
        assert await run.events() == before
        assert await made.origin() == RunOrigin("forked", "r")
        assert await made.replayed_from() == "r"
        events = await made.events()
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.kind for event in events[:5]] == [event.kind for event in before[:5]]
        assert KEYS[-2:] == ["f:5", "f:8"]
        assert all(not key.startswith("r:") for key in KEYS[-2:])


@pytest.mark.parametrize("key", ["fork.a", "a", "r:3", 3, a])
async def test_edited_result_is_what_the_step_has_returned(journal_path: Path, key: Any) -> None:
    """Named by itself, its name, the end of its name, its id or its number."""
    async with opened(journal_path) as rt:
        run = await finished(rt, run_id="r")
        made = await run.fork(results={key: "<edited>"})
        assert await made.result(WAIT) == "<edited>bc"
        assert CALLS == {"b": 1, "c": 1}


async def test_fork_at_the_end_goes_through_the_end_again(journal_path: Path) -> None:
    """No step runs again; what the body did last it does again."""
    async with opened(journal_path) as rt:
        run = await finished(rt)
        made = await run.fork()
        assert await made.result(WAIT) == ">abc"
        assert not CALLS


async def test_fork_at_an_event_shares_everything_up_to_it(journal_path: Path) -> None:
    """Whatever the event is, the run ends the same; the less is shared the more runs again."""
    async with opened(journal_path) as rt:
        run = await finished(rt)
        shared: list[int] = []
        for event in await run.events():
            CALLS.clear()
            made = await run.fork(at=event.seq)
            assert await made.result(WAIT) == ">abc"
            shared.append(3 - CALLS.total())
        assert shared == [0, 0, 0, 1, 1, 2, 2, 3, 3]


async def failed(rt: Any) -> Run[Any]:
    """A run of `line` that has failed at its second step."""
    BROKEN.add("b")
    run = await rt.start(line, ">")
    with pytest.raises(WorkflowRunFailedError):
        await run.result(WAIT)
    CALLS.clear()
    return run


async def test_failed_step_may_be_given_a_result(journal_path: Path) -> None:
    """The run goes on as if it had returned that."""
    async with opened(journal_path) as rt:
        run = await failed(rt)
        made = await run.fork(results={b: "by hand "})
        assert await made.result(WAIT) == "by hand c"
        assert CALLS == {"c": 1}
        assert await run.status() == "failed"


async def test_fork_of_a_failed_run_goes_on_where_a_retry_would(journal_path: Path) -> None:
    """But as another run."""
    async with opened(journal_path) as rt:
        run = await failed(rt)
        BROKEN.clear()
        made = await run.fork()
        assert await made.result(WAIT) == ">abc"
        assert CALLS == {"b": 1, "c": 1}


@workflow(name="fork.crowd")
async def crowd() -> list[Any]:
    """Three steps at the same time, then one more."""
    found = await asyncio.gather(a(1), b(2), c(3), return_exceptions=True)
    if wrong := [each for each in found if isinstance(each, Exception)]:
        raise ExceptionGroup("some failed", wrong)
    return [*found, await a("last ")]


async def test_results_of_some_keep_the_outcomes_of_the_others(journal_path: Path) -> None:
    """Those that completed after the failed one, too."""
    BROKEN.add("b")
    async with opened(journal_path) as rt:
        run = await rt.start(crowd)
        with pytest.raises(WorkflowRunFailedError):
            await run.result(WAIT)
        CALLS.clear()
        made = await run.fork(results={"b": "edited"})
        assert await made.result(WAIT) == ["1a", "edited", "3c", "last a"]
        assert CALLS == {"a": 1}


async def test_running_run_can_be_forked_and_goes_on_itself(journal_path: Path) -> None:
    """Its step in flight is attempted by the fork as well, unless it gets a result."""
    GATES["b"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(line, ">")
        await until(lambda: CALLS["b"])
        made = await run.fork()
        await until(lambda: CALLS["b"] == 2)
        other = await run.fork(results={"b": "edited"})
        assert await other.result(WAIT) == "editedc"
        GATES["b"].set()
        assert await run.result(WAIT) == await made.result(WAIT) == ">abc"
        assert CALLS == {"a": 1, "b": 2, "c": 3}


@workflow(name="fork.sleeper")
async def sleeper() -> str:
    """A step, an hour, a step."""
    try:
        value = await a("")
        await sleep("1h")
    finally:
        await c("")
    return str(await b(value))


async def test_cancelled_run_is_forked_before_it_was_asked_to_end(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The fork sleeps for as long as was left, and completes."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(sleeper)
        await quiet(rt)
        await virtual_clock.advance(1800)
        await run.cancel("a mistake")
        with pytest.raises(WorkflowRunCancelledError):
            await run.result(WAIT)
        await virtual_clock.advance(86400)
        CALLS.clear()
        made = await run.fork()
        await quiet(rt)
        await virtual_clock.advance(3500)
        assert await made.status() == "running"
        await virtual_clock.advance(200)
        assert await made.result(WAIT) == "ab"
        assert CALLS == {"b": 1, "c": 1}


async def test_fork_survives_a_crash_and_can_be_forked_and_retried(journal_path: Path) -> None:
    """Its history is one like any other."""
    clock = VirtualClock()
    rt = make(journal_path, clock)
    await rt.open()
    run = await finished(rt, run_id="r")
    GATES["c"] = asyncio.Event()
    await run.fork(results={"a": "1"}, run_id="f")
    await until(lambda: CALLS["c"])
    await crash(rt)
    GATES["c"].set()
    BROKEN.add("c")
    async with opened(journal_path, clock) as rt:
        made = rt.get_run("f")
        with pytest.raises(WorkflowRunFailedError):
            await made.result(WAIT)
        again = await made.fork(results={"b": "2"})
        with pytest.raises(WorkflowRunFailedError):
            await again.result(WAIT)
        BROKEN.clear()
        await again.retry()
        assert await again.result(WAIT) == "2c"
        await made.retry()
        assert await made.result(WAIT) == "1bc"
        assert await again.origin() == RunOrigin("forked", "f")
    async with opened(journal_path, clock) as rt:
        third = await rt.get_run("f").fork(at="c")
        assert await third.result(WAIT) == "1bc"


@workflow(name="fork.lucky")
async def lucky() -> list[Any]:
    """Random numbers decide which steps are taken."""
    steps = [random().choice([a, b, c]) for _ in range(8)]
    return [str(uuid4()), *[await each(random().randrange(1000)) for each in steps]]


async def test_fork_draws_the_same_random_numbers(journal_path: Path) -> None:
    """Else it could not follow the shared history; a fork of a fork draws them, too."""
    async with opened(journal_path) as rt:
        run = await rt.start(lucky)
        expected = await run.result(WAIT)
        made = await run.fork(at=8)
        assert await made.result(WAIT) == expected
        assert await (await made.fork(at=10)).result(WAIT) == expected
        assert await (await run.rerun()).result(WAIT) != expected


async def test_fork_has_options_of_its_source_and_a_new_timeout(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Attributes as they were at the place of the fork."""

    @workflow(name="fork.marked")
    async def marked() -> str:
        await set_attributes({"stage": "one"})
        value = await a("")
        await set_attributes({"stage": "two"})
        return str(await b(value))

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(marked.options(attributes={"who": "me"}, timeout="1h"))
        await run.result(WAIT)
        await virtual_clock.advance(86400)
        GATES["a"] = asyncio.Event()
        made = await run.fork(at="a")
        await until(lambda: CALLS["a"] == 2)
        assert await made.attributes() == {"who": "me", "stage": "one"}
        GATES["a"].set()
        assert await made.result(WAIT) == "ab"
        assert await made.attributes() == {"who": "me", "stage": "two"}


async def test_own_id_makes_one_fork(journal_path: Path) -> None:
    """Repeated, it is the same run; an id of another one is refused."""
    async with opened(journal_path) as rt:
        run = await finished(rt, run_id="r")
        made = await run.fork(run_id="f")
        await made.result(WAIT)
        assert await run.fork(run_id="f") == made
        with pytest.raises(RunExistsError):
            await run.fork(run_id="r")


@pytest.mark.parametrize(
    ("at", "results", "told"),
    [
        ("nothing", {}, "no step named 'nothing'; those that it has begun: fork.a, fork.b"),
        (99, {}, "no event 99"),
        (0, {}, "no event 0"),
        ("r:99", {}, "event 99 is no step"),
        (None, {"nothing": 1}, "no step named 'nothing'"),
        (None, {2: 1}, "event 2 is no step"),
        ("fork.a", {"fork.c": 1}, "had not begun yet"),
    ],
)
async def test_place_or_step_that_is_not_there_is_refused(
    journal_path: Path, at: Any, results: Any, told: str
) -> None:
    """With what there is; nothing is recorded."""
    async with opened(journal_path) as rt:
        run = await finished(rt, run_id="r")
        with pytest.raises(ForkError, match=told):
            await run.fork(at, results, run_id="f")
        assert not await rt.get_run("f").exists()


async def test_unusable_arguments_are_refused(journal_path: Path) -> None:
    """Before anything is asked of the journal."""
    async with opened(journal_path) as rt:
        run = await finished(rt, run_id="r")
        with pytest.raises(TypeError, match=r"at=1\.5"):
            await run.fork(at=1.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="name a step by itself"):
            await run.fork(results={1.5: 1})  # type: ignore[dict-item]
        with pytest.raises(SerializationError, match=r"results\['a'\]"):
            await run.fork(results={"a": (n for n in ())})
        with pytest.raises(ValueError, match="at least one character"):
            await run.fork(run_id="")
        with pytest.raises(WorkflowRunNotFoundError):
            await rt.get_run("nobody").fork()


@workflow(name="fork.twice")
async def twice() -> list[Any]:
    """The same step two times."""
    return [await a(1), await a(2)]


async def test_step_that_was_called_more_than_once_is_named_by_its_id(journal_path: Path) -> None:
    """The error lists the ids."""
    async with opened(journal_path) as rt:
        run = await rt.start(twice.options(run_id="r"))
        await run.result(WAIT)
        with pytest.raises(ForkError, match=r"2 steps named 'a'.*\(r:3\), fork\.a \(r:5\)"):
            await run.fork(at="a")
        assert await (await run.fork(results={"r:5": "x"})).result(WAIT) == ["1a", "x"]


@workflow(name="fork.gate")
async def gate(token: str) -> list[Any]:
    """Wait for two payloads under a token of its own."""
    async with create_hook(token=token) as hook:
        first = await hook
        await a("")
        return [first, await hook]


async def test_hook_of_a_run_that_has_ended_goes_to_its_fork(journal_path: Path) -> None:
    """What was received is shared; what comes now reaches the fork."""
    async with opened(journal_path) as rt:
        run = await rt.start(gate, "t")
        await quiet(rt)
        await resume_hook("t", 1)
        await until(lambda: CALLS["a"])
        await resume_hook("t", 2)
        assert await run.result(WAIT) == [1, 2]
        made = await run.fork(at="a")
        await until(lambda: CALLS["a"] == 2)
        await resume_hook("t", 3)
        assert await made.result(WAIT) == [1, 3]


async def test_hook_that_is_still_held_is_not_taken_away(journal_path: Path) -> None:
    """A fork that would need it is refused, with who holds it."""
    async with opened(journal_path) as rt:
        run = await rt.start(gate.options(run_id="r"), "t")
        await quiet(rt)
        await resume_hook("t", 1)
        await until(lambda: CALLS["a"])
        with pytest.raises(RunStateError, match="hook 't' that it needs is held by run r"):
            await run.fork(run_id="f")
        assert not await rt.get_run("f").exists()
        await resume_hook("t", 2)
        assert await run.result(WAIT) == [1, 2]


@workflow(name="fork.forker")
async def forker(run_id: str) -> list[Any]:
    """Fork another run with an edited result."""
    made = await Run[Any](run_id).fork(results={a: "x"})
    return [made.run_id, await made.result()]


async def test_body_forks_another_run_once(journal_path: Path) -> None:
    """Under an id that is derived from its step."""
    async with opened(journal_path) as rt:
        run = await finished(rt)
        made_id, result = await (await rt.start(forker.options(run_id="p"), run.run_id))
        assert (made_id, result) == ("p.3", "xbc")
        assert "run_rewound" in await kinds(rt.get_run("p.3"))


async def test_fork_of_a_paused_run_decides_about_what_has_come_meanwhile(
    journal_path: Path,
) -> None:
    """The paused body has not seen it; the fork's is told of it, and goes on."""
    GATES["a"] = asyncio.Event()
    async with opened(journal_path) as rt:
        run = await rt.start(line, ">")
        await until(lambda: CALLS["a"])
        await run.pause()
        GATES["a"].set()
        await quiet(rt)
        assert (await kinds(run))[-1] == "step_completed"
        expected = await (await rt.start(line, ">")).result(WAIT)
        calls = CALLS["a"]
        assert await (await run.fork()).result(WAIT) == expected
        assert CALLS["a"] == calls
        await run.resume()
        assert await run.result(WAIT) == expected
