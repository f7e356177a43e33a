"""How work that nobody awaits any more ends, and how runs do."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import signal
import sys

import pytest

from durable import sleep
from durable._replay.ending import cancelled_ending
from durable._replay.events import WOKEN, Event, EventKind
from durable._replay.script import Inbound
from tests.replay.rig import START_US, Main, Pickled, World, check_replays, perform, replay
from tests.replay.zoo_steps import broken, clean_up, fetch


def start(main: Main) -> World:
    """Return a world whose body has begun."""
    world = World(main)
    world.turn(Inbound(EventKind.RUN_STARTED))
    return world


def answer(seq: int, value: object = None) -> Inbound:
    """Return the completion of a step."""
    return Inbound(EventKind.STEP_COMPLETED, seq, payload=pickle.dumps(value))


# --- left behind ----------------------------------------------------------------------


loose: set[object] = set()


async def leaves_one() -> None:
    """Return while a task waits."""

    async def waits() -> None:
        await sleep(10)

    loose.add(asyncio.create_task(waits(), name="loose"))
    await fetch(1)


def test_work_left_behind_is_cancelled_with_a_warning_that_names_its_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The author learns which task, where it waits, and what to do; replay stays silent."""
    with caplog.at_level(logging.WARNING):
        recording = perform(leaves_one)
    (warning,) = caplog.messages
    line = leaves_one.__code__.co_firstlineno + 4
    assert "run run_1 returned while loose was still waiting at" in warning
    assert f"{__file__}:{line} in waits" in warning and "TaskGroup" in warning
    caplog.clear()
    check_replays(leaves_one, recording)
    assert set(caplog.messages) <= {warning}  # by prefixes that live on to the end
    caplog.clear()
    replay(leaves_one, recording)
    assert caplog.messages == []


async def leaves_a_step() -> None:
    """Return while a task runs that is nothing but a step."""
    loose.add(asyncio.create_task(fetch(7), name="loose"))
    await asyncio.sleep(0)


async def leaves_a_sleep() -> None:
    """Return while a task of a group-less sleep runs."""
    loose.add(asyncio.create_task(sleep("1 day"), name="loose"))
    await asyncio.sleep(0)


async def leaves_a_gather() -> None:
    """Return while `gather` waits for a step."""
    loose.add(asyncio.gather(fetch(7), return_exceptions=True))
    await asyncio.sleep(0)


async def leaves_an_ensured() -> None:
    """Return while `ensure_future` waits for a step."""
    loose.add(asyncio.ensure_future(fetch(7)))
    await asyncio.sleep(0)


async def leaves_a_shield() -> None:
    """Return while `shield` waits for a step."""
    loose.add(asyncio.shield(fetch(7)))
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "main",
    [leaves_a_step, leaves_a_sleep, leaves_a_gather, leaves_an_ensured, leaves_a_shield],
)
def test_task_without_a_line_of_its_own_is_told_by_where_it_was_made(
    main: Main, caplog: pytest.LogCaptureFixture
) -> None:
    """A step or a sleep in a task: what its author can edit is the line that made it."""
    perform(main)
    line = main.__code__.co_firstlineno + 2
    assert f"waiting at {__file__}:{line} in {main.__name__}" in caplog.text


def test_step_that_is_not_awaited_is_named_by_python() -> None:
    """The usual warning, with the name of the step."""

    async def forgets() -> None:
        fetch(7)

    with pytest.warns(RuntimeWarning, match=f"coroutine '{fetch.name}' was never awaited"):
        perform(forgets)


def test_clean_up_of_work_left_behind_runs_but_its_steps_do_not() -> None:
    """Cancelled work may issue steps; the run is over before they could begin."""

    async def careful() -> None:
        try:
            await sleep(1000)
        finally:
            await clean_up("too late")

    async def body() -> None:
        loose.add(asyncio.create_task(careful()))
        await fetch(1)

    recording = perform(body)
    assert recording.kinds()[-3:] == [
        "step_created clean_up",
        "step_cancelled clean_up",
        "run_completed",
    ]
    check_replays(body, recording)


def test_open_steps_of_a_finished_run_are_recorded_as_cancelled() -> None:
    """Nothing stays open behind a run's end."""

    async def body() -> None:
        loose.add(asyncio.create_task(fetch(1)))
        await asyncio.sleep(0)

    world = start(body)
    assert world.recording.kinds()[2:] == [
        "step_created fetch",
        "step_cancelled fetch",
        "run_completed",
    ]
    assert world.body.steps == {} and world.body.waits == {}


# --- given up -------------------------------------------------------------------------


async def gives_up() -> object:
    """Give a step up after a second."""
    try:
        return await asyncio.wait_for(fetch("slow"), 1)
    except TimeoutError:
        return await fetch("fast")


def test_step_whose_await_is_cancelled_is_recorded_as_cancelled() -> None:
    """The decision is a command: it is in the history, and replay must take it again."""
    world = start(gives_up)
    timer, step = sorted([*world.body.waits, *world.body.steps])
    events = world.turn(Inbound(EventKind.WAIT_COMPLETED, timer))
    assert [(EventKind(e.kind).label, e.ref) for e in events] == [
        ("wait_completed", timer),
        ("step_cancelled", step),
        ("step_created", 0),
    ]


def test_late_answer_of_a_step_that_was_given_up_is_dropped() -> None:
    """It is not even recorded, neither in the same turn nor later."""
    world = start(gives_up)
    timer, step = sorted([*world.body.waits, *world.body.steps])
    late = answer(step, "late")
    world.turn(Inbound(EventKind.WAIT_COMPLETED, timer), late)
    assert world.turn(late, late._replace(kind=EventKind.STEP_RETRYING)) == []
    recording = world.finish_from_here()
    assert recording.result == "run_completed: 'fast'"
    check_replays(gives_up, recording)


def test_answer_that_comes_twice_counts_once() -> None:
    """Each step has at most one recorded outcome."""

    async def body() -> object:
        return await fetch(1), await fetch(2)

    world = start(body)
    events = world.turn(answer(3, "first"), answer(3, "second"))
    assert [EventKind(e.kind).label for e in events] == ["step_completed", "step_created"]
    events = world.turn(answer(5, "third"), answer(5, "fourth"))
    assert pickle.loads(events[-1].payload or b"") == ("first", "third")


def test_step_that_completes_while_its_shield_is_cancelled_keeps_its_outcome() -> None:
    """What is shielded is not given up."""

    async def body() -> object:
        kept = asyncio.create_task(fetch("kept"))
        try:
            await asyncio.wait_for(asyncio.shield(kept), 1)
        except TimeoutError:
            await sleep(5)
        return await kept

    world = start(body)
    (step,), (timer,) = world.body.steps, world.body.waits
    world.turn(Inbound(EventKind.WAIT_COMPLETED, timer), answer(step, "kept"))
    (nap,) = world.body.waits
    world.turn(Inbound(EventKind.WAIT_COMPLETED, nap))
    recording = world.finish_from_here()
    assert recording.result == "run_completed: 'kept'"
    assert not any(line.startswith("step_cancelled") for line in recording.kinds())
    check_replays(body, recording)


def test_wait_that_is_woken_early_ends_at_the_time_of_waking() -> None:
    """A wait that ran its time never ends before it; one that was woken does."""

    async def body() -> None:
        await sleep(100)
        await sleep(100)

    world = start(body)
    (woken,) = world.turn(Inbound(EventKind.WAIT_COMPLETED, 3, WOKEN))[:1]
    assert woken.at < START_US + 1_000_000
    (wait,) = world.body.waits.values()
    world.clock.now = START_US  # set back meanwhile
    (ended,) = world.turn(Inbound(EventKind.WAIT_COMPLETED, wait.seq))[:1]
    assert ended.at == wait.due


# --- cancelling a run ------------------------------------------------------------------


def test_cancelled_run_may_clean_up_with_steps() -> None:
    """CancelledError, with the reason as its message, is raised where the body waits."""

    async def body() -> None:
        try:
            await fetch("work")
        except asyncio.CancelledError as error:
            await clean_up(str(error))
            raise

    world = start(body)
    world.turn(Inbound(EventKind.CANCEL_REQUESTED, 0, "user", payload=b"enough"))
    recording = world.finish_from_here()
    assert [line for line in recording.kinds()[3:] if "retrying" not in line] == [
        "cancel_requested user",
        "step_cancelled fetch",
        "step_created clean_up",
        "step_completed",
        "run_cancelled",
    ]
    assert pickle.loads(recording.history[5].payload or b"") == (("enough",), {})
    check_replays(body, recording)


def test_deadline_is_named_by_its_moment() -> None:
    """The error tells when it came, which its request has on record."""
    came = b"its deadline came, at 2024-01-01T00:00:00+00:00"
    request = Event(5, EventKind.CANCEL_REQUESTED, 0, "deadline", START_US, None, came)
    kind, payload, *_ = cancelled_ending(request, Pickled())
    assert kind == EventKind.RUN_FAILED
    assert payload is not None
    assert "deadline came, at 2024-01-01T00:00:00+00:00" in str(pickle.loads(payload))


def test_body_that_swallows_its_cancellation_completes() -> None:
    """As in asyncio."""

    async def body() -> str:
        try:
            await sleep(5)
        except asyncio.CancelledError:
            return "not now"
        return "slept"

    recording = perform(body, cancel_at_turn=0)
    assert recording.kinds()[-1] == "run_completed"
    check_replays(body, recording)


def test_body_that_cancels_itself_fails() -> None:
    """Nobody asked to cancel the run."""

    async def body() -> None:
        me = asyncio.current_task()
        assert me is not None
        me.cancel()
        await fetch(1)

    recording = perform(body)
    assert recording.result == "run_failed: CancelledError()"
    check_replays(body, recording)


@pytest.mark.parametrize("name", ["user", "deadline"])
def test_terminated_run_asks_its_body_nothing(name: str) -> None:
    """A second cancel, or the end of the grace time, closes what is open; no code runs."""
    ran = []

    async def body() -> None:
        try:
            await asyncio.gather(fetch(1), sleep(5))
        finally:
            ran.append("finally")
            await sleep(1000)

    world = start(body)
    world.turn(Inbound(EventKind.CANCEL_REQUESTED, 0, name))
    ran.clear()
    assert world.body.cancel_event is not None
    world.body.end_cancelled(world.body.cancel_event)
    world.recording.history += world.body.script.take()
    expected = "run_cancelled" if name == "user" else "run_failed"
    assert world.recording.kinds()[-1] == expected
    assert world.body.waits == {} and world.body.steps == {}
    body_again = replay(body, world.recording)
    assert body_again.script.divergence is None
    assert body_again.outcome == world.recording.history[-1]
    body_again.abandon()
    del world, body_again
    gc.collect()
    assert ran == ["finally"]  # the replay's own, at the recorded request


# --- results --------------------------------------------------------------------------


def test_result_that_cannot_be_recorded_fails_the_run() -> None:
    """The run has an end in any case."""

    async def body() -> object:
        return lambda: None

    recording = perform(body)
    assert str(recording.result).startswith("run_failed")
    check_replays(body, recording)


def test_refused_argument_is_refused_again_on_replay() -> None:
    """The body may catch the error and take another step; so it must on replay."""

    async def body() -> object:
        try:
            return await fetch(lambda: None)
        except Exception:
            return await fetch("as text")

    recording = perform(body)
    assert recording.result == "run_completed: 'as text'"
    check_replays(body, recording)


def test_system_exit_in_a_body_fails_the_run_and_spares_the_host() -> None:
    """A run cannot end the program it lives in."""

    async def body() -> None:
        await fetch(1)
        sys.exit(3)

    recording = perform(body)
    assert recording.result == "run_failed: SystemExit(3)"
    check_replays(body, recording)


def test_ctrl_c_in_a_body_is_the_hosts_and_records_nothing_of_that_turn() -> None:
    """The signal may hit any line of the body; the run goes on from its history."""
    hit = [signal.SIGINT]
    cleaned = []

    async def body() -> object:
        loose.add(asyncio.create_task(waits()))
        await fetch(1)
        await asyncio.gather(fetch(2), computes())
        return "done"

    async def waits() -> None:
        try:
            await sleep(1000)
        finally:
            cleaned.append("other task")

    async def computes() -> None:
        if hit:
            signal.raise_signal(hit.pop())

    world = start(body)
    before = list(world.recording.history)
    step = next(iter(world.body.steps))
    before_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        world.body.activate([answer(step)])
    signal.signal(signal.SIGINT, before_handler)
    assert world.body.script.take() == [] and world.body.created == []
    (wait,) = world.body.waits
    world.body.activate([Inbound(EventKind.WAIT_COMPLETED, wait)])
    assert world.body.script.take() == [], "a body that was hit takes nothing any more"
    del world
    gc.collect()
    assert cleaned == []
    again = World(body)
    again.turn(Inbound(EventKind.RUN_STARTED))
    assert [e.kind for e in again.recording.history] == [e.kind for e in before]
    assert again.finish_from_here().result == "run_completed: 'done'"


async def loses_an_error() -> None:
    """Start a task whose outcome nobody looks at."""
    await asyncio.wait([asyncio.create_task(broken("lost"))])
    await fetch(1)


async def fails_in_a_callback() -> None:
    """Let a callback fail."""
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await fetch(1)
    await fetch(2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (loses_an_error, "BodyTask exception was never retrieved"),
        (fails_in_a_callback, "a callback failed"),
    ],
)
def test_error_that_nobody_awaits_is_logged_live_and_not_on_replay(
    body: Main, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio's reports reach the log; the same error is not news each time it is replayed."""
    recording = perform(body)
    gc.collect()
    assert caplog.messages == [f"in a workflow body: {message}"]
    caplog.clear()
    again = replay(body, recording)
    assert again.script.divergence is None
    again.abandon()
    del again
    gc.collect()
    assert caplog.messages == []
