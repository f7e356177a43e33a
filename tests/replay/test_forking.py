"""Histories that begin with a part of another one: a body follows them from any place on."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable._replay.events import STEP_COMPLETED, STEP_CREATED, TERMINAL, Event, EventKind
from durable._replay.forking import fork
from durable._replay.rewound import FORK, cut_of, effective, mark
from durable.errors import ForkError
from tests.replay.rig import World, told
from tests.replay.test_rewound import Luck, body_of, go_on, plans, set_back

Plan = list[tuple[str, int]]


def lived(plan: Plan, seed: int, retries: int) -> tuple[Any, Luck, World]:
    """Return a run that has ended, after some retries."""
    luck = Luck(seed)
    main = body_of(luck, plan)
    world = World(main, seed)
    world.finish()
    for attempt in range(retries):
        assert world.body.outcome is not None
        if world.body.outcome.kind != EventKind.RUN_FAILED:
            break
        history = set_back(world, f"{attempt}".encode())
        world.body.abandon()
        world = go_on(main, world, history, effective(history))
        world.finish_from_here()
    world.body.abandon()
    return main, luck, world


@settings(max_examples=60)
@given(plan=plans, seed=st.integers(0, 2**32), retries=st.integers(0, 2))
def test_fork_at_any_event_can_be_followed_and_finished(
    plan: Plan, seed: int, retries: int
) -> None:
    """Also of a history that was set back before; numbers are dense, and nothing ends early."""
    main, luck, world = lived(plan, seed, retries)
    history = world.recording.history
    luck.unlucky = 0.0
    for event in effective(history).events:
        made = fork("run_1", history, event.seq, [], history[-1].at + 5)
        check_fork(made)
        again = go_on(main, world, made, effective(made))
        again.finish_from_here()
        outcome = again.body.outcome
        again.body.abandon()
        assert outcome is not None
        assert outcome.kind in {EventKind.RUN_COMPLETED, EventKind.RUN_FAILED}


@settings(max_examples=80)
@given(plan=plans, seed=st.integers(0, 2**32), retries=st.integers(0, 2))
def test_fork_at_the_end_ends_like_the_run(plan: Plan, seed: int, retries: int) -> None:
    """One that completed completes with the same result, and no step runs again."""
    main, luck, world = lived(plan, seed, retries)
    history = world.recording.history
    luck.unlucky = 0.0
    made = fork("run_1", history, None, [], history[-1].at + 5)
    check_fork(made)
    again = go_on(main, world, made, effective(made))
    assert told(history[-1]).startswith("run_failed") or not again.arriving
    again.finish_from_here()
    outcome = again.body.outcome
    again.body.abandon()
    if history[-1].kind == EventKind.RUN_COMPLETED:
        assert told(outcome) == told(history[-1])


@settings(max_examples=80)
@given(plan=plans, seed=st.integers(0, 2**32), data=st.data())
def test_edited_result_reaches_the_body(plan: Plan, seed: int, data: st.DataObject) -> None:
    """Of any step that has an outcome; the fork can be followed, and finished."""
    main, luck, world = lived(plan, seed, 1)
    history = world.recording.history
    luck.unlucky = 0.0
    view = effective(history)
    kinds = (STEP_COMPLETED, EventKind.STEP_FAILED)
    ended = sorted({event.ref for event in view.events if event.kind in kinds})
    if not ended:
        return
    chosen = data.draw(st.sampled_from(ended))
    edits = [(chosen, pickle.dumps(1000))]
    made = fork("run_1", history, None, edits, history[-1].at + 5)
    check_fork(made)
    given_to = [e for e in effective(made).carried if e.payload == edits[0][1]]
    assert len(given_to) == 1
    again = go_on(main, world, made, effective(made))
    again.finish_from_here()
    assert again.body.outcome is not None
    again.body.abandon()


def check_fork(made: list[Event]) -> None:
    """It is dense, refers to what is there, and holds one mark, which is its last event."""
    assert [event.seq for event in made] == list(range(1, len(made) + 1))
    assert made[-1].kind == EventKind.RUN_REWOUND and made[-1].name == FORK
    assert [e.kind for e in made].count(EventKind.RUN_REWOUND) == 1
    assert all(event.kind not in TERMINAL for event in made)
    for event in made[:-1]:
        assert event.ref < event.seq
        assert event.ref == 0 or made[event.ref - 1].kind in {STEP_CREATED, 20}


def history_of(*kinds: tuple[EventKind, int, str]) -> list[Event]:
    """Return a history of these kinds, references and names."""
    return [
        Event(seq, kind, ref, name, seq * 10, None, None)
        for seq, (kind, ref, name) in enumerate(kinds, 1)
    ]


LINE = history_of(
    (EventKind.RUN_CREATED, 0, "w"),
    (EventKind.RUN_STARTED, 0, ""),
    (EventKind.STEP_CREATED, 0, "m.a"),
    (EventKind.STEP_COMPLETED, 3, ""),
    (EventKind.STEP_CREATED, 0, "m.b"),
    (EventKind.STEP_CANCELLED, 5, "m.b"),
    (EventKind.RUN_FAILED, 0, ""),
)


@pytest.mark.parametrize("key", ["m.a", "a", "r:3", 3])
def test_step_is_found_by_name_id_and_number(key: int | str) -> None:
    """Where its name ends with a part that is enough to tell it, too."""
    made = fork("r", LINE, key, [], 100) if isinstance(key, str) else LINE
    edited = fork("r", LINE, None, [(key, b"x")], 100)
    assert [event.kind for event in made[:3]] == [event.kind for event in LINE[:3]]
    assert edited[-2].payload == b"x"


def test_step_that_the_body_gave_up_is_no_place_to_fork_at() -> None:
    """It would be given up again; the error says what to name instead."""
    with pytest.raises(ForkError, match="given up by the body"):
        fork("r", LINE, "b", [], 100)


def test_fork_begins_its_own_creation() -> None:
    """What told the old run's creation from others does not tell the new one's."""
    history = [LINE[0]._replace(ref=12345), *LINE[1:]]
    assert fork("r", history, 2, [], 100)[0].ref == 0


def test_what_earlier_retries_have_put_off_stays_put_off() -> None:
    """The marks are gone, their effect on waits and on failures is not."""
    history = [
        *history_of(
            (EventKind.RUN_CREATED, 0, "w"),
            (EventKind.RUN_STARTED, 0, ""),
            (EventKind.WAIT_CREATED, 0, "sleep"),
            (EventKind.STEP_CREATED, 0, "m.a"),
            (EventKind.STEP_FAILED, 4, ""),
            (EventKind.RUN_FAILED, 4, ""),
        )
    ]
    history[2] = history[2]._replace(due=1000)
    cut, why = cut_of(history)
    history.append(mark(7, cut, why, 5_000))
    made = fork("r", history, None, [], 6_000)
    waits = [event for event in made if event.kind == EventKind.WAIT_CREATED]
    assert [event.due for event in waits] == [1000 + 5_000 - 40]
    retried = [event for event in made if event.kind == EventKind.STEP_RETRYING]
    assert [event.name for event in retried] == ["parked"]
