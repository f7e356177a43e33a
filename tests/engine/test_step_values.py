"""Arguments and results of steps cross by value, live and on replay alike."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from durable import (
    get_step_metadata,
    get_workflow_metadata,
    sleep,
    start,
    step,
    workflow,
)
from durable.errors import SerializationError, WrongContextError
from durable.testing import VirtualClock
from tests.engine.rig import AT_ONCE, crashing, kinds, opened, quiet, result_of

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@dataclass
class Point:
    """A value of the user's own class."""

    x: int
    tags: list[str]


class Colour(Enum):
    """An enumeration."""

    RED = 1


VALUES = [
    None,
    True,
    (1, ("a", b"b")),
    {1, 2, 3},
    frozenset({"x"}),
    [1, 2.5, {"k": (None,)}],
    Point(1, ["a"]),
    Colour.RED,
    datetime(2024, 5, 1, 12, tzinfo=UTC),
    timedelta(days=2, microseconds=7),
    Decimal("1.10"),
    Path("a/b"),
    1 + 2j,
    2**200,
]


@step
async def echo(value: Any) -> Any:
    """Return what came."""
    return value


@step
def echo_in_thread(value: Any) -> Any:
    """Return what came, from a thread."""
    return value


@step(executor="process")
def echo_in_process(value: Any) -> Any:
    """Return what came, from another process."""
    return value


# --- equality -------------------------------------------------------------------------


async def test_body_sees_equal_values_of_the_same_type_live_and_replayed(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Tuples stay tuples, sets sets; whether they were computed now or read from the journal."""
    seen: list[list[Any]] = []

    @workflow
    async def collect() -> bool:
        got = [await (echo if n % 2 else echo_in_thread)(value) for n, value in enumerate(VALUES)]
        seen.append(got)
        await sleep(10)
        return [(type(a), a) for a in got] == [(type(b), b) for b in VALUES]

    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(collect)
        await quiet(rt)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await virtual_clock.advance(11)
        assert await rt.get_run(run.run_id).result() is True
    live, replayed = seen
    assert live == replayed == VALUES
    assert [type(value) for value in live] == [type(value) for value in replayed]


async def test_values_cross_to_a_worker_process_and_back(journal_path: Path) -> None:
    """The same values through `executor="process"`."""

    @workflow
    async def collect() -> list[Any]:
        return [await echo_in_process(value) for value in VALUES[:9]]

    assert await result_of(journal_path, collect) == VALUES[:9]


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_step_cannot_change_what_the_body_holds(journal_path: Path, kind: str) -> None:
    """The argument is a copy, made when the step was called."""

    def spoil(values: list[int]) -> int:
        values.append(99)
        return len(values)

    async def spoil_async(values: list[int]) -> int:
        return spoil(values)

    chosen = step()(spoil_async) if kind == "async" else step()(spoil)

    @workflow
    async def holder() -> tuple[int, list[int]]:
        held = [1]
        call = asyncio.ensure_future(chosen(held))
        await asyncio.sleep(0)
        held.append(2)  # after the call: the step does not see it
        return await call, held

    assert await result_of(journal_path, holder) == (2, [1, 2])


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_body_cannot_change_what_the_step_holds(journal_path: Path, executor: str) -> None:
    """The result is a copy, made when the step returned."""
    kept = [1]

    def give() -> list[int]:
        return kept

    async def give_async() -> list[int]:
        return kept

    chosen = step()(give_async) if executor == "async" else step()(give)

    @workflow
    async def taker() -> int:
        (await chosen()).append(2)
        return len(await chosen())

    assert await result_of(journal_path, taker) == 1
    assert kept == [1]


async def test_each_attempt_gets_the_arguments_as_they_were_given(journal_path: Path) -> None:
    """What a failed attempt has done to its arguments is not seen by the next."""

    @step(backoff=AT_ONCE)
    async def spoil(values: list[int]) -> list[int]:
        values.append(get_step_metadata().attempt)
        if len(values) < 2 or get_step_metadata().attempt < 3:
            raise ValueError
        return values

    @workflow
    async def holder() -> list[int]:
        return await spoil([0])

    assert await result_of(journal_path, holder) == [0, 3]


# --- what cannot be recorded ----------------------------------------------------------


async def test_unserialisable_argument_raises_at_the_call_and_can_be_caught(
    journal_path: Path,
) -> None:
    """Nothing is issued, the path inside the value is named, the body goes on."""

    @workflow
    async def careful() -> str:
        try:
            await echo({"conn": [threading.Lock()]})
        except SerializationError as error:
            return f"{error.path} {await echo('on')}"
        return "not refused"

    async with opened(journal_path) as rt:
        run = await rt.start(careful)
        assert await run.result() == 'args[0]["conn"][0] on'
        assert (await kinds(run)).count("step_created") == 1


class Odd:
    """A value whose own code keeps it from being recorded."""

    def __reduce__(self) -> Any:
        raise KeyError("no")


@pytest.mark.parametrize("make", [threading.Lock, Odd, lambda: (n for n in ())])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_unserialisable_result_fails_the_step_without_another_attempt(
    journal_path: Path, make: Any, kind: str
) -> None:
    """Running it again would not help, and it has had its effects."""
    ran = []

    def body() -> Any:
        ran.append(1)
        return make()

    async def async_body() -> Any:
        return body()

    chosen = step(name=f"tests.odd_result_{kind}")(async_body if kind == "async" else body)

    @workflow
    async def caller() -> str:
        try:
            await chosen()
        except SerializationError as error:
            return error.path
        return "not refused"

    async with opened(journal_path) as rt:
        run = await rt.start(caller)
        assert (await run.result()).startswith("result")
        assert "step_retrying" not in await kinds(run)
    assert ran == [1]


# --- metadata and context -------------------------------------------------------------


async def test_step_metadata_names_the_step_the_run_and_one_key_for_all_attempts(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The idempotency key is the same over attempts; the attempt counts from 1."""
    seen = []

    @step(name="tests.described", backoff=AT_ONCE, max_retries=2)
    def described() -> None:
        seen.append(get_step_metadata())
        if len(seen) < 3:
            raise ValueError

    @workflow
    async def caller() -> None:
        await described()

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(caller)
        await run.result()
    assert [meta.attempt for meta in seen] == [1, 2, 3]
    assert {meta.idempotency_key for meta in seen} == {seen[0].step_id}
    assert {(meta.name, meta.run_id) for meta in seen} == {("tests.described", run.run_id)}
    assert seen[0].started_at == datetime(2024, 1, 1, tzinfo=UTC)


async def test_two_steps_never_share_an_idempotency_key(journal_path: Path) -> None:
    """Not in one run, and not in two."""

    @step
    async def key() -> str:
        return get_step_metadata().idempotency_key

    @workflow
    async def caller() -> list[str]:
        return [await key(), *await asyncio.gather(key(), key())]

    async with opened(journal_path) as rt:
        first, second = [await (await rt.start(caller)).result() for _ in range(2)]
    assert len({*first, *second}) == 6


async def test_step_metadata_is_refused_outside_of_steps(journal_path: Path) -> None:
    """In a body and elsewhere the error says where it works."""

    @workflow
    async def wrong() -> None:
        get_step_metadata()

    with pytest.raises(WrongContextError):
        get_step_metadata()
    async with opened(journal_path) as rt:
        run = await rt.start(wrong)
        with pytest.raises(Exception, match="failed") as failed:
            await run.result()
    assert isinstance(failed.value.__cause__, WrongContextError)


async def test_workflow_metadata_is_the_same_on_replay(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Also `started_at`, which is journal time."""
    seen = []

    @workflow
    async def asker() -> None:
        seen.append(get_workflow_metadata())
        await echo(1)
        seen.append(get_workflow_metadata())
        await sleep(100)

    chosen = asker.options(attributes={"who": "me"}, delay=5, deployment_id="d7")
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(chosen)
        await virtual_clock.advance(5)
        await quiet(rt)
    async with opened(journal_path, virtual_clock) as rt:
        await quiet(rt)
        await virtual_clock.advance(200)
        await rt.get_run(run.run_id).result()
    assert len(seen) == 4
    assert set(map(str, seen)) == {str(seen[0])}
    meta = seen[0]
    assert (meta.run_id, meta.root_id, meta.parent_id) == (run.run_id, run.run_id, None)
    assert (meta.attributes, meta.deployment_id) == ({"who": "me"}, "d7")
    assert meta.workflow_name == asker.name
    assert meta.started_at - meta.created_at == timedelta(seconds=5)


async def test_context_variables_of_the_body_reach_its_steps(journal_path: Path) -> None:
    """Async and sync steps see what was set when they were called, each run its own."""

    @step
    async def on_loop() -> str:
        return tenant.get()

    @step
    def in_thread() -> str:
        return tenant.get()

    @workflow
    async def asker(name: str) -> list[str]:
        before = await on_loop()
        tenant.set(name)
        return [before, await on_loop(), await in_thread()]

    tenant.set("the host")
    async with opened(journal_path) as rt:
        runs = [await rt.start(asker, name) for name in "ab"]
        assert [await run.result() for run in runs] == [
            ["nobody", "a", "a"],
            ["nobody", "b", "b"],
        ]
    assert tenant.get() == "the host"


async def test_start_inside_a_step_is_an_ordinary_start_on_the_same_runtime(
    journal_path: Path, tmp_path: Path
) -> None:
    """The runtime that makes the attempt is used, whichever was opened last."""

    @workflow
    async def child() -> int:
        return 7

    @step
    async def starter() -> str:
        return (await start(child)).run_id

    @workflow
    async def parent() -> str:
        return await starter()

    async with opened(journal_path) as rt, opened(tmp_path / "other.db"):
        child_id = await (await rt.start(parent)).result()
        assert await rt.get_run(child_id).result() == 7
        assert await rt.get_run(child_id).parent_id() is None
