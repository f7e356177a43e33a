"""The journal's protocol as moves of an explicit state: decide, commit, act; fail; go on.

One run (`body`), a disk, processes that execute from it, and a ledger of what the world has
seen. A move is what the product does in one piece: an event is applied and submitted with
the decisions that follow (`Activation.submit`), a batch is committed and its effects begin
(`Writer._performed`, `Activation.act`), a COMMIT raises and the writer fences itself, reopens
and re-reads (`Writer._fence`, `_restored`), a process dies and another one opens the journal
(`Loader._arm`). The disk decides what nobody can know: whether what was not acknowledged is
there afterwards.

A `Policy` is what the product does, or one thing that it might do instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from tests.model.body import (
    ATTEMPTS_MAX,
    BEGINNING,
    ENDS,
    INTERRUPTED,
    LOST,
    PAYLOAD,
    RETRYING,
    UNRECORDED,
    History,
    extended,
    read,
    recorded,
    step_in_flight,
)


@dataclass(frozen=True)
class Policy:
    """What the product does; each field has the alternatives that the tests refute.

    Attributes:
        sync: "full", or "normal": a COMMIT returns before it is safe from a power loss.
        unknown: of a COMMIT that raised: "fence"; or say at once that it failed: "tell
            callers", or "tell the step", which then has failed as if by itself.
        effects: begin "after" the COMMIT that they follow from, or "before".
        acks: are given "after" the COMMIT, or "before".
        late: results of attempts that were given up: "drop", or "accept".
        cancel: "asks" the body, or "ends" the run by a row of its own.
        inbox: its events reach the body "one by one", or "at once".
        owners: "one", or "two": a second one does not wait for the first one's death.
    """

    sync: str = "full"
    unknown: str = "fence"
    effects: str = "after"
    acks: str = "after"
    late: str = "drop"
    cancel: str = "asks"
    inbox: str = "one by one"
    owners: str = "one"


SHIPPED = Policy()


class Limits(NamedTuple):
    """How much may happen; what is left of it is part of a state."""

    crashes: int = 1
    power_losses: int = 1
    faults: int = 1
    sends: int = 1
    cancels: int = 1
    timeouts: int = 1


class Process(NamedTuple):
    """A process that executes the run: its memory."""

    applied: History = ()  # what its body has been given, and has decided
    sent: int = 0  # so much of that is on its way to the disk, or there
    known: int = 0  # so much is durable, as far as it has been told
    fenced: bool = False
    strays: frozenset[tuple[str, int]] = frozenset()  # attempts that were given up, and run on


class State(NamedTuple):
    """Everything: the disk, the processes, the world."""

    disk: tuple[History, ...] = ()  # batches
    tail: History = ()  # of a COMMIT that raised: it may be there or not
    processes: tuple[Process, ...] = (Process(),)
    ledger: frozenset[str] = frozenset()
    left: Limits = Limits()


Move = tuple[str, State]


@cache
def content(disk: tuple[History, ...]) -> History:
    """Return what a process that opens the journal reads."""
    return tuple(event for batch in disk for event in batch)


def moves(state: State, policy: Policy) -> Iterator[Move]:
    """Return all that may happen next."""
    for number, process in enumerate(state.processes):
        mover = _Mover(state, policy, number, process)
        yield from mover.moves()
    if not state.processes or (policy.owners == "two" and len(state.processes) == 1):
        yield _opened(state)
    if state.processes:
        yield from _deaths(state, policy)


# --- dying and opening ------------------------------------------------------------------


def _deaths(state: State, policy: Policy) -> Iterator[Move]:
    left = state.left
    if left.crashes:
        after = state._replace(processes=(), tail=(), left=left._replace(crashes=left.crashes - 1))
        yield from _left_behind(state, after, "the process dies", state.disk)
    if left.power_losses:
        fewer = left._replace(power_losses=left.power_losses - 1)
        after = state._replace(processes=(), tail=(), left=fewer)
        # What was acknowledged without a flush may be gone, the newest first.
        kept = range(len(state.disk) + 1) if policy.sync == "normal" else [len(state.disk)]
        for batches in kept:
            yield from _left_behind(state, after, "the power fails", state.disk[:batches])


def _left_behind(
    state: State, after: State, what: str, disk: tuple[History, ...]
) -> Iterator[Move]:
    lost = len(state.disk) - len(disk)
    what += f", and {lost} batches with it" if lost else ""
    yield what, after._replace(disk=disk)
    if lost:
        return
    place = len(content(disk))
    pending = [recorded(p.applied[p.known : p.sent]) for p in state.processes if p.known == place]
    for batch in filter(None, {state.tail, *pending}):
        yield f"{what}; what was on its way is there", after._replace(disk=(*disk, batch))


def _opened(state: State) -> Move:
    history = content(state.disk)
    process = Process(history, len(history), len(history))
    ledger = state.ledger
    if step_in_flight(history) is not None:
        # It was cut off: another attempt begins once that is on record.
        process = _submitted(process, extended(history, f"{read(history).waits_for} {INTERRUPTED}"))
    elif read(history).waits_for == "nothing" and history:
        ledger |= {f"told {history[-1]}"}
    return "a process opens the journal", state._replace(
        processes=(*state.processes, process), ledger=ledger
    )


def _submitted(process: Process, history: History) -> Process:
    """Take in what was applied; it goes to the disk at once unless a batch is on its way."""
    process = process._replace(applied=history)
    if process.sent == process.known and not process.fenced:
        process = process._replace(sent=len(history))
    return process


# --- what a process does -------------------------------------------------------------------


class _Mover:
    """The moves of one process."""

    def __init__(self, state: State, policy: Policy, number: int, process: Process) -> None:
        self.state = state
        self.policy = policy
        self.number = number
        self.process = process
        self.body = read(process.applied)
        self.known = process.applied[: process.known]
        # What effects may follow from.
        self.basis = process.applied if policy.effects == "before" else self.known

    def moves(self) -> Iterator[Move]:
        """Return what this process may do, and what may happen to it."""
        if not self.process.applied:
            if "asked to start" not in self.state.ledger:
                yield self._applied("start", BEGINNING, seen="asked to start")
            return
        yield from self._writing()
        if self.body.waits_for != "nothing":
            yield from self._steps()
            yield from self._waits()
        if self.state.left.cancels:
            yield self._cancelled()

    # --- events reach the body -----------------------------------------------------------

    def _applied(self, what: str, history: History, *, seen: str = "", **spent: int) -> Move:
        """Give events to the body, and submit what follows."""
        process = _submitted(self.process, history)
        ledger = self.state.ledger | ({seen} if seen else set())
        if self.policy.acks == "before":
            ledger |= acknowledged(history[len(self.process.applied) :])
        if self.policy.effects == "before":
            ledger |= effects(history)
        return what, self._with(process, ledger=ledger, **spent)

    def _with(
        self, process: Process | None, *, ledger: frozenset[str] | None = None, **spent: int
    ) -> State:
        processes = list(self.state.processes)
        processes[self.number : self.number + 1] = [] if process is None else [process]
        left = self.state.left
        changed = {name: getattr(left, name) - by for name, by in spent.items()}
        return self.state._replace(
            processes=tuple(processes),
            ledger=self.state.ledger if ledger is None else ledger,
            left=left._replace(**changed) if changed else left,
        )

    def _steps(self) -> Iterator[Move]:
        for step, attempt in self.process.strays:
            if self.policy.late == "accept":
                # The outcome is recorded whatever was decided meanwhile.
                process = self.process._replace(strays=self.process.strays - {(step, attempt)})
                mover = _Mover(self.state, self.policy, self.number, process)
                history = (*process.applied, f"{step} {attempt}")
                yield mover._applied(f"{step}, attempt {attempt}, comes late", history)
        running = step_in_flight(self.process.applied)
        if running is None or running != step_in_flight(self.basis):
            return
        step, attempt = running
        value = f"A {attempt}" if step == "A" else "B done"
        yield self._applied(f"{step}, attempt {attempt}, returns", self._given(value))
        if step == "A":
            again = self.body.failures + 1 < ATTEMPTS_MAX
            failed = self._given(f"A {RETRYING}" if again else "A_failed")
            yield self._applied(f"A, attempt {attempt}, fails", failed)
            if self.state.left.timeouts and again:
                mover = self._forgetting(running)
                yield mover._applied(
                    f"A, attempt {attempt}, takes too long and is given up",
                    failed,
                    timeouts=1,
                )

    def _forgetting(self, attempt: tuple[str, int]) -> _Mover:
        process = self.process._replace(strays=self.process.strays | {attempt})
        return _Mover(self.state, self.policy, self.number, process)

    def _given(self, *events: str) -> History:
        return extended(self.process.applied, *events)

    def _waits(self) -> Iterator[Move]:
        armed = self.body.waits_for == "hook or timer" and "timer created" in self.basis
        if armed:
            yield self._applied("the timer fires", self._given("timer fired"))
        if self.state.left.sends and "hook created" in self.basis:
            payload = f"{PAYLOAD} {self.state.left.sends}"
            yield self._applied(f"{payload} is sent", self._given(payload), sends=1)
            if armed and self.policy.inbox == "at once":
                yield self._applied(
                    "the timer fires, and a payload comes in the same turn",
                    self._given("timer fired", LOST),
                    sends=1,
                )

    def _cancelled(self) -> Move:
        if self.policy.cancel == "ends":
            history = (*self.process.applied, "cancelled")
        else:
            history = self._given("cancel asked")
        return self._applied("somebody cancels", history, cancels=1)

    # --- the writer ------------------------------------------------------------------------

    def _writing(self) -> Iterator[Move]:
        process = self.process
        if process.fenced:
            yield from self._reopening()
        elif process.sent > process.known:
            yield "COMMIT", self._committed()
            if self.state.left.faults:
                yield "COMMIT is refused, surely", self._refused()
                yield "COMMIT raises: it may be on disk or not", self._unknown()

    @property
    def batch(self) -> History:
        """What is on its way to the disk."""
        return recorded(self.process.applied[self.process.known : self.process.sent])

    def _committed(self) -> State:
        """The batch is durable: acknowledge it, and begin what follows from it."""
        place = len(recorded(self.known))
        before = content(self.state.disk)
        if place == len(before):
            disk = (*self.state.disk, self.batch)
        else:  # somebody else has written there
            disk = ((*before[:place], *self.batch, *before[place + len(self.batch) :]),)
        return self._durable(disk)

    def _durable(self, disk: tuple[History, ...]) -> State:
        process = self.process
        new = process.applied[process.known : process.sent]
        durable = process.applied[: process.sent]
        # What came meanwhile is the next batch.
        process = process._replace(known=process.sent, sent=len(process.applied), fenced=False)
        ledger = self.state.ledger | acknowledged(new)
        ledger |= effects(durable if self.policy.effects == "after" else process.applied)
        return self._with(process, ledger=ledger)._replace(disk=disk, tail=())

    def _refused(self) -> State:
        """Nothing of it is recorded: a start is refused, all else is written again."""
        if BEGINNING[0] in self.batch:
            return self._without_run(faults=1)
        return self._with(self.process, faults=1)

    def _without_run(self, **spent: int) -> State:
        ledger = self.state.ledger | {"refused run_created"}
        return self._with(Process(), ledger=ledger, **spent)

    def _unknown(self) -> State:
        is_of_step = any(event.startswith("A ") for event in self.batch[:1])
        if self.policy.unknown == ("tell the step" if is_of_step else "tell callers"):
            return self._told_it_failed()._replace(tail=self.batch)
        return self._with(self.process._replace(fenced=True), faults=1)._replace(tail=self.batch)

    def _told_it_failed(self) -> State:
        """Say that it failed: to who has started the run, or to the body."""
        if BEGINNING[0] in self.batch:
            return self._without_run(faults=1)
        history = self.known
        if read(history).waits_for == "A":
            history = extended(history, f"{UNRECORDED}A_failed")
        refused = {f"refused {event}" for event in self.batch if event.startswith(AWAITED)}
        process = self.process._replace(applied=history, sent=self.process.known)
        return self._with(
            _submitted(process, history), ledger=self.state.ledger | refused, faults=1
        )

    def _reopening(self) -> Iterator[Move]:
        visible = "it is reopened; the batch is there, and made durable"
        yield visible, self._durable((*self.state.disk, self.state.tail))
        # What is not visible now is cut off, and never comes back.
        gone = "it is reopened; the batch is not there"
        if BEGINNING[0] in self.batch:
            yield gone, self._without_run()._replace(tail=())
        else:
            again = self.process._replace(fenced=False)
            yield gone + ", and is written again", self._with(again)._replace(tail=())
        if self.state.left.faults:
            yield "it cannot be reopened now", self._with(self.process, faults=1)


# --- what the world sees ----------------------------------------------------------------------

AWAITED = ("run_created", PAYLOAD, "cancel asked")  # events that somebody waits for


def acknowledged(events: History) -> frozenset[str]:
    """Return what is told to whoever waits for these events."""
    told = {f"acknowledged {event}" for event in events if event.startswith(AWAITED)}
    return frozenset(told | {f"told {event}" for event in events if event.startswith(ENDS)})


def effects(history: History) -> frozenset[str]:
    """Return what the world has seen once the step is running that this history asks for."""
    body = read(history)
    return frozenset({f"B ran with ({body.x}, {body.y})"} if body.waits_for == "B" else ())
