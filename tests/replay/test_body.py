"""What the engine reads from a body: time, attempts, and where it stands."""

from __future__ import annotations

import asyncio
import gc

import pytest

from durable import now, sleep
from durable._replay.events import FAILED_ATTEMPT, INTERRUPTED, PARKED, EventKind
from durable._replay.script import Inbound
from tests.replay.rig import START_US, World, new_body, perform, replay
from tests.replay.zoo_steps import fetch


async def two_sleeps() -> object:
    """Tell the time between two sleeps."""
    times = [now()]
    for seconds in (1, 1):
        await sleep(seconds)
        times.append(now())
    return times == sorted(times)


def test_wait_begins_when_it_is_issued_and_not_when_the_turn_began() -> None:
    """Journal time stands still while a body computes; a wait must not end early for that."""
    world = World(two_sleeps)
    started, wait = world.turn(Inbound(EventKind.RUN_STARTED))
    assert started.at < world.clock.now
    assert wait.due == world.clock.now + 1_000_000
    assert wait.at == started.at
    world.body.abandon()


def test_journal_time_never_goes_back() -> None:
    """Whatever the wall clock does, later events have later times."""
    world = World(two_sleeps)
    world.clock.now += 3_600_000_000
    world.turn(Inbound(EventKind.RUN_STARTED))
    world.clock.now = START_US  # a time server has put it right
    while world.body.outcome is None:
        world.turn(*world.arrivals())
        world.clock.now = START_US
    times = [event.at for event in world.recording.history]
    assert times == sorted(times)
    assert world.finish_from_here().result == "run_completed: True"


def test_time_of_notes_does_not_move_the_journals_time() -> None:
    """Attempts are recorded for people; the body never sees them."""

    async def body() -> None:
        await asyncio.gather(fetch(1), sleep(5))

    world = World(body)
    world.turn(Inbound(EventKind.RUN_STARTED))
    before = world.body.script.now_us
    world.clock.now += 1_000_000
    step = next(iter(world.body.steps))
    world.turn(Inbound(EventKind.STEP_RETRYING, step, FAILED_ATTEMPT, due=world.clock.now))
    assert world.body.script.now_us == before
    world.body.abandon()


def test_times_in_a_history_do_not_decrease_behind_a_note() -> None:
    """Somebody sets the clock back before an attempt fails, and once more behind that."""

    async def body() -> None:
        await asyncio.gather(fetch(1), sleep(5))

    world = World(body)
    world.turn(Inbound(EventKind.RUN_STARTED))
    step = next(iter(world.body.steps))
    for seconds in (-3600, 7200, -7200):
        world.clock.now += seconds * 1_000_000
        world.turn(Inbound(EventKind.STEP_RETRYING, step, FAILED_ATTEMPT, due=world.clock.now))
    request = Inbound(EventKind.CANCEL_REQUESTED, 0, "user", payload=b"enough")
    world.turn(request)
    times = [event.at for event in world.recording.history]
    assert times == sorted(times)
    assert world.body.outcome is not None


def test_attempts_are_counted_by_their_causes_also_on_replay() -> None:
    """Failures, crashes and orderly stops each use up a number, and only failures a retry."""

    async def main() -> None:
        await fetch(1)

    world = World(main)
    world.turn(Inbound(EventKind.RUN_STARTED))
    for name in (FAILED_ATTEMPT, INTERRUPTED, PARKED, FAILED_ATTEMPT):
        world.turn(Inbound(EventKind.STEP_RETRYING, 3, name, due=START_US + 99))
    again = replay(main, world.recording)
    for body in (world.body, again):
        step = body.steps[3]
        assert (step.failures, step.interruptions, step.parks) == (2, 1, 1)
        assert step.attempt == 5
        assert step.retry_at == START_US + 99
        body.abandon()


def test_replay_wants_no_effects_performed_again() -> None:
    """What is still open is found in `steps` and `waits`; nothing counts as new or as ended."""

    async def body() -> None:
        await asyncio.gather(fetch(1), fetch(2), sleep(5))
        await fetch(3)

    world = World(body)
    world.turn(Inbound(EventKind.RUN_STARTED))
    world.turn(Inbound(EventKind.STEP_COMPLETED, 4, payload=world.body.steps[4].payload))
    again = replay(body, world.recording)
    assert (again.created, again.ended) == ([], [])
    assert (list(again.steps), list(again.waits)) == ([3], [5])
    assert again.steps[3].payload == world.recording.history[2].payload
    for each in (again, world.body):
        each.abandon()


def test_replay_in_slices_tells_when_the_history_is_used_up() -> None:
    """The host gets a turn between slices of a long history."""

    async def body() -> None:
        for n in range(10):
            await fetch(n)
        await asyncio.Event().wait()

    recording = perform(body, 3)
    commands = len(recording.commands())
    inbound = len(recording.history) - 1 - commands
    sliced = new_body(body, recording.history, None, "run_1")
    assert not sliced.replay(inbound)  # all are applied; that no command is missing comes next
    assert sliced.replay(1)
    assert sliced.is_stuck and sliced.script.divergence is None
    sliced.abandon()


def test_delayed_run_has_a_body_that_has_not_started() -> None:
    """Its code runs when it is its time; until then it can be ended from outside."""
    world = World(two_sleeps)
    assert not world.body.started and not world.body.is_stuck
    world.body.terminate(EventKind.RUN_CANCELLED, b"changed my mind")
    world.recording.history += world.body.script.take()
    again = replay(two_sleeps, world.recording)
    assert again.outcome == world.recording.history[-1]
    assert again.script.divergence is None and not again.started


@pytest.mark.parametrize("ends", [True, False])
def test_garbage_of_a_body_says_nothing_once_the_body_is_gone(
    ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A collection comes at any time, and what it finds then concerns nobody any more."""

    async def fails() -> None:
        raise ValueError("nobody awaits this")

    async def body() -> None:
        holder: list[object] = []
        holder += [holder, asyncio.create_task(fails())]
        await sleep(1)
        if not ends:
            await sleep(1000)

    gc.collect()
    world = World(body)
    world.turn(Inbound(EventKind.RUN_STARTED))
    world.turn(Inbound(EventKind.WAIT_COMPLETED, next(iter(world.body.waits))))
    assert (world.body.outcome is not None) is ends
    world.body.abandon()
    caplog.clear()
    del world
    gc.collect()
    assert caplog.records == []
