"""A world for one body, without a disk: performs its steps and waits, and keeps its history.

`perform` runs a body live: the steps it creates are called, their outcomes arrive after
delays drawn from a seed, some together in one turn, some too late; a virtual clock ticks
with every look at it. The `Recording` remembers the history, where each turn's write
ended, and what reached the run when.

`check_replays` then holds a fresh body against the recording: the whole history, and
every prefix that ends with a write, continued from there to the very same end.
"""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from durable._replay.body import Body
from durable._replay.events import FAILED_ATTEMPT, TERMINAL, Event, EventKind
from durable._replay.opened import OpenStep, OpenWait
from durable._replay.script import Inbound

START_US = 1_704_067_200_000_000
TURNS_MAX = 2_000

Main = Callable[[], Coroutine[Any, Any, Any]]


class Pickled:
    """Values as pickles; errors as pickles too, or as their text. Keeps the calls in mind."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        payload = pickle.dumps((args, kwargs))
        self.calls.append(repr((args, kwargs)))
        return payload

    def encode(self, value: object, root: str = "value") -> bytes:
        return pickle.dumps(value)

    def decode(self, payload: bytes) -> object:
        return pickle.loads(payload)

    def encode_error(self, error: BaseException) -> bytes:
        try:
            return pickle.dumps(error)
        except Exception:
            return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))

    def decode_error(self, payload: bytes, step: str, attempts: int) -> BaseException:
        error: BaseException = pickle.loads(payload)
        return error


@dataclass
class Turn:
    """One activation: the time at its beginning, and what reached the run."""

    now: int
    inbox: list[Inbound]
    ends_at: int = 0  # length of the history afterwards


@dataclass
class Recording:
    """What happened to one run."""

    run_id: str
    history: list[Event]
    turns: list[Turn] = field(default_factory=list)
    outcome: Event | None = None
    result: object = None

    def kinds(self) -> list[str]:
        """The history in short, such as ``["run_created", "step_created charge", ...]``."""
        return [f"{EventKind(e.kind).label} {_short(e.name)}".strip() for e in self.history]

    def commands(self) -> list[str]:
        """The kinds and names of the body's decisions alone."""
        return [line for line in self.kinds() if line.startswith(("step_cr", "step_ca", "wait_cr"))]


class Clock:
    """A wall clock that ticks whenever it is looked at."""

    def __init__(self) -> None:
        self.now = START_US

    def read(self) -> int:
        self.now += 7
        return self.now


def new_body(main: Main, history: list[Event], clock: Clock | None, run_id: str) -> Body:
    """Return a body; without a clock it must not ask for the time."""
    body = Body(run_id, main, history, Pickled(), _no_clock if clock is None else clock.read)
    made_bodies.add(body)
    return body


made_bodies: WeakSet[Body] = WeakSet()  # see conftest


def _no_clock() -> int:
    raise AssertionError("a replay asked for the time")


class World:
    """Runs one body live. What is under way arrives when its drawn time has come."""

    def __init__(self, main: Main, seed: int = 0, *, run_id: str = "run_1") -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        created = Event(1, EventKind.RUN_CREATED, 0, "main", START_US, None, None)
        self.recording = Recording(run_id, [created])
        self.body = new_body(main, [created], self.clock, run_id)
        assert self.body.replay(10)
        self.arriving: list[tuple[int, Inbound]] = []

    def turn(self, *inbox: Inbound) -> list[Event]:
        """Activate the body once; return the events of this turn."""
        turn = Turn(self.clock.now, list(inbox))
        self.body.activate(turn.inbox)
        events = self.body.script.take()
        self.recording.history += events
        turn.ends_at = len(self.recording.history)
        self.recording.turns.append(turn)
        self._act()
        return events

    def _act(self) -> None:
        body = self.body
        ended = {gone.seq for gone in body.ended}
        # A cancelled step may answer all the same, and a timer may have fired already.
        self.arriving = [
            (at, item)
            for at, item in self.arriving
            if item.ref not in ended or self.random.random() < 0.3
        ]
        for new in body.created:
            if isinstance(new, OpenWait):
                self.arriving.append((new.due, Inbound(EventKind.WAIT_COMPLETED, new.seq)))
            elif new.seq in body.steps:
                self.arriving += self._attempts(new)
        body.created, body.ended = [], []

    def _attempts(self, step: OpenStep) -> Iterator[tuple[int, Inbound]]:
        at = self.clock.now
        for _ in range(self.random.choice((0, 0, 0, 1, 2))):
            at += self._delay()
            retry = Inbound(EventKind.STEP_RETRYING, step.seq, FAILED_ATTEMPT, due=at)
            yield at, retry
        at += self._delay()
        args, kwargs = pickle.loads(step.payload)
        try:
            payload = pickle.dumps(outcome(step.step.fn(*args, **kwargs)))  # type: ignore[attr-defined]
        except Exception as error:
            yield at, Inbound(EventKind.STEP_FAILED, step.seq, payload=pickle.dumps(error))
        else:
            yield at, Inbound(EventKind.STEP_COMPLETED, step.seq, payload=payload)

    def _delay(self) -> int:
        return int(self.random.expovariate(1.0) * 1e6)

    def arrivals(self) -> list[Inbound]:
        """Take what arrives next: the earliest, and perhaps more that came shortly after."""
        self.arriving.sort(key=lambda pair: pair[0])
        count = min(self.random.choice((1, 1, 1, 2, 4)), len(self.arriving))
        taken, self.arriving = self.arriving[:count], self.arriving[count:]
        self.clock.now = max(self.clock.now, taken[-1][0])
        return [item for _, item in taken]

    def finish(self, *, cancel_at_turn: int | None = None) -> Recording:
        """Start the body and run it to its end."""
        self.turn(Inbound(EventKind.RUN_STARTED))
        return self.finish_from_here(cancel_at_turn=cancel_at_turn)

    def finish_from_here(self, *, cancel_at_turn: int | None = None) -> Recording:
        """Go on until the body has ended, or nothing can reach it any more."""
        for number in range(TURNS_MAX):
            if self.body.outcome is not None:
                break
            if number == cancel_at_turn:
                request = Inbound(EventKind.CANCEL_REQUESTED, 0, "user", payload=b"enough")
                self.turn(*self.arrivals()[:1], request) if self.arriving else self.turn(request)
            elif self.arriving:
                self.turn(*self.arrivals())
            else:
                break
        else:
            raise AssertionError(f"no end after {TURNS_MAX} turns")
        self.recording.outcome = self.body.outcome
        self.recording.result = told(self.body.outcome)
        return self.recording


def perform(
    main: Main, seed: int = 0, *, cancel_at_turn: int | None = None, run_id: str = "run_1"
) -> Recording:
    """Run `main` live to its end; outcomes arrive in an order drawn from `seed`."""
    world = World(main, seed, run_id=run_id)
    recording = world.finish(cancel_at_turn=cancel_at_turn)
    world.body.abandon()
    return recording


def outcome(value: Any) -> Any:
    """Return what an async step returns that never really waits, or a sync step's value."""
    if not asyncio.iscoroutine(value):
        return value
    try:
        value.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("steps of these tests do not wait")


def told(event: Event | None) -> object:
    """Return the end of a run in comparable form."""
    if event is None:
        return "unfinished"
    if event.kind == EventKind.RUN_CANCELLED or event.payload is None:
        return EventKind(event.kind).label
    return f"{EventKind(event.kind).label}: {pickle.loads(event.payload)!r}"


def _short(name: str) -> str:
    return name.rpartition(".")[2]


# --- replaying ----------------------------------------------------------------------


def replay(main: Main, recording: Recording, *, until: int | None = None, pace: int = 3) -> Body:
    """Return a fresh body that has applied the history, or its first `until` events."""
    body = new_body(main, recording.history[:until], None, recording.run_id)
    while not body.replay(pace):
        pass
    return body


def check_replays(main: Main, recording: Recording) -> None:
    """Replay everything, and every prefix that ends with a write, then go on from there."""
    body = replay(main, recording)
    assert body.script.divergence is None, body.script.divergence
    assert body.script.out == []
    assert body.outcome == recording.outcome
    created = [e.payload for e in recording.history if e.kind == EventKind.STEP_CREATED]
    calls = [repr(pickle.loads(payload)) for payload in created if payload is not None]
    assert body._payloads.calls == calls  # type: ignore[attr-defined]
    body.abandon()
    ends = [1] + [turn.ends_at for turn in recording.turns]
    for done, end in enumerate(ends):
        continue_from(main, recording, done, end)


def continue_from(main: Main, recording: Recording, done: int, end: int) -> None:
    clock = Clock()
    body = new_body(main, recording.history[:end], clock, recording.run_id)
    assert body.replay(len(recording.history) + 1)
    assert body.script.divergence is None, body.script.divergence
    assert clock.now == START_US, "a replay asked for the time"
    for turn in recording.turns[done:]:
        clock.now = turn.now
        body.activate(turn.inbox)
        events = body.script.take()
        expected = recording.history[end : turn.ends_at]
        assert [comparable(e) for e in events] == [comparable(e) for e in expected]
        end = turn.ends_at
    assert told(body.outcome) == recording.result
    body.abandon()


def comparable(event: Event) -> tuple[object, ...]:
    """Return an event without its bytes: equal values may pickle differently."""
    value = told(event) if event.kind in TERMINAL else None
    if event.kind == EventKind.STEP_CREATED and event.payload is not None:
        value = repr(pickle.loads(event.payload))
    return (*event._replace(payload=None), value)
