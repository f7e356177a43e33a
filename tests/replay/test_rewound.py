"""Histories that were set back: what counts of them, and that replay follows it.

Random bodies are performed live with steps that fail at random; whenever one has failed
the run is set back as a retry does it, and goes on. Whatever came of it must replay.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from durable._authoring.step import Step, StepOptions
from durable._replay.events import (
    ANSWERS,
    COMMANDS,
    NOTES,
    PARKED,
    RESUMED,
    TERMINAL,
    Event,
    EventKind,
)
from durable._replay.rewound import BODY, STEP, View, cut_of, effective, mark
from durable._replay.script import Inbound
from tests.replay.rig import Recording, World, new_body, told

Main = Callable[[], Coroutine[Any, Any, Any]]
RETRIES_MAX = 12
OUTCOMES = {EventKind.STEP_COMPLETED, EventKind.STEP_FAILED, EventKind.STEP_CANCELLED}


class Luck:
    """Steps that fail as a seed says, and less and less."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.unlucky = 0.3

    def step(self, value: int) -> int:
        if self.draw.random() < self.unlucky:
            raise ValueError(f"no luck with {value}")
        return value + 1


def body_of(luck: Luck, plan: list[tuple[str, int]]) -> Main:
    """Return a body that does what `plan` says, one stage after the other."""
    step: Any = Step(luck.step, "luck", StepOptions())

    async def careful(value: int) -> int:
        try:
            return int(await step(value))
        except ValueError:
            return int(await step(-value))

    async def slow(value: int) -> int:
        await asyncio.sleep(value)
        return int(await step(value))

    async def main() -> list[Any]:
        found: list[Any] = []
        for kind, width in plan:
            if kind == "line":
                found += [await step(n) for n in range(width)]
            elif kind == "gather":
                found += await asyncio.gather(*map(step, range(width)))
            elif kind == "collect":
                each = await asyncio.gather(*map(step, range(width)), return_exceptions=True)
                if wrong := [one for one in each if isinstance(one, Exception)]:
                    raise ExceptionGroup("some", wrong)
                found += each
            elif kind == "careful":
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(careful(n + 1)) for n in range(width)]
                found += [task.result() for task in tasks]
            else:
                found += await asyncio.gather(*(slow(n + 1) for n in range(width)))
        return found

    return main


def go_on(main: Main, world: World, history: list[Event], view: View) -> World:
    """Return a world in which a fresh body goes on from a history that was set back."""
    clock = world.clock
    body = new_body(main, list(view.events), clock, world.recording.run_id)
    while not body.replay(3):
        pass
    assert body.script.divergence is None, body.script.divergence
    assert body.outcome is None
    later = World.__new__(World)
    later.random, later.clock, later.body = world.random, clock, body
    later.recording = Recording(world.recording.run_id, history)
    later.arriving = []
    steps, waits = list(body.steps.values()), list(body.waits.values())
    first = view.inbox() or ([] if body.started else [Inbound(EventKind.RUN_STARTED)])
    if first:
        later.turn(*first)
    for step in steps:
        if step.seq in body.steps:
            later.arriving += later._attempts(step)
    for wait in waits:
        if wait.seq in body.waits:
            later.arriving.append((wait.due, Inbound(EventKind.WAIT_COMPLETED, wait.seq)))
    return later


def set_back(world: World, request: bytes) -> list[Event]:
    """Return the history with the mark of a retry behind it."""
    history = world.recording.history
    cut, why = cut_of(history)
    world.clock.now += 1_000_000
    return [*history, mark(history[-1].seq + 1, cut, why, world.clock.now, request)]


def well_formed(history: list[Event]) -> None:
    """What counts of any history must itself be a history that replay can follow."""
    view = effective(history)
    seqs = [event.seq for event in view.events]
    assert seqs == sorted(set(seqs))
    assert set(seqs) <= {event.seq for event in history}
    created = {event.seq: event.kind for event in view.events if event.kind in COMMANDS}
    ended: Counter[int] = Counter()
    for event in (*view.events, *view.carried):
        if event.kind in ANSWERS and event.ref:
            assert created[event.ref] == ANSWERS[event.kind]
        if event.kind in OUTCOMES or event.kind == EventKind.WAIT_COMPLETED:
            ended[event.ref] += 1
    assert all(count == 1 for count in ended.values()), ended
    assert all(event.kind not in TERMINAL for event in view.events[:-1])


plans = st.lists(
    st.tuples(st.sampled_from(["line", "gather", "collect", "careful", "slow"]), st.integers(1, 4)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150)
@given(plan=plans, seed=st.integers(0, 2**32))
def test_failed_runs_end_in_success_if_they_are_retried_long_enough(
    plan: list[tuple[str, int]], seed: int
) -> None:
    """Every intermediate history is well formed, dense, and replays to where the run stands."""
    luck = Luck(seed)
    main = body_of(luck, plan)
    world = World(main, seed)
    world.finish()
    for attempt in range(RETRIES_MAX):
        end = world.body.outcome
        assert end is not None
        well_formed(world.recording.history)
        if end.kind == EventKind.RUN_COMPLETED:
            break
        assert end.kind == EventKind.RUN_FAILED
        if attempt > RETRIES_MAX // 2:
            luck.unlucky = 0.0
        history = set_back(world, f"{attempt}".encode())
        well_formed(history)
        world.body.abandon()
        world = go_on(main, world, history, effective(history))
        world.finish_from_here()
    history = world.recording.history
    assert [event.seq for event in history] == list(range(1, len(history) + 1))
    assert world.body.outcome is not None and world.body.outcome.kind == EventKind.RUN_COMPLETED
    check_replays_rewound(main, world.recording)


def check_replays_rewound(main: Main, recording: Recording) -> None:
    """A fresh body that follows what counts comes to the recorded end."""
    view = effective(recording.history)
    body = new_body(main, list(view.events), None, recording.run_id)
    while not body.replay(5):
        pass
    assert body.script.divergence is None, body.script.divergence
    assert told(body.outcome) == told(recording.history[-1])
    body.abandon()


@settings(max_examples=100)
@given(plan=plans, seed=st.integers(0, 2**32), data=st.data())
def test_completed_steps_that_existed_at_the_cut_never_run_again(
    plan: list[tuple[str, int]], seed: int, data: st.DataObject
) -> None:
    """Each is completed in what counts, or its outcome is carried."""
    world = World(body_of(Luck(seed), plan), seed)
    world.finish()
    history = world.recording.history
    world.body.abandon()
    if history[-1].kind != EventKind.RUN_FAILED:
        return
    cut, why = cut_of(history)
    retried = effective(set_back(world, b"x"))
    existing = {event.seq for event in history if event.seq < cut}
    for event in history:
        if event.kind == EventKind.STEP_COMPLETED and event.ref in existing:
            assert event in retried.events or event in retried.carried
    failed = [e for e in history if e.kind == EventKind.STEP_FAILED and e.ref in existing]
    for event in failed:
        if event.seq >= cut and why == STEP:
            assert not any(e.ref == event.ref for e in retried.carried)


@settings(max_examples=150)
@given(plan=plans, seed=st.integers(0, 2**32), data=st.data())
def test_outcomes_recorded_while_parked_are_delivered_when_the_run_goes_on(
    plan: list[tuple[str, int]], seed: int, data: st.DataObject
) -> None:
    """Recorded behind the body's back, they reach it in order, and all of it replays."""
    luck = Luck(seed)
    luck.unlucky = 0.1
    main = body_of(luck, plan)
    world = World(main, seed)
    world.turn(Inbound(EventKind.RUN_STARTED))
    while world.body.outcome is None and world.arriving:
        unseen = world.arrivals()
        if not data.draw(st.booleans()):
            world.turn(*unseen)
            continue
        history = list(world.recording.history)
        seen = history[-1].seq
        for item in unseen:
            at = world.clock.read()
            history.append(
                Event(history[-1].seq + 1, item.kind, item.ref, item.name, at, item.due,
                      item.payload)
            )  # fmt: skip
        history.append(mark(history[-1].seq + 1, seen + 1, RESUMED, world.clock.read()))
        world.body.abandon()
        view = effective(history)
        world = go_on(main, world, history, view)
    if world.body.outcome is not None:
        check_replays_rewound(main, world.recording)
    world.body.abandon()


def events_of(*kinds: tuple[EventKind, int]) -> list[Event]:
    """Return a history of these kinds and references, numbered from 1."""
    return [
        Event(seq, kind, ref, "", seq * 10, None, None) for seq, (kind, ref) in enumerate(kinds, 1)
    ]


def test_history_that_was_never_set_back_is_taken_as_it_is() -> None:
    """The very same events; nothing is copied."""
    history = events_of((EventKind.RUN_CREATED, 0), (EventKind.RUN_STARTED, 0))
    assert effective(history) == View(history, ())
    assert effective(history).events is history


def test_run_that_failed_before_it_began_is_set_back_to_its_start() -> None:
    """It was late for its deadline; nothing of it had run."""
    history = events_of((EventKind.RUN_CREATED, 0), (EventKind.RUN_FAILED, 0))
    assert cut_of(history) == (2, BODY)
    view = effective([*history, mark(3, 2, BODY, 99)])
    assert [event.seq for event in view.events] == [1, 3]
    assert not view.started and not view.carried


def test_failure_counts_as_an_attempt_and_so_does_a_step_that_was_called_off() -> None:
    """So that no number of an attempt is given twice."""
    history = events_of(
        (EventKind.RUN_CREATED, 0),
        (EventKind.RUN_STARTED, 0),
        (EventKind.STEP_CREATED, 0),
        (EventKind.STEP_CREATED, 0),
        (EventKind.STEP_FAILED, 3),
        (EventKind.STEP_CANCELLED, 4),
        (EventKind.RUN_FAILED, 3),
    )
    assert cut_of(history) == (5, STEP)
    view = effective([*history, mark(8, 5, STEP, 99)])
    assert [(e.seq, e.kind, e.name) for e in view.events[4:]] == [
        (5, EventKind.STEP_RETRYING, "failed"),
        (6, EventKind.STEP_RETRYING, PARKED),
        (8, EventKind.RUN_REWOUND, STEP),
    ]
    assert all(event.kind in NOTES for event in view.events[4:])
