"""What happens in a simulation, drawn from its seed beforehand: programs, acts, and the machine.

Most plans are small, because many small worlds meet more than a few large ones. A plan is
data: printed, it tells the story.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from tests.simulation.flows import STEPS, Node

Program = dict[str, Any]


class Act(NamedTuple):
    """What happens after `delay` seconds: a verb of `acts.py` and what it is given."""

    delay: float
    verb: str
    given: tuple[Any, ...] = ()


class Order(NamedTuple):
    """A run to be started."""

    run_id: str
    program: Program
    options: dict[str, Any]


@dataclass
class Plan:
    """The story of one seed."""

    seed: int
    orders: list[Order] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    slowness: float = 0.0  # seconds of a typical statement
    stalls: float = 0.0  # share of statements that take seconds
    tick: float = math.inf
    options: dict[str, Any] = field(default_factory=dict)  # of the runtime

    def __str__(self) -> str:
        machine = f"slowness {self.slowness:g} s, stalls {self.stalls:g}, tick {self.tick:g} s"
        lines = [f"machine: {machine}, options {self.options}"]
        lines += [f"run {o.run_id} {o.options or ''}: {o.program}" for o in self.orders]
        lines += [f"act +{act.delay:g}s {act.verb} {act.given}" for act in self.acts]
        return "\n".join(lines)


def draw(seed: int) -> Plan:
    """Return the plan of a seed."""
    random = Random(seed)
    size = _size(random)
    plan = Plan(
        seed,
        slowness=random.choice((0.0, 0.0, 0.001, 0.001, 0.05, 2.0)),
        stalls=random.choice((0, 0, 0, 0, 0.05)),
        tick=random.choice((math.inf, math.inf, math.inf, 3600.0)),
        options={
            "idle_runs": random.choice((1000, 1000, 1, 2)),
            "retention": random.choice((None, None, "30 days", "10m")),
            "grace": random.choice((30, 30, 5)),
            "drain_seconds": random.choice((0, 0, 5)),
        },
    )
    programs = _Programs(random)
    for number in range(size.runs):
        plan.orders.append(
            Order(f"r{number}", programs.draw(f"r{number}", size.nodes), _start_options(random))
        )
    plan.acts = _acts(random, size)
    return plan


class _Size(NamedTuple):
    runs: int
    nodes: int
    acts: int


def _size(random: Random) -> _Size:
    roll = random.random()
    if roll < 0.60:
        return _Size(random.randint(1, 2), random.randint(1, 5), random.randint(1, 5))
    if roll < 0.97:
        return _Size(random.randint(1, 4), random.randint(2, 9), random.randint(3, 9))
    return _Size(random.randint(4, 12), random.randint(5, 20), random.randint(10, 30))


def _start_options(random: Random) -> dict[str, Any]:
    options: dict[str, Any] = {}
    roll = random.random()
    if roll < 0.08:
        options["delay"] = _seconds(random)
    elif roll < 0.16:
        options["timeout"] = 1 + _seconds(random)
    elif roll < 0.2:
        options["retention"] = random.choice((60, "forever"))
    elif roll < 0.23:
        options["attributes"] = {"kind": "simulated"}
    return options


# Things that happen at the same instant are what races are about.
_GRID = (0.0, 0.5, 1.0, 2.0, 5.0)


def _seconds(random: Random) -> float:
    roll = random.random()
    if roll < 0.35:
        return random.choice(_GRID)
    if roll < 0.6:
        return round(random.expovariate(0.3), 3)
    if roll < 0.9:
        return round(random.uniform(1, 600), 1)
    return float(random.choice((3600, 7200, 86400, 30 * 86400)))


# --- programs ---------------------------------------------------------------------------


class _Programs:
    """Draws trees of a given number of nodes, about."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._left = 0

    def draw(self, name: str, nodes: int) -> Program:
        """Return a program of about so many nodes; its hooks and children are called after it."""
        self._left = nodes
        program: Program = {"id": name, "tree": self._sequence()}
        roll = self._random.random()
        if roll < 0.06:
            program["again"] = self._random.randint(1, 2)
        elif roll < 0.12:
            program["fails"] = True
        return program

    def _sequence(self) -> Node:
        nodes: list[Any] = []
        while self._left > 0:
            nodes.append(self._node(0))
        return nodes[0] if len(nodes) == 1 else ["seq", *nodes]

    def _node(self, depth: int) -> Node:
        self._left -= 1
        if self._left <= 0 or depth > 3 or self._random.random() < 0.55:
            return self._leaf()
        random = self._random
        kind = random.choice(
            ("seq", "all", "all", "group", "first", "first", "within", "finally", "queue", "child")
        )
        if kind in {"seq", "all", "group", "first"}:
            return [kind, *(self._node(depth + 1) for _ in range(random.choice((2, 2, 3))))]
        if kind == "within":
            return [kind, _seconds(random), self._node(depth + 1)]
        if kind == "finally":
            return [kind, self._node(depth + 1), self._node(depth + 1)]
        if kind == "queue":
            return [kind, random.randint(1, 3), self._leaf()]
        program = {"tree": self._node(depth + 1)}
        return ["child", program, random.random() < 0.7, random.random() < 0.4]

    def _leaf(self) -> Node:
        random = self._random
        roll = random.random()
        if roll < 0.45:
            return self._step()
        if roll < 0.65:
            return [random.choice(("sleep", "sleep", "asleep", "until")), _seconds(random)]
        if roll < 0.80:
            return self._hook()
        if roll < 0.86:
            return ["mail", random.choice("ab"), random.choice((_seconds(random), 600.0, None))]
        if roll < 0.90:
            return ["iterate", random.choice((0, 0, 1)), random.randint(0, 3)]
        return random.choice(
            (["write", random.randint(1, 2)], ["tag", "x"], ["draw"], ["do", "emit", 0, 2, True])
        )

    def _step(self) -> Node:
        random = self._random
        name = random.choice([*sorted(set(STEPS) - {"items"}), "work", "work", "once"])
        fails = random.choice((0, 0, 0, 0, 1, 1, 2, 9))
        seconds: float = random.choice((-1, -1, 0, 1, 2, 5, round(random.uniform(0, 10), 2), 30.0))
        if name == "emit":
            seconds = random.randint(0, 3)
        if name == "stubborn":
            seconds = max(0.0, min(seconds, 8.0))
        return ["do", name, fails, seconds, random.random() < 0.85]

    def _hook(self) -> Node:
        random = self._random
        limit = random.choice((None, 600.0, _seconds(random), 0.5, 1.0))
        return ["hook", random.randint(1, 3), limit, random.randint(1, 3), random.random() < 0.5]


# --- acts -------------------------------------------------------------------------------

_VERBS: dict[str, int] = {
    "pay": 22, "pay again": 4, "pay late": 2, "send": 8, "cancel": 5, "cancel twice": 3,
    "wake": 6, "watch": 5,
    "crash": 8, "crash at commit": 12, "restart": 5, "lose loop": 2,
    "disk": 12, "suspend": 4, "set wall": 5, "pause": 5, "resume": 4, "retry": 4, "rerun": 2,
    "fork": 2, "forget code": 4, "change code": 4, "restore code": 4, "list": 2, "delete": 2,
    "write outside": 2, "read stream": 3, "start again": 3, "shut client": 2,
}  # fmt: skip
_NAMES, _WEIGHTS = list(_VERBS), list(_VERBS.values())


def _acts(random: Random, size: _Size) -> list[Act]:
    starts = [Act(_pause(random) if n else 0.0, "start", (n,)) for n in range(size.runs)]
    others = [
        Act(_pause(random), verb, _given(random, verb))
        for verb in random.choices(_NAMES, _WEIGHTS, k=size.acts)
    ]
    for start in starts[1:]:  # the first run begins the story
        others.insert(random.randint(0, len(others)), start)
    return [starts[0], *others]


def _pause(random: Random) -> float:
    roll = random.random()
    if roll < 0.4:
        return 0.0
    if roll < 0.6:
        return round(random.expovariate(100), 5)
    if roll < 0.75:
        return random.choice(_GRID)
    if roll < 0.85:
        return round(random.uniform(0, 12), 3)
    return _seconds(random) if roll < 0.99 else 90000.0


def _given(random: Random, verb: str) -> tuple[Any, ...]:
    if verb == "crash at commit":
        return (random.randint(1, 6), random.choice(("before", "after", "after")))
    if verb == "disk":
        kind = random.choice(
            ("io error", "disk full", "busy", "unknown commit", "unknown commit", "lost commit")
        )
        length = random.choice((1, 1, 1, 2, 5, 40))
        reads = kind == "io error" and random.random() < 0.3
        return ("short read" if reads else kind, random.randint(1, 12), length, reads)
    if verb == "suspend":
        return (_seconds(random),)
    if verb == "set wall":
        return (random.choice((-1, 1)) * random.choice((1, 60, 3600, 86400, 3.2e8)),)
    return (random.random(),)  # which of those that there are then
