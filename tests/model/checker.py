"""Breadth first through all states of the protocol, looking for one that breaks a promise.

What is promised is judged where it can be seen: on the disk as the next process will find
it, against the ledger of what the world was told. The first bad state found has the shortest
way to it, which `Finding.story` tells.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.model.body import CREATED, ENDS, LOST, NOTES, read
from tests.model.protocol import Limits, Policy, State, content, moves


@dataclass(frozen=True)
class Finding:
    """A promise that does not hold, and the moves that lead there."""

    broken: str
    story: str


@dataclass(frozen=True)
class Search:
    """What came of a search."""

    states: int
    depth: int
    finding: Finding | None
    ended: int  # states in which the run has ended and nothing is on its way


def search(policy: Policy, limits: Limits, *, states_max: int = 2_000_000) -> Search:
    """Visit all states that can be reached.

    Args:
        policy: what the product does.
        limits: how much may happen.
        states_max: give up beyond so many states.

    Raises:
        RuntimeError: there are more states than that.
    """
    first = State(left=limits)
    came_by: dict[State, tuple[State, str] | None] = {first: None}
    queue, depth, ended = deque([(first, 0)]), 0, 0
    while queue:
        state, depth = queue.popleft()
        broken = judge(state)
        if broken is not None:
            return Search(len(came_by), depth, Finding(broken, _story(came_by, state)), ended)
        ended += _is_over(state)
        following = list(moves(state, policy))
        if not following and (stuck := _waits_for_itself(state)) is not None:
            return Search(len(came_by), depth, Finding(stuck, _story(came_by, state)), ended)
        for what, after in following:
            if after not in came_by:
                came_by[after] = (state, what)
                queue.append((after, depth + 1))
        if len(came_by) > states_max:
            raise RuntimeError(f"more than {states_max} states within {limits}")
    return Search(len(came_by), depth, None, ended)


def judge(state: State) -> str | None:
    """Return which promise a state breaks, in words, or None."""
    history = content(state.disk)
    ends = [event for event in history if event.startswith(ENDS)]
    outcomes = [event for event in history if _is_outcome(event)]
    if len(ends) > 1:
        return f"the run has two ends: {ends}"
    if ends and history[-1] != ends[0]:
        return f"events follow the run's end: {history}"
    if len(outcomes) > 1:
        return f"step A has two outcomes: {outcomes}"
    if LOST in history and read(history).waits_for == "hook":
        return "a payload is on record, and its hook waits for one"
    if state.processes:
        return None  # what is on its way may still arrive; a crash in this moment is a move
    return _unlike_told(state)


def _is_outcome(event: str) -> bool:
    what, _, value = event.partition(" ")
    return what in {"A", "A_failed"} and value not in {*NOTES, CREATED}


def _unlike_told(state: State) -> str | None:
    """Compare what the next process will find with what the world has seen."""
    history = content(state.disk)
    body = read(history)
    for fact in state.ledger:
        kind, _, what = fact.partition(" ")
        if kind == "acknowledged" and what not in history:
            return f"{what!r} was acknowledged, and is lost"
        if kind == "refused" and what in history:
            return f"{what!r} was refused, and is on record"
        if kind == "told" and (not history or history[-1] != what):
            return f"the run's end was told as {what!r}, and is lost or another one"
        if kind == "B" and fact != f"B ran with ({body.x}, {body.y})":
            return f"{fact}; on record the body has observed ({body.x}, {body.y})"
    return None


def _is_over(state: State) -> bool:
    history = content(state.disk)
    return bool(history) and history[-1].startswith(ENDS)


def _waits_for_itself(state: State) -> str | None:
    """Tell of a run that goes on no more though nobody else is asked for anything."""
    history = content(state.disk)
    body = read(history)
    if not history or not state.processes or body.waits_for not in {"A", "B", "hook or timer"}:
        return None
    return f"the run waits for {body.waits_for}, and nothing can happen any more"


def _story(came_by: dict[State, tuple[State, str] | None], state: State) -> str:
    lines: list[str] = []
    step = came_by[state]
    lines.append(f"   on disk: {', '.join(content(state.disk)) or 'nothing'}")
    while step is not None:
        before, what = step
        news = sorted(state.ledger - before.ledger)
        lines.append(f" > {what}" + (f"  [{'; '.join(news)}]" if news else ""))
        state, step = before, came_by[before]
    return "\n".join(reversed(lines))
