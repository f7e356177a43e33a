"""The state machine: what users and their processes may do to a journal, in any order.

Each rule is one call of the public API, or the end of a process: in good order (`restart`),
or in the middle of a call (`crash_in`). After each of them all that can be seen of all runs
is compared with the model's.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.machine import scripts
from tests.machine.program import CLEANUP_GATE, Script, play
from tests.machine.world import Request, World

RUNS_MAX = 9
_ATTRIBUTES = st.dictionaries(st.sampled_from(scripts.KEYS), st.sampled_from(["1", "2"]))
_KEYS = st.none() | st.sampled_from(["k1", "k2"])
# Most things take four turns of the loop.
_TURNS = st.sampled_from([0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12])
_DRAWN = st.integers(0, 1_000_000)


class Machine(RuleBasedStateMachine):
    """One example: a journal, and what is done to it."""

    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    within: Path | None = None  # default: where temporary files are
    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="machine-", dir=self.within))
        self.counts["examples"] += 1
        self.world = World(self.place / "app.db", type(self).new_loop)
        self.named = 0
        self.unequal = scripts.Unequal()

    def teardown(self) -> None:
        """Look at all histories, end the process, leave nothing behind."""
        try:
            self.world.check_histories()
        finally:
            self.world.close()
            shutil.rmtree(self.place, ignore_errors=True)

    # --- which run -----------------------------------------------------------------------

    def _run_id(self, drawn: int) -> str:
        ids = list(self.world.model.runs)
        # Sometimes one that is not there.
        return "nobody" if not ids or drawn % 40 == 39 else ids[drawn % len(ids)]

    def _fresh_id(self) -> str:
        self.named += 1
        return f"r{self.named}"

    def _token(self, drawn: int) -> str:
        held = [run.token for run in self.world.model.runs.values() if run.token]
        return held[drawn % len(held)] if held and drawn % 8 else "shared0"

    def _has_room(self) -> bool:
        return len(self.world.model.runs) < RUNS_MAX

    def _may_crash(self) -> bool:
        # A step that was cut off twice runs alone: tests/engine/test_poison is about that.
        runs = self.world.model.runs.values()
        return not any(run.moves and run.wait.what == "gate" and run.wait.crashes for run in runs)

    def _gap(self, seconds: float) -> float:
        # What falls due in the gap happens at one instant, and two of one family may meet.
        bound = any(run.live and run.bound_to for run in self.world.model.runs.values())
        return 0 if bound else seconds

    # --- what can be asked for -------------------------------------------------------------

    def _starting(
        self, run_id: str, script: Script, mode: str, delay: float, attributes: dict[str, str]
    ) -> Request:
        options = play.options(run_id=run_id, delay=delay or None, attributes=attributes or None)
        return Request(
            f"start {run_id}",
            lambda rt: rt.start(options, script, mode),
            lambda m: m.start(run_id, script, mode, delay=delay, attributes=attributes),
        )

    def _request(self, what: str, drawn: int, value: int, key: str | None) -> Request:
        run_id = self._run_id(drawn)
        box, token = scripts.BOXES[drawn % 2], self._token(drawn)
        fresh = self._fresh_id()
        made: dict[str, tuple[Any, Any]] = {
            "cancel": (
                lambda rt: rt.get_run(run_id).cancel(f"why {value}"),
                lambda m: m.cancel(run_id, f"why {value}"),
            ),
            "wake_up": (lambda rt: rt.get_run(run_id).wake_up(), lambda m: m.wake_up(run_id)),
            "pause": (
                lambda rt: rt.get_run(run_id).pause(f"why {value}"),
                lambda m: m.pause(run_id, f"why {value}"),
            ),
            "resume": (lambda rt: rt.get_run(run_id).resume(), lambda m: m.resume(run_id)),
            "retry": (lambda rt: rt.get_run(run_id).retry(), lambda m: m.retry(run_id)),
            "rerun": (
                lambda rt: rt.get_run(run_id).rerun(run_id=fresh),
                lambda m: m.rerun(run_id, fresh),
            ),
            "answer": (
                lambda rt: rt.resume_hook(token, value, dedupe_key=key),
                lambda m: m.answer(token, value, key),
            ),
            "send": (
                lambda rt: rt.send(run_id, box, value, dedupe_key=key),
                lambda m: m.send(run_id, box, value, key),
            ),
            "write": (
                lambda rt: rt.get_run(run_id).get_writable("log").write(value),
                lambda m: m.write(run_id, "log", value),
            ),
        }
        real, model = made[what]
        return Request(f"{what} {run_id} {token} {value} {key}", real, model)

    # --- starting ----------------------------------------------------------------------------

    @precondition(_has_room)
    @rule(
        script=scripts.SCRIPTS,
        mode=scripts.MODES,
        attributes=_ATTRIBUTES,
        delay=st.just(0) | st.just(0) | scripts.SECONDS,
        later=scripts.LATER_SCRIPTS,
    )
    def start(
        self, script: Script, mode: str, attributes: dict[str, str], delay: float, later: Script
    ) -> None:
        """Start a run under a new id, now or later."""
        chosen = self.unequal.script(later if delay else script)
        due = self.unequal.duration(delay) if delay else 0
        self.world.do(self._starting(self._fresh_id(), chosen, mode, due, attributes))

    @precondition(_has_room)
    @rule(script=scripts.SCRIPTS, mode=scripts.MODES)
    def start_without_id(self, script: Script, mode: str) -> None:
        """Start a run under an id that nobody knows before."""
        known: list[str] = []
        script = self.unequal.script(script)

        async def real(rt: Any) -> str:
            run = await rt.start(play, script, mode)
            known.append(run.run_id)
            return str(run.run_id)

        self.world.do(
            Request("start", real, lambda m: m.start(known[0], script, mode))
        )  # fmt: skip

    @rule(drawn=_DRAWN, same=st.booleans(), on_conflict=st.sampled_from(["return", "raise"]))
    def start_again(self, drawn: int, same: bool, on_conflict: Any) -> None:
        """Start a run under an id that is taken."""
        run = self.world.model.runs.get(self._run_id(drawn))
        if run is None:
            return
        script, mode = (run.script, run.mode) if same else ((("say", -1),), "plain")
        options = play.options(run_id=run.run_id, on_conflict=on_conflict)
        self.world.do(
            Request(
                f"start {run.run_id} again",
                lambda rt: rt.start(options, script, mode),
                lambda m: m.start(run.run_id, script, mode, on_conflict=on_conflict),
            )
        )

    @precondition(_has_room)
    @rule(chosen=st.lists(scripts.LATER_SCRIPTS, min_size=1, max_size=3))
    def start_many(self, chosen: list[Script]) -> None:
        """Start several runs together."""
        known: list[str] = []
        chosen = [self.unequal.script(script) for script in chosen]

        async def real(rt: Any) -> list[str]:
            runs = await rt.start_many(play, [(script, "plain") for script in chosen])
            known.extend(run.run_id for run in runs)
            return known

        def model(m: Any) -> list[str]:
            return [m.start(i, s, "plain") for i, s in zip(known, chosen, strict=True)]

        self.world.do(Request("start_many", real, model))

    # --- asking ----------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(
            "cancel wake_up pause pause resume resume resume retry answer answer send send "
            "write".split()
        ),
        drawn=_DRAWN,
        value=scripts.VALUES,
        key=_KEYS,
    )
    def ask(self, what: str, drawn: int, value: int, key: str | None) -> None:
        """Ask for something of a run."""
        self.world.do(self._request(what, drawn, value, key))

    @precondition(_has_room)
    @rule(drawn=_DRAWN)
    def rerun(self, drawn: int) -> None:
        """Start a run with the input of another one."""
        self.world.do(self._request("rerun", drawn, 0, None))

    @rule(drawn=_DRAWN)
    def delete(self, drawn: int) -> None:
        """Delete a run, unless somebody may wait for it."""
        run_id = self._run_id(drawn)
        runs = self.world.model.runs
        parent = runs.get(runs[run_id].parent or "") if run_id in runs else None
        if parent is not None and parent.live:
            return
        self.world.do(
            Request(
                f"delete {run_id}",
                lambda rt: rt.get_run(run_id).delete(),
                lambda m: m.delete(run_id),
            )
        )

    @rule(gate=st.sampled_from([*scripts.GATES, CLEANUP_GATE]))
    def open_gate(self, gate: str) -> None:
        """Let through who waits at a gate."""

        async def real(rt: Any) -> None:
            self.world.outside.open_gate(gate)

        self.world.do(Request(f"open {gate}", real, lambda m: m.open_gate(gate)))

    @rule(fault=st.sampled_from(scripts.FAULTS))
    def mend(self, fault: str) -> None:
        """Mend what a step fails with."""
        self.world.outside.mended.add(fault)
        self.world.model.mended.add(fault)

    @rule(
        status=st.none() | st.sampled_from(["running", "completed", "blocked", "cancelled"]),
        attributes=st.just({}) | _ATTRIBUTES,
        drawn=_DRAWN,
        family=st.sampled_from([None, None, "parent", "root"]),
    )
    def look(
        self, status: str | None, attributes: dict[str, str], drawn: int, family: str | None
    ) -> None:
        """List and count, in pages of two."""
        filters: dict[str, Any] = {"status": status, "attributes": attributes or None}
        chosen = self._run_id(drawn)
        if family is not None:
            filters[family] = chosen
        expected = {
            run.run_id
            for run in self.world.model.runs.values()
            if status in {None, run.shown}
            and attributes.items() <= run.attributes.items()
            and (family != "parent" or run.parent == chosen)
            and (family != "root" or (run.root or run.run_id) == chosen)
        }

        async def real(rt: Any) -> tuple[list[str], int]:
            page = await rt.list_runs(limit=2, **filters)
            seen = [info.run_id for info in page]
            while page.next_cursor is not None:
                page = await rt.list_runs(limit=2, cursor=page.next_cursor, **filters)
                seen += [info.run_id for info in page]
            return sorted(seen), await rt.count_runs(**filters)

        request = Request("look", real, lambda m: (sorted(expected), len(expected)))
        self.world.do(request)

    # --- time and processes -------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 3, 12, 35, 90]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.world.advance(seconds)

    @rule(gap=st.sampled_from([0, 0, 12, 60]))
    def restart(self, gap: float) -> None:
        """End the process in good order, and begin another one."""
        self.counts["restarts"] += 1
        self.world.restart(self._gap(gap))
        self.world.check_histories()

    @precondition(_may_crash)
    @rule(gap=st.sampled_from([0, 0, 12, 60]))
    def crash(self, gap: float) -> None:
        """Kill the process while it is at rest."""
        self.counts["crashes"] += 1
        self.world.crash(self._gap(gap))
        self.world.check_histories()

    @precondition(_may_crash)
    @rule(
        what=st.sampled_from("cancel wake_up pause resume retry rerun answer send write".split()),
        drawn=_DRAWN,
        value=scripts.VALUES,
        key=_KEYS,
        turns=_TURNS,
    )
    def crash_in(self, what: str, drawn: int, value: int, key: str | None, turns: int) -> None:
        """Kill the process while it does what it was asked for."""
        self.counts["crashes"] += 1
        self.world.crash_in(self._request(what, drawn, value, key), turns)
        self.world.check_histories()

    @precondition(_may_crash)
    @rule(
        what=st.sampled_from(["answer", "send", "write"]),
        drawn=_DRAWN,
        value=scripts.VALUES,
        turns=_TURNS,
    )
    def crash_in_delivery(self, what: str, drawn: int, value: int, turns: int) -> None:
        """Kill the process while it takes something in."""
        self.crash_in(what, drawn, value, None, turns)

    @precondition(_has_room)
    @precondition(_may_crash)
    @rule(
        script=scripts.SCRIPTS, mode=scripts.MODES, attributes=_ATTRIBUTES, turns=_TURNS
    )  # fmt: skip
    def crash_in_start(
        self, script: Script, mode: str, attributes: dict[str, str], turns: int
    ) -> None:
        """Kill the process while it starts a run."""
        script = self.unequal.script(script)
        request = self._starting(self._fresh_id(), script, mode, 0, attributes)
        self.counts["crashes"] += 1
        self.world.crash_in(request, turns)
        self.world.check_histories()

    @invariant()
    def all_is_as_expected(self) -> None:
        """What can be seen is what the model says."""
        self.counts["steps"] += 1
        self.world.check()
