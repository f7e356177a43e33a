"""Changed code is found out at its first other decision, and harms nothing."""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle

import pytest

from durable import sleep
from durable._replay.events import Event, EventKind
from durable._replay.script import Inbound
from durable.errors import NondeterminismError
from tests.replay.mutants import INNOCENT, MUTANTS, ORDER, RAN, Main, charge, order, pack
from tests.replay.rig import START_US, Recording, World, check_replays, perform, replay

SEED = next(s for s in range(1000) if perform(order, s).kinds() == ORDER)


@pytest.fixture
def recording() -> Recording:
    """The history of `order`, as `ORDER` shows it."""
    made = perform(order, SEED)
    assert made.kinds() == ORDER
    RAN.clear()
    return made


def marked_line(main: Main) -> str | None:
    """Return where the source of `main` says ``# here``, if it does."""
    lines, first = inspect.getsourcelines(main)
    for number, line in enumerate(lines, first):
        if "# here" in line:
            return f"{__file__.replace('test_divergence', 'mutants')}:{number} "
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_changed_body_is_found_out_at_its_first_other_decision(
    name: str, recording: Recording
) -> None:
    """Position, recorded event, what the code did, and the line to look at."""
    mutant = MUTANTS[name]
    body = replay(mutant.main, recording, until=mutant.until)
    found = body.script.divergence
    assert isinstance(found, NondeterminismError)
    assert found.position == mutant.position
    assert found.expected.replace("tests.replay.mutants.", "") == mutant.expected
    assert found.got.replace("tests.replay.mutants.", "") == mutant.got
    assert f"{found.where} ".startswith(marked_line(mutant.main) or __file__[:5])
    assert body.outcome is None and body.script.out == []
    body.abandon()


@pytest.mark.parametrize("name", MUTANTS)
def test_no_finally_of_a_diverged_body_runs(name: str, recording: Recording) -> None:
    """Its clean-up would act as if the run had ended; the run is only parked."""
    body = replay(MUTANTS[name].main, recording, until=MUTANTS[name].until)
    body.abandon()
    del body
    gc.collect()
    assert RAN == []


@pytest.mark.parametrize("name", MUTANTS)
def test_repaired_code_goes_on_where_the_history_ends(name: str, recording: Recording) -> None:
    """A failed replay leaves nothing behind: the recorded code replays as before."""
    replay(MUTANTS[name].main, recording, until=MUTANTS[name].until).abandon()
    check_replays(order, recording)


@pytest.mark.parametrize("name", INNOCENT)
def test_change_that_decides_the_same_does_not_diverge(name: str, recording: Recording) -> None:
    """Logging, computing, restructuring, other options: any of it may change."""
    check_replays(INNOCENT[name], recording)


def test_wait_that_was_changed_ends_when_it_was_recorded_to_end(recording: Recording) -> None:
    """How long a wait lasts is decided once, when it is created."""

    async def changed() -> None:
        await charge(42)
        await sleep(90)

    body = replay(changed, recording, until=5)
    assert body.script.divergence is None
    assert body.waits[5].due == recording.history[4].due


@pytest.mark.parametrize("pace", [1, 2, 5, 100])
def test_divergence_is_the_same_however_the_replay_is_sliced(
    pace: int, recording: Recording
) -> None:
    """The host gets its turns between slices; that changes nothing."""
    mutant = MUTANTS["loser_is_cancelled"]
    found = replay(mutant.main, recording, pace=pace).script.divergence
    assert found is not None and found.position == mutant.position


def test_message_tells_position_both_sides_the_line_and_the_way_out(recording: Recording) -> None:
    """One sentence that can be acted on."""
    body = replay(MUTANTS["step_renamed"].main, recording)
    message = str(body.script.divergence)
    assert message.startswith("at event 3 the history holds step_created 'tests.replay.mutants")
    assert "mutants.py:" in message and "in step_renamed" in message
    assert "run.resume()" in message


def test_step_that_was_removed_from_the_code_is_named(recording: Recording) -> None:
    """So that a run can wait for its code to be registered."""
    body = replay(MUTANTS["gift_removed"].main, recording)
    assert body.script.missing_name() == "tests.replay.mutants.refuse"


def test_divergence_at_a_cancellation_names_the_line_of_the_body() -> None:
    """The request comes from the host, whose lines are not to blame."""

    async def recorded_body() -> None:
        await asyncio.sleep(5)

    async def changed() -> None:
        await charge(1)

    world = World(recorded_body)
    world.turn(Inbound(EventKind.RUN_STARTED))
    *history, wait = world.recording.history
    payload = pickle.dumps(((1,), {}))
    history.append(wait._replace(kind=EventKind.STEP_CREATED, name=charge.name, payload=payload))
    history.append(Event(4, EventKind.CANCEL_REQUESTED, 0, "user", START_US, None, None))
    body = replay(changed, Recording("run_1", history))
    found = body.script.divergence
    assert found is not None
    assert found.got == f"issued step_cancelled {charge.name!r} of event 3"
    assert found.where.endswith(" in changed")
    world.body.abandon()
    body.abandon()


def test_no_other_task_of_a_diverged_body_runs_on(recording: Recording) -> None:
    """Neither behind a step that differs nor behind a wait."""

    async def goes_on() -> None:
        RAN.append("other task")

    async def step_differs() -> None:
        await asyncio.gather(pack("cup"), goes_on())

    async def wait_differs() -> None:
        await asyncio.gather(sleep(5), goes_on())

    for changed in (step_differs, wait_differs):
        body = replay(changed, recording)
        assert body.script.divergence is not None
        body.abandon()
    assert RAN == []


def test_cancelling_another_step_of_the_same_name_is_a_divergence() -> None:
    """A command is compared with the event it refers to, too."""

    def body(victim: int) -> Main:
        async def main() -> None:
            tasks = [asyncio.create_task(pack(item)) for item in ("cup", "spoon")]
            await asyncio.sleep(5)
            tasks[victim].cancel()
            await asyncio.wait(tasks)

        return main

    world = World(body(0))
    world.turn(Inbound(EventKind.RUN_STARTED))
    world.turn(Inbound(EventKind.WAIT_COMPLETED, next(iter(world.body.waits))))
    other = replay(body(1), world.recording)
    assert other.script.divergence is not None
    assert other.script.divergence.got == f"issued step_cancelled {pack.name!r} of event 5"
    for each in (other, world.body):
        each.abandon()


def test_answer_to_something_the_body_gave_up_is_a_divergence(recording: Recording) -> None:
    """Live, such an answer is dropped before it is recorded."""
    history = [*recording.history[:4], recording.history[3]._replace(seq=5)]
    found = replay(order, Recording("run_1", history)).script.divergence
    assert found is not None
    assert (found.position, found.got) == (5, "issued wait_created 'sleep'")


def test_arguments_that_no_longer_fit_the_signature_are_a_divergence(recording: Recording) -> None:
    """The run is parked like after any other change, and not lost."""

    async def changed(missing: str) -> None:
        await pack(missing)

    found = replay(changed, recording).script.divergence  # type: ignore[arg-type]
    assert found is not None
    assert found.position == 3 and found.got == "came to its end (run_failed)"


def test_end_from_outside_is_no_divergence(recording: Recording) -> None:
    """A run that was terminated did not come to its end by its code."""
    world = World(order, SEED)
    world.turn(Inbound(EventKind.RUN_STARTED))
    world.body.terminate(EventKind.RUN_CANCELLED, None)
    history = recording.history[:3] + world.body.script.take()
    body = replay(order, Recording("run_1", history))
    assert body.script.divergence is None
    assert body.outcome == history[-1]
