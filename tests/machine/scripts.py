"""What the state machine draws: scripts for runs, and the few names they meet at.

Scripts keep apart what may not meet: `reference` knows no order among runs that do
something at the same instant. So durations are all different, tokens that runs share are
asked for first, and a run that ends with its parent waits for something that its parent
never waits for.
"""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st

from tests.machine.program import Script

GATES = ("a", "b", "c", "d")
FAULTS = ("x", "y")
BOXES = ("in", "out")
KEYS = ("stage", "who")
MODES = st.sampled_from(["plain", "plain", "refuse", "clean"])
VALUES = st.integers(0, 9)
SECONDS = st.sampled_from([1.0, 5.0, 20.0, 45.0])

_MAYBE = st.none() | SECONDS

_say = st.tuples(st.just("say"), VALUES)
_sleep = st.tuples(st.just("sleep"), SECONDS)
_ask = st.tuples(st.just("ask"), st.sampled_from(["t0", "t1"]), _MAYBE)
_receive = st.tuples(st.just("receive"), st.sampled_from(BOXES))
_gated = st.tuples(st.just("gated"), st.sampled_from(GATES))
_quick = st.one_of(
    _say,
    st.tuples(st.just("emit"), st.sampled_from(["", "log"]), VALUES),
    st.tuples(st.just("emits"), st.just("log"), st.lists(VALUES, min_size=1, max_size=3)),
    st.tuples(st.just("tag"), st.sampled_from(KEYS), st.none() | st.sampled_from(["1", "2"])),
)
_lasting = st.one_of(_sleep, _ask, _receive)
_alone = st.one_of(
    _quick,
    _lasting,
    _lasting,
    _gated,
    st.tuples(st.just("flaky"), st.sampled_from([0, 5, 15])),
    st.tuples(st.just("fragile"), st.sampled_from(FAULTS)),
)


def _joined(parts: Any) -> Script:
    return tuple(itertools.chain.from_iterable(parts))


def _listed(strategy: st.SearchStrategy[Any], most: int) -> st.SearchStrategy[Script]:
    return st.lists(strategy, max_size=most).map(tuple)


_bound_script = st.tuples(
    st.tuples(_lasting), _listed(st.one_of(_say, _lasting), 2)
).map(_joined)  # fmt: skip
_small = _listed(_alone, 2)
# The parent sleeps, so that its end never meets the child's beginning.
_bind = st.tuples(st.tuples(st.just("begin"), _bound_script, MODES, st.just(True)), _sleep)
_begin = st.tuples(st.just("begin"), _small, MODES, st.just(False))
_await = st.tuples(st.just("await"), _small, MODES)
_one = st.tuples(st.one_of(_alone, _alone, _alone, _alone, _begin, _await))
_any = st.one_of(_one, _one, _one, _one, _bind)
_last = st.one_of(
    st.just(()), st.just(()), st.just(()), st.tuples(st.tuples(st.just("anew"), _small, MODES))
)
_first = st.one_of(
    st.just(()),
    st.just(()),
    st.tuples(st.tuples(st.just("ask"), st.sampled_from(["shared0", "shared1"]), _MAYBE)),
)
_middle = _listed(_any, 4).map(_joined)
LATER_SCRIPTS = st.tuples(_middle, _last).map(_joined)
SCRIPTS = st.tuples(_first, _middle, _last).map(_joined)


class Unequal:
    """Makes all durations of one example different, by a few microseconds."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def duration(self, seconds: float) -> float:
        """Return a duration that no other one equals."""
        return seconds + next(self._count) / 1_000_000

    def script(self, script: Script) -> Script:
        """Return the script with durations of its own."""
        return tuple(tuple(map(self._part, instruction)) for instruction in script)

    def _part(self, part: Any) -> Any:
        # Instructions have floats for durations only, and tuples for scripts.
        if isinstance(part, float):
            return self.duration(part)
        return self.script(part) if isinstance(part, tuple) else part
