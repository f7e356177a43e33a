"""Attributes: set by bodies and steps, recorded once, the same on every replay."""

from __future__ import annotations

import asyncio
import enum
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable import (
    get_workflow_metadata,
    list_runs,
    set_attributes,
    sleep,
    step,
    workflow,
)
from durable._replay.attributes import encode_change, first_attributes
from durable._replay.events import Event, EventKind
from durable.errors import WorkflowRunFailedError, WrongContextError
from durable.testing import VirtualClock
from tests.engine.rig import AT_ONCE, crash, crashing, elapse, make, opened, quiet, until

WAIT = 30.0


class Here:
    """What steps and tests of one test share."""

    seen: list[Any] = []  # noqa: RUF012 - emptied by a fixture
    event: asyncio.Event


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Here.seen = []
    Here.event = asyncio.Event()


def now() -> dict[str, str]:
    """What the body sees at this moment."""
    return get_workflow_metadata().attributes


@step
async def tell(**changes: str | None) -> None:
    await set_attributes(changes)
    Here.seen.append("set")


@step
def tell_in_thread(key: str, value: str) -> str:
    set_attributes({key: value})
    return threading.current_thread().name


@workflow(name="attr.flow")
async def flow() -> list[dict[str, str]]:
    seen = [now()]
    await set_attributes({"stage": "one", "gone": None})
    seen.append(now())
    await tell(by="step", stage="two")
    seen.append(now())
    await sleep(60)
    await set_attributes({"stage": None})
    seen.append(now())
    return seen


SEEN = [
    {"gone": "x", "kept": "y"},
    {"kept": "y", "stage": "one"},
    {"by": "step", "kept": "y", "stage": "two"},
    {"by": "step", "kept": "y"},
]
START = {"gone": "x", "kept": "y"}


# --- what is recorded ---------------------------------------------------------------------


async def test_attributes_of_body_and_step_are_recorded_and_listed(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Each change is one event; the row, the handle and the filters agree at every moment."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(flow.options(attributes=START))
        await quiet(rt)
        assert await run.attributes() == SEEN[2]
        [found] = await list_runs(attributes={"stage": "two", "kept": "y"})
        assert found.attributes == SEEN[2]
        assert not await list_runs(attributes={"stage": "one"})
        assert not await list_runs(attributes={"gone": "x"})
        await elapse(rt, virtual_clock, 60)
        assert await run.result(WAIT) == SEEN
        assert await run.attributes() == SEEN[3]
        changes = [(e.kind, e.ref, e.value) for e in await run.events() if "attr" in e.kind]
        assert changes == [
            ("attr_set", None, {"gone": None, "stage": "one"}),
            ("attr_noted", 4, {"by": "step", "stage": "two"}),
            ("attr_set", None, {"stage": None}),
        ]


async def test_replay_sees_the_attributes_of_each_moment(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """After a crash in the middle the body sees what it saw, beginning with those at the start."""
    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(flow.options(attributes=START))
        await quiet(rt)
    async with opened(journal_path, virtual_clock) as rt:
        again = rt.get_run(run.run_id)
        assert await again.attributes() == SEEN[2]
        await elapse(rt, virtual_clock, 60)
        assert await again.result(WAIT) == SEEN
        assert Here.seen == ["set"], "the step did not run again"
        assert await again.attributes() == SEEN[3]


@workflow(name="attr.first")
async def at_once() -> str:
    await set_attributes({"a": "1"})
    return "done"


async def test_attributes_set_in_the_first_turn_land_with_the_birth(journal_path: Path) -> None:
    """The run's creation, its first turn and its attributes share one transaction."""
    async with opened(journal_path) as rt:
        plain = await rt.start(at_once)
        named = await rt.start(at_once.options(run_id="named", attributes={"b": "2"}))
        assert await plain.result(WAIT) == await named.result(WAIT) == "done"
        assert await plain.attributes() == {"a": "1"}
        assert await named.attributes() == {"a": "1", "b": "2"}
        assert len(await list_runs(attributes={"a": "1"})) == 2
        assert len(await list_runs(attributes={"a": "1", "b": "2"})) == 1


async def test_sync_step_sets_attributes_without_await(journal_path: Path) -> None:
    """It blocks its thread until they are durable."""

    @workflow(name="attr.thread")
    async def threaded() -> tuple[dict[str, str], str]:
        name = await tell_in_thread("by", "thread")
        return now(), name

    async with opened(journal_path) as rt:
        run = await rt.start(threaded)
        attributes, name = await run.result(WAIT)
        assert attributes == {"by": "thread"}
        assert name != threading.current_thread().name


async def test_step_that_fails_afterwards_has_set_its_attributes(journal_path: Path) -> None:
    """They are durable when the call returns, whatever becomes of the attempt."""

    @step(max_retries=1, backoff=AT_ONCE)
    async def fails() -> None:
        await set_attributes({"tried": str(len(Here.seen))})
        Here.seen.append("tried")
        raise ValueError("after that")

    @workflow(name="attr.failing")
    async def failing() -> None:
        await fails()

    clock = VirtualClock()
    async with opened(journal_path, clock) as rt:
        run = await rt.start(failing)
        await elapse(rt, clock, 10)
        with pytest.raises(WorkflowRunFailedError):
            await run.result(WAIT)
        assert await run.attributes() == {"tried": "1"}
        assert [e.value for e in await run.events() if e.kind == "attr_noted"] == [
            {"tried": "0"}, {"tried": "1"},
        ]  # fmt: skip


async def test_many_steps_set_attributes_at_once(journal_path: Path) -> None:
    """Each is recorded in its place; the last one of a key stands."""

    @workflow(name="attr.crowd")
    async def crowd() -> dict[str, str]:
        await asyncio.gather(*(tell(**{f"k{n % 20}": str(n)}) for n in range(60)))
        return now()

    async with opened(journal_path) as rt:
        run = await rt.start(crowd)
        found = await run.result(WAIT)
        assert found == await run.attributes()
        assert set(found) == {f"k{n}" for n in range(20)}
        noted = [e.value for e in await run.events() if e.kind == "attr_noted"]
        assert len(noted) == 60
        last: dict[str, str] = {}
        for change in noted:
            last |= change
        assert found == last


async def test_attributes_are_seen_by_a_body_that_was_evicted(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A run that has left memory comes back with all of them."""
    async with opened(journal_path, virtual_clock, idle_runs=1) as rt:
        runs = [await rt.start(flow.options(attributes=START)) for _ in range(4)]
        await elapse(rt, virtual_clock, 80)
        for run in runs:
            assert await run.result(WAIT) == SEEN


async def test_nothing_is_recorded_for_no_change(journal_path: Path) -> None:
    """An empty mapping is no event."""

    @workflow(name="attr.empty")
    async def empty() -> None:
        await set_attributes({})
        await tell()

    async with opened(journal_path) as rt:
        run = await rt.start(empty)
        await run.result(WAIT)
        assert not [e for e in await run.events() if "attr" in e.kind]


class Colour(enum.StrEnum):
    """An enumeration of texts."""

    RED = "red"


async def test_members_of_an_enumeration_are_kept_as_their_text(journal_path: Path) -> None:
    """What is recorded is plain."""

    @workflow(name="attr.enum")
    async def coloured() -> None:
        await set_attributes({Colour.RED: Colour.RED})

    async with opened(journal_path) as rt:
        run = await rt.start(coloured.options(attributes={"first": Colour.RED}))
        await run.result(WAIT)
        assert await run.attributes() == {"first": "red", "red": "red"}
        assert len(await list_runs(attributes={"red": Colour.RED})) == 1


# --- who may ---------------------------------------------------------------------------------


@step(executor="process", max_retries=0)
def far_away() -> None:
    set_attributes({"k": "v"})


async def test_outside_of_runs_and_in_worker_processes_it_is_refused(journal_path: Path) -> None:
    """The message says where it works."""
    with pytest.raises(WrongContextError, match=r"options\(attributes="):
        await set_attributes({"k": "v"})

    @workflow(name="attr.far")
    async def far() -> None:
        await far_away()

    async with opened(journal_path, processes=1) as rt:
        run = await rt.start(far)
        with pytest.raises(WorkflowRunFailedError, match='executor="process"'):
            await run.result(WAIT)


async def test_attempt_that_was_given_up_sets_nothing(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """What comes too late from a step that took too long goes nowhere."""
    told: list[str] = []

    @step(timeout=5, max_retries=0)
    async def slow() -> None:
        Here.seen.append("begun")
        try:
            await asyncio.sleep(3600)
        finally:
            try:
                await set_attributes({"late": "1"})
            except WrongContextError as error:
                told.append(str(error))

    @workflow(name="attr.late")
    async def late() -> str:
        try:
            await asyncio.wait_for(slow(), 2)
        except TimeoutError:
            await sleep(1)
        return "done"

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(late)
        await until(lambda: Here.seen)
        await virtual_clock.advance(3)
        await elapse(rt, virtual_clock, 10)
        assert await run.result(WAIT) == "done"
        assert await run.attributes() == {}
        assert "is over" in told[0]


# --- crashes ------------------------------------------------------------------------------------


async def test_attributes_are_durable_when_the_call_in_a_step_returns(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A crash right behind it: the note is there, and the next attempt sets it again."""

    @step
    async def stuck() -> None:
        await set_attributes({"attempt": str(len(Here.seen))})
        Here.seen.append("set")
        await Here.event.wait()

    @workflow(name="attr.crash")
    async def crashes() -> dict[str, str]:
        await stuck()
        return now()

    rt = make(journal_path, virtual_clock)
    await rt.open()
    run = await rt.start(crashes)
    await until(lambda: Here.seen)
    await crash(rt)
    Here.event.set()
    async with opened(journal_path, virtual_clock) as again:
        assert (await again.get_run(run.run_id).attributes())["attempt"] in {"0", "1"}
        assert await again.get_run(run.run_id).result(WAIT) == {"attempt": "1"}


# --- replay with other code ----------------------------------------------------------------------


async def test_code_that_no_longer_sets_attributes_diverges(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A recorded decision that the code does not take parks the run, with a diff."""

    def define(sets: bool) -> Any:
        from durable._authoring import registry

        registry._workflows.pop("attr.changing", None)

        @workflow(name="attr.changing")
        async def changing() -> str:
            if sets:
                await set_attributes({"k": "v"})
            await sleep(10)
            return "done"

        return changing

    async with crashing(journal_path, virtual_clock) as rt:
        run = await rt.start(define(sets=True))
        await quiet(rt)
    define(sets=False)
    async with opened(journal_path, virtual_clock) as rt:
        await elapse(rt, virtual_clock, 20)
        status = await rt.get_run(run.run_id).status()
        assert status == "blocked"
        assert "holds attr_set" in str(status.reason)
    define(sets=True)
    async with opened(journal_path, virtual_clock) as rt:
        await rt.get_run(run.run_id).resume()
        await elapse(rt, virtual_clock, 20)
        assert await rt.get_run(run.run_id).result(WAIT) == "done"


keys = st.sampled_from("abcd")
pairs = st.dictionaries(keys, st.sampled_from("123"), max_size=4)
changing = st.lists(st.dictionaries(keys, st.none() | st.sampled_from("123"), min_size=1))


@given(pairs, changing)
def test_first_attributes_are_found_behind_any_changes(
    begun_with: dict[str, str], changes: list[dict[str, str | None]]
) -> None:
    """What a run was started with follows from what it has now and from its history."""
    attributes, history = dict(begun_with), [Event(1, EventKind.RUN_CREATED, 0, "", 0, None, b"")]
    for change in changes:
        payload = encode_change(attributes, change)
        kind = EventKind.ATTR_SET if len(history) % 2 else EventKind.ATTR_NOTED
        history.append(Event(len(history) + 1, kind, 0, "", 0, None, payload))
        for key, value in change.items():
            if value is None:
                attributes.pop(key, None)
            else:
                attributes[key] = value
    assert first_attributes(attributes, history) == begun_with
