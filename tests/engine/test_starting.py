"""Starting runs: ids, conflicts, options, children, batches, and what is refused."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import traceback
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import Run, get_workflow_metadata, sleep, start, start_many, step, workflow
from durable._surface import api
from durable.errors import (
    DurationError,
    NotAWorkflowError,
    RunConflictError,
    RunExistsError,
    SerializationError,
    WorkflowNotRegisteredError,
    WrongContextError,
)
from durable.testing import VirtualClock
from tests.engine.rig import (
    count_rows,
    crashing,
    elapse,
    kinds,
    messages,
    opened,
    quiet,
)

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@step(name="tests.starting.note")
async def note(value: Any) -> Any:
    """Note that it ran."""
    ran.append(value)
    return value


@workflow
async def noting(value: Any = None, *, more: Any = None) -> Any:
    """One step."""
    return await note(value)


@workflow
async def other() -> None:
    """Another workflow."""


# --- an id of one's own ---------------------------------------------------------------


@pytest.mark.parametrize("when", ["at once", "after its end", "after a restart"])
async def test_starting_twice_under_one_id_gives_the_same_run(
    journal_path: Path, virtual_clock: VirtualClock, when: str
) -> None:
    """It runs once; the second handle answers like the first."""
    chosen = noting.options(run_id="order-17")
    async with opened(journal_path, virtual_clock) as rt:
        first = await rt.start(chosen, {"b": 1, "a": [2]})
        if when != "at once":
            await first.result()
        if when != "after a restart":
            second = await rt.start(chosen, {"b": 1, "a": [2]})
            assert await second.result() == {"b": 1, "a": [2]}
    if when == "after a restart":
        async with opened(journal_path, virtual_clock) as rt:
            second = await rt.start(chosen, {"b": 1, "a": [2]})
            assert await second.result() == {"b": 1, "a": [2]}
    assert second.run_id == first.run_id == "order-17"
    assert len(ran) == 1


async def test_many_starts_of_one_id_at_the_same_moment_make_one_run(journal_path: Path) -> None:
    """Also within one batch."""
    chosen = noting.options(run_id="one")
    async with opened(journal_path) as rt:
        runs = await asyncio.gather(*[rt.start(chosen, 1) for _ in range(5)])
        runs += await rt.start_many(chosen, [(1,)] * 5)
        assert {await run.result() for run in runs} == {1}
        assert await count_rows(rt) == 1
    assert ran == [1]


@pytest.mark.parametrize("ended", [True, False])
async def test_id_that_is_taken_by_something_else_is_a_conflict(
    journal_path: Path, virtual_clock: VirtualClock, *, ended: bool
) -> None:
    """Other arguments, another workflow; or any run at all with `on_conflict="raise"`."""
    chosen = noting.options(run_id="one", delay=None if ended else 100)
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(chosen, 1)
        if ended:
            await run.result()
        with pytest.raises(RunConflictError, match="other arguments"):
            await rt.start(chosen, 2)
        with pytest.raises(RunConflictError, match="other arguments"):
            await rt.start(chosen, 1, more=2)
        with pytest.raises(RunConflictError, match="other"):
            await rt.start(other.options(run_id="one"))
        with pytest.raises(RunExistsError):
            await rt.start(chosen.options(on_conflict="raise"), 1)
        assert await count_rows(rt) == 1


async def test_conflict_in_a_batch_does_not_hide_what_was_started(journal_path: Path) -> None:
    """The others of the batch are runs like any others."""
    async with opened(journal_path) as rt:
        await rt.start(noting.options(run_id="a"), 1)
        with pytest.raises(RunConflictError):
            await rt.start_many(noting.options(run_id="a"), [(2,), (3,)])
        assert await count_rows(rt) == 1


@pytest.mark.parametrize("run_id", ["", "x" * 257, "a\nb", 5, b"x"])
async def test_unusable_id_is_refused(run_id: Any) -> None:
    """Where the option is given."""
    with pytest.raises((ValueError, TypeError)):
        noting.options(run_id=run_id)


# --- other options --------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {"k": 1},
        {1: "v"},
        {"": "v"},
        {"k": ""},
        {"k": "x" * 257},
        {"k" * 257: "v"},
        {str(n): "v" for n in range(65)},
        [("k", "v")],
    ],
    ids=lambda value: str(value)[:12],
)
def test_attributes_beyond_their_limits_are_refused(attributes: Any) -> None:
    """Text pairs of 1 to 256 characters, up to 64."""
    with pytest.raises((TypeError, ValueError), match="attributes"):
        noting.options(attributes=attributes)


async def test_attributes_and_deployment_are_kept_with_the_run(journal_path: Path) -> None:
    """Up to the limits, in any language."""
    attributes = {str(n): "ü" * 256 for n in range(63)} | {"k" * 256: "v"}
    async with opened(journal_path) as rt:
        run = await rt.start(noting.options(attributes=attributes, deployment_id="v1"))
        await run.result()
        assert await run.attributes() == attributes
        assert (await rt.reader.run_by_id(run.run_id)).deployment_id == "v1"


async def test_latest_deployment_is_accepted_with_one_warning(
    journal_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once per process: a journal has one current deployment."""
    api._warned.clear()
    async with opened(journal_path) as rt:
        for _ in range(3):
            await (await rt.start(noting.options(deployment_id="latest"))).result()
    assert len([text for text in messages(caplog) if "latest" in text]) == 1


async def test_workflow_can_be_started_by_its_name(journal_path: Path) -> None:
    """If this process has defined it."""
    async with opened(journal_path) as rt:
        assert await (await rt.start(noting.name, 4)).result() == 4
        assert [await r.result() for r in await rt.start_many(noting.name, [(1,), {"value": 2}])]
        with pytest.raises(WorkflowNotRegisteredError, match="nobody"):
            await rt.start("nobody")


@pytest.mark.parametrize(
    "options", [{"retries": 3}, {"on_conflict": "ignore"}, {"delay": 1, "at": 2}]
)
def test_unknown_or_contradictory_options_are_refused(options: Any) -> None:
    """With the names of those that exist."""
    with pytest.raises((TypeError, ValueError)):
        noting.options(**options)


@pytest.mark.parametrize(
    ("at", "cause"),
    [
        (5, "an int"),
        (datetime(2024, 1, 1), "no time zone"),  # noqa: DTZ001  # the subject
        (datetime(9999, 1, 1, tzinfo=UTC), "100 years ahead"),
    ],
)
def test_unusable_start_time_is_refused(at: Any, cause: str) -> None:
    """By its own name."""
    with pytest.raises(DurationError, match=f"^at: .*{cause}"):
        noting.options(at=at)


# --- what is refused ------------------------------------------------------------------


async def plain() -> None:
    """Not a workflow."""


BAD_STARTS: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (plain, (), {}, NotAWorkflowError, "plain"),
    (note, (1,), {}, NotAWorkflowError, "called, not started"),
    (None, (), {}, NotAWorkflowError, "None"),
    ("nobody", (), {}, WorkflowNotRegisteredError, "nobody"),
    (noting, (1, 2), {}, TypeError, "too many positional"),
    (noting, (), {"wrong": 1}, TypeError, "wrong"),
    (noting.name, (1, 2), {}, TypeError, "too many positional"),
    (noting, ({"conn": threading.Lock()},), {}, SerializationError, r'args\[0\]\["conn"\]'),
    (noting, (), {"more": [threading.Lock()]}, SerializationError, r'kwargs\["more"\]\[0\]'),
]


@pytest.mark.parametrize(("chosen", "args", "kwargs", "error", "text"), BAD_STARTS)
async def test_bad_start_raises_at_the_call_and_records_nothing(
    journal_path: Path,
    chosen: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    """From outside, from a body and from a step; the message names what is wrong."""

    @step(max_retries=0)
    async def in_step() -> str:
        with pytest.raises(error, match=text):
            await start(chosen, *args, **kwargs)
        return "refused"

    @workflow
    async def in_body() -> str:
        if error is not WorkflowNotRegisteredError:  # for that it would wait
            with pytest.raises(error):
                await start(chosen, *args, **kwargs)
        return await in_step()

    async with opened(journal_path) as rt:
        with pytest.raises(error, match=text):
            await rt.start(chosen, *args, **kwargs)
        with pytest.raises(error, match=text):
            await start(chosen, *args, **kwargs)
        assert await count_rows(rt) == 0
        run = await rt.start(in_body)
        assert await run.result() == "refused"
        assert await count_rows(rt) == 1


async def test_batch_with_one_bad_call_records_none_of_it(journal_path: Path) -> None:
    """All calls are checked before the first is recorded."""
    async with opened(journal_path) as rt:
        with pytest.raises(TypeError):
            await rt.start_many(noting, [(1,), (1, 2)])
        with pytest.raises(SerializationError):
            await rt.start_many(noting, [(1,), (threading.Lock(),)])
        with pytest.raises(TypeError, match="tuple or a mapping"):
            await rt.start_many(noting, [(1,), "x"])
        assert await count_rows(rt) == 0


async def test_workflow_called_like_a_function_says_how_to_start_it(journal_path: Path) -> None:
    """Outside of bodies; and inside a step it is refused as well."""
    with pytest.raises(WrongContextError, match="await start"):
        noting(1)
    assert await noting.fn(5) == 5
    async with opened(journal_path) as rt:
        assert await count_rows(rt) == 0


async def test_start_many_records_a_batch_in_one_commit(journal_path: Path) -> None:
    """And returns the handles in the order of the arguments."""
    async with opened(journal_path) as rt:
        before = rt.journal.writer.commits
        runs = await rt.start_many(noting.options(delay=60), [(n,) for n in range(200)])
        assert rt.journal.writer.commits == before + 1
        assert await count_rows(rt) == 200
        assert len({run.run_id for run in runs}) == 200
        assert await rt.start_many(noting, []) == []


# --- children -------------------------------------------------------------------------


@workflow
async def child(value: int) -> tuple[int, str | None, str]:
    """Tell its ancestors."""
    await note(value)
    meta = get_workflow_metadata()
    return value, meta.parent_id, meta.root_id


@workflow
async def parent(count: int) -> list[str]:
    """Start children, sleep, return their ids."""
    runs = [await start(child, n) for n in range(count)]
    runs += await start_many(child, [(n,) for n in range(10, 10 + count)])
    await sleep(10)
    return [run.run_id for run in runs]


async def test_start_in_a_body_starts_each_child_once(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Also when the parent is replayed; the children know parent and root."""
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(parent, 2)
        await quiet(rt)
    for _ in range(2):
        async with crashing(journal_path, virtual_clock) as rt:
            await quiet(rt)
            await elapse(rt, virtual_clock, 5, 5)
    async with opened(journal_path, virtual_clock) as rt:
        ids = await rt.get_run(run.run_id).result()
        assert [await rt.get_run(one).result() for one in ids] == [
            (n, run.run_id, run.run_id) for n in (0, 1, 10, 11)
        ]
        assert await count_rows(rt) == 5
    assert sorted(ran) == [0, 1, 10, 11]


async def test_grandchildren_keep_the_root(journal_path: Path) -> None:
    """The parent is the one that started it, the root is the first of all."""

    @workflow
    async def middle() -> Any:
        return await (await start(child, 1)).result()

    @workflow
    async def top() -> Any:
        run = await start(middle)
        return run.run_id, await run

    async with opened(journal_path) as rt:
        run = await rt.start(top)
        middle_id, (_, parent_id, root_id) = await run.result()
        assert (parent_id, root_id) == (middle_id, run.run_id)


@pytest.mark.parametrize("options", [{}, {"on_conflict": "raise", "run_id": "mine"}])
async def test_child_interrupted_while_being_started_is_not_started_twice(
    journal_path: Path, virtual_clock: VirtualClock, options: dict[str, Any]
) -> None:
    """The crash comes after the child is recorded and before the parent knows."""

    @workflow
    async def lonely() -> str:
        return (await start(child.options(**options), 1)).run_id

    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(lonely)
        with closing(sqlite3.connect(journal_path)) as beside:
            while beside.execute("SELECT count(*) FROM runs").fetchone() != (2,):
                await asyncio.sleep(0)  # one turn of the loop at a time
    async with opened(journal_path, virtual_clock) as rt:
        run = rt.get_run(run.run_id)
        child_id = await run.result()
        assert (await kinds(run)).count("step_retrying") == 1
        assert await rt.get_run(child_id).result() == (1, run.run_id, run.run_id)
        assert await count_rows(rt) == 2


async def test_only_the_step_that_started_a_child_knows_it_as_its_own(journal_path: Path) -> None:
    """A second start under the same id is a conflict, also in the same body."""

    @workflow
    async def twice() -> list[str]:
        ids = []
        for _ in range(2):
            try:
                started = await start(noting.options(run_id="one", on_conflict="raise"))
                ids.append(started.run_id)
            except RunExistsError:
                ids.append("refused")
        return ids

    async with opened(journal_path) as rt:
        assert await (await rt.start(twice)).result() == ["one", "refused"]
        created = (await rt.get_run("one").events())[0]
        assert (created.kind, created.ref) == ("run_created", None)


async def test_unserialisable_argument_of_a_child_is_named_by_its_place_in_the_call(
    journal_path: Path,
) -> None:
    """Not by its place in the step that starts children; it can be caught, and is on replay."""

    @workflow
    async def parent(many: bool) -> list[Any]:
        try:
            if many:
                await start_many(noting, [(1,), {"more": {"conn": threading.Lock()}}])
            else:
                await start(noting, {"conn": threading.Lock()})
        except SerializationError as error:
            shown = "".join(traceback.format_exception(error))
            return [error.path, str(error).partition(" ")[0], "args[0][0]" in shown]
        return []

    async with opened(journal_path) as rt:
        for many, path in ((False, 'args[0]["conn"]'), (True, 'kwargs["more"]["conn"]')):
            run = await rt.start(parent, many)
            assert await run.result() == [path, path, False]
            assert "step_created" not in await kinds(run)


async def test_child_may_have_options_and_an_id_of_its_own(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """They reach the child as given."""

    @workflow
    async def planner() -> str:
        chosen = child.options(run_id="mine", delay="1m", attributes={"k": "v"})
        return (await start(chosen, 3)).run_id

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(planner)
        assert await run.result() == "mine"
        mine = rt.get_run("mine")
        assert (await mine.status(), await mine.attributes()) == ("pending", {"k": "v"})
        await elapse(rt, virtual_clock, 60)
        assert await mine.result() == (3, run.run_id, run.run_id)
        assert await mine.started_at() - await mine.created_at() == timedelta(minutes=1)


async def test_handles_in_a_body_are_asked_once_and_replayed(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Status and result of a child are recorded answers."""

    @workflow
    async def asker() -> list[Any]:
        run: Run[Any] = await start(child.options(delay=5), 1)
        seen = [str(await run.status()), (await run.result())[0], str(await run.status())]
        await sleep(10)
        return seen

    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(asker)
        await elapse_while_waiting(rt, virtual_clock)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await elapse(rt, virtual_clock, 10)
        run = rt.get_run(run.run_id)
        assert await run.result() == ["pending", 1, "completed"]
        assert (await kinds(run)).count("step_created") == 4


async def elapse_while_waiting(rt: Any, clock: VirtualClock) -> None:
    """Let ten seconds pass although a step waits for a child all the time."""
    for _ in range(10):
        await clock.advance(0.5)
        for _ in range(100):
            await asyncio.sleep(0)
