"""One simulated world: a machine, its journal, the processes that live on it one after another.

Each process is a life: an event loop with a real `Runtime` on the files that the life before
has left. A crash copies the files as they are at that instant into the next life's directory
and never runs the loop again. What was acknowledged, and which attempts were made, is kept
here, outside of the journal.
"""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from durable import Codec, Runtime, get_step_metadata
from durable._authoring import registry
from durable._engine.payloads import EnginePayloads
from durable._journal.attributes import decode_blocked
from durable._replay.events import COMMANDS, FAILED_ATTEMPT, Event, EventKind
from durable.errors import JournalError
from tests.campaign.programme import Counts, FoundError, Verdict
from tests.simulation import flows
from tests.simulation.disk import KINDS, Disk, Trouble
from tests.simulation.loop import SimClock, SimLoop
from tests.simulation.plan import Plan
from tests.simulation.watch import FINISHED, Row, Seen, Witness

FILES = ("app.db", "app.db-wal", "app.db.running", "app.db.lock")
SHOWN_TOKENS = frozenset({"sim.work", "sim.once", "sim.timed", "sim.narrow", "sim.stubborn",
                          "sim.emit", "sim.changed", "sim.fatal"})  # fmt: skip
TIMED = {"sim.timed": 5.0, "sim.stubborn": 3.0}
LAG_SECONDS = 60.0  # no statement takes longer, nor do the few before it in the queue


@dataclass
class Try:
    """One attempt of a step, as its code saw it."""

    run_id: str
    seq: int
    number: int
    life: int
    began: float
    how: str = "running"


class World:
    """See the module's docstring.

    Args:
        plan: what is to happen.
        place: an empty directory.
        template: a journal without runs, to save the time of making one.
    """

    def __init__(self, plan: Plan, place: Path, template: bytes) -> None:
        self.plan = plan
        self.place = place
        self.clock = SimClock(plan.tick)
        self.random = Random(f"{plan.seed}/world")
        self.counts: Counts = Counter()
        self.story: list[tuple[int, int, str]] = []
        self.payloads = EnginePayloads(Codec())
        self.witness = Witness(self)
        self.found: FoundError | None = None
        self.stay_in_memory = plan.options.get("idle_runs", 1000) > 100
        self.life = 0
        self.home = 0  # where the files are: elsewhere after each crash
        self.dead = False
        self.last_wall = 0
        self.loop: SimLoop | None = None
        self.runtime: Runtime | None = None
        self.disk: Disk | None = None
        self.writer: sqlite3.Connection | None = None
        self.kill_at: tuple[int, str] | None = None
        self.upsets, self.upset_at = 0, 0.0
        self.offset = 0.0  # of the wall clock, in seconds
        self.closing = False
        self.is_healed = False
        self.next_act = 0
        # The ledger.
        self.acked: set[str] = set()
        self.starts: dict[str, int] = {}  # how often each id has been asked for
        self.tokens: dict[str, None] = {}
        self.mailboxes: dict[tuple[str, str], None] = {}
        self.tries: dict[str, Try] = {}
        self.latest: dict[tuple[str, int], str] = {}
        self.sent = 0
        self.keys: list[tuple[str, str, int]] = []  # payloads: to whom, key, value
        self.changed: set[str] = set()
        self.forgotten: dict[str, Any] = {}
        self.blocked_by_plan: set[str] = set()
        self.deleted: set[str] = set()
        self.cancelled: set[str] = set()  # runs that somebody has asked to cancel
        self._home(0).mkdir()
        (self._home(0) / FILES[0]).write_bytes(template)

    def _home(self, number: int) -> Path:
        return self.place / str(number)

    # --- time and talk ------------------------------------------------------------------

    def now(self) -> tuple[int, float]:
        """UTC microseconds, and seconds since the machine was switched on."""
        return self.clock.wall_us(), self.clock.boot()

    def lag(self) -> float:
        """The longest time between a decision and its COMMIT."""
        if self.counts.keys() & KINDS:
            return math.inf  # for as long as the disk has failed
        return LAG_SECONDS if self.plan.slowness > 0.5 or self.plan.stalls else 1.0

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append((self.clock._boot_us, self.life, what))

    def mark(self, word: str) -> None:
        """Count a fault or a branch that was reached."""
        self.counts[word] += 1

    def trouble(self, kind: str) -> None:
        """Note that the disk has failed."""
        self.mark(kind)
        self.tell(f"disk: {kind}")

    def broken(self, verdict: Verdict, what: str) -> None:
        """End the simulation: a promise is broken."""
        if self.found is None and not self.dead:
            self.found = FoundError(verdict, what)
            self.tell(f"BROKEN: {what}")
            self.stop()

    def stop(self) -> None:
        """Run no further callback of this life."""
        self.dead = True
        if self.loop is not None:
            self.loop.stop_now()

    # --- lives --------------------------------------------------------------------------

    @contextmanager
    def living(self) -> Iterator[SimLoop]:
        """Give the loop of a new life; bury it afterwards."""
        self.dead = self.closing = False
        self.witness.life = self.life
        self.witness.is_new_life = True
        self.kill_at = None
        loop = self.loop = SimLoop(self.clock)
        disk = self.disk = Disk(
            self.clock, self.random, self.plan.slowness, self.committed, self.trouble
        )
        disk.stalls = self.plan.stalls
        disk.before_commit = self._before_commit
        path = self._home(self.home) / FILES[0]
        self.runtime = Runtime(path, clock=self.clock, driver=disk, **self.plan.options)
        try:
            yield loop
        finally:
            self._bury(loop, self.runtime, disk)

    def _bury(self, loop: SimLoop, runtime: Runtime, disk: Disk) -> None:
        self.dead = True
        self.life += 1
        loop.close()
        with suppress(Exception):
            runtime._let_go()
        for connection in disk.connections:
            connection.close()
        self.clock.forget()

    def kill(self, when: str) -> None:
        """Let the process die now: the next life finds the files as they are."""
        if self.dead:
            return
        self.mark("crash")
        self.mark(f"crash {when}")
        self.tell(f"crash {when}")
        here, there = self._home(self.home), self._home(self.home + 1)
        there.mkdir()
        for name in FILES:
            with suppress(FileNotFoundError):
                shutil.copyfile(here / name, there / name)
        self.home += 1
        self.stop()

    def _before_commit(self) -> None:
        self._count_down("before")

    def committed(self, connection: sqlite3.Connection) -> None:
        """Look at what a COMMIT has made durable, before anybody can act on it."""
        if self.dead:
            return
        self.writer = connection
        wall = self.clock.wall_us()
        self.last_wall = max(wall, self.last_wall - 1_000_000)
        try:
            self.witness.look(connection)
        except FoundError as error:
            self.broken(error.verdict, str(error))
            return
        self._count_down("after")

    def _count_down(self, side: str) -> None:
        if self.kill_at is None or self.kill_at[1] != side:
            return
        left = self.kill_at[0] - 1
        self.kill_at = (left, side)
        if left <= 0:
            self.kill(f"{side} commit")

    def look_at_stream(self, seen: Seen, stream: str) -> list[tuple[Any, ...]] | None:
        """Return the rows of a stream as they are in the journal; None if it cannot be read."""
        if self.dead or self.writer is None:
            return None
        try:
            self.witness.look_at_stream(self.writer, seen, stream)
        except sqlite3.ProgrammingError:
            return None  # the connection is closed: the disk has just failed
        return seen.chunks[stream]

    def fail_disk(self, trouble: Trouble) -> None:
        """Let the disk fail as told."""
        assert self.disk is not None
        self.disk.fail(trouble, reads=trouble.reads)

    # --- code ---------------------------------------------------------------------------

    def is_changed(self, run_id: str) -> bool:
        """Tell whether this run meets code that decides something else."""
        seen = self.witness.by_id.get(run_id)
        # One that has ended is not replayed: it is another one under its id, just begun.
        return run_id in self.changed and seen is not None and seen.row.status not in FINISHED

    def forget_code(self, name: str) -> None:
        """Unregister a workflow."""
        if name not in self.forgotten:
            self.forgotten[name] = registry._workflows.pop(name)

    def restore_code(self) -> None:
        """Make all code as it was."""
        self.changed.clear()
        forgotten, self.forgotten = self.forgotten, {}
        for definition in forgotten.values():
            registry.register_workflow(definition)

    # --- the stage ------------------------------------------------------------------------

    def begin(self) -> str:
        """Note that the calling attempt begins."""
        meta = get_step_metadata()
        run_id, _, number = meta.step_id.rpartition(":")
        seq = int(number)
        token = f"{run_id}:{seq}:{meta.attempt}:{self.life}"
        if self.dead:
            return token
        seen = self.witness.by_id.get(run_id)
        events = seen.events if seen is not None else []
        if len(events) < seq or events[seq - 1].kind != EventKind.STEP_CREATED:
            self.broken("corrupt", f"step {run_id}:{seq} began before it was recorded")
        elif seen is not None:
            self._check_begin(seen, seq, meta.attempt)
        self.tries[token] = Try(run_id, seq, meta.attempt, self.life, self.clock.boot())
        self.latest[run_id, seq] = token
        return token

    def _check_begin(self, seen: Seen, seq: int, number: int) -> None:
        name = seen.row.run_id
        outcome = seen.outcome.get(seq)
        if outcome is not None and outcome.kind != EventKind.STEP_CANCELLED:
            self.broken("duplicated", f"3: {name}: step {seq} has an outcome and began again")
        before = self.tries.get(self.latest.get((name, seq), ""))
        if before is not None and before.number >= number:
            self.broken("duplicated", f"3: {name}: attempt {number} of step {seq} began again")
        if number > 1:
            self.mark("another attempt")

    def end(self, token: str, how: str) -> None:
        """Note how an attempt has ended."""
        if not self.dead and token in self.tries:
            self.tries[token].how = how

    def hook(self, run_id: str, token: str) -> None:
        """Note that a run's body has created a hook."""
        self.tokens[token] = None

    def mailbox(self, run_id: str, name: str) -> None:
        """Note that a body receives mail."""
        self.mailboxes[run_id, name] = None

    # --- what only the ledger can judge ------------------------------------------------------

    def judge(self, seen: Seen, event: Event) -> None:
        """Judge a new event."""
        kind, run_id = event.kind, seen.row.run_id
        if kind == EventKind.RUN_REWOUND:
            self.changed.discard(run_id)
            self.mark("set back")
        elif kind == EventKind.STEP_COMPLETED:
            self._judge_result(seen, event)
        elif kind == EventKind.STEP_FAILED or (
            kind == EventKind.STEP_RETRYING and event.name == FAILED_ATTEMPT
        ):
            self._judge_failure(seen, event)
        elif kind == EventKind.STEP_RETRYING:
            self.mark(f"attempt {event.name}")

    def _judge_result(self, seen: Seen, event: Event) -> None:
        step = seen.events[event.ref - 1]
        run_id = seen.row.run_id
        if step.name not in SHOWN_TOKENS or seen.is_copy:
            return
        assert event.payload is not None
        token = self.payloads.decode(event.payload)
        made = self.tries.get(str(token))
        if made is None or (made.run_id, made.seq) != (run_id, event.ref):
            raise FoundError("corrupt", f"4: {run_id}: step {event.ref} never returned {token!r}")
        if made.how != "returned":
            raise FoundError("corrupt", f"3: {run_id}: {token!r} is recorded, but it {made.how}")
        if self.latest[run_id, event.ref] != token:
            raise FoundError("corrupt", f"3: {run_id}: late result {token!r} was accepted")
        if not seen.was_set_back and made.number != 1 + seen.retries.get(event.ref, 0):
            raise FoundError("corrupt", f"3: {run_id}: result {token!r} of a given-up attempt")

    def _judge_failure(self, seen: Seen, event: Event) -> None:
        step = seen.events[event.ref - 1]
        run_id = seen.row.run_id
        if not step.name.startswith("sim."):
            self._judge_own_failure(seen, step, event)
        if not step.name.startswith("sim.") or seen.is_copy or seen.was_set_back:
            return
        made = self.tries.get(self.latest.get((run_id, event.ref), ""))
        if made is None:
            raise FoundError("corrupt", f"4: {run_id}: step {event.ref} failed, and never began")
        limit = TIMED.get(step.name)
        took_too_long = limit is not None and self.clock.boot() - made.began >= limit - 1e-6
        if made.how != "failed" and not took_too_long:
            raise FoundError(
                "corrupt", f"3: {run_id}: step {event.ref} is recorded as failed, but {made.how}"
            )
        if took_too_long:
            self.mark("step timeout")

    def _judge_own_failure(self, seen: Seen, step: Event, event: Event) -> None:
        """A step of the library's own does not fail because of the disk."""
        if event.payload is None:
            return
        error = self.payloads.decode_error(event.payload, step.name, 1)
        if isinstance(error, JournalError):
            raise FoundError("corrupt", f"3: {seen.row.run_id}: {step.name} failed by {error!r}")

    def judge_row(self, row: Row) -> None:
        """Judge why a run is blocked."""
        blocked = decode_blocked(row.blocked)
        self.mark(f"blocked {blocked.kind}")
        planned = {
            "paused": True,
            "missing_code": blocked.missing in self.blocked_by_plan,
            "divergence": row.run_id in self.blocked_by_plan,
            "poison_step": self.counts["crash"] >= 3,
        }
        if not planned.get(blocked.kind, False):
            raise FoundError("corrupt", f"10: {row.run_id} is blocked: {blocked.reason}")

    def may_vanish(self, row: Row) -> bool:
        """Tell whether a finished run may be gone."""
        latest = max(self.clock.wall_us(), self.last_wall)
        return row.run_id in self.deleted or (
            row.expires_at is not None and row.expires_at <= latest
        )

    def note_gone(self, run_id: str) -> None:
        """Forget a run that is gone; another one may take its id."""
        self.mark("gone")
        self.changed.discard(run_id)
        self.latest = {key: token for key, token in self.latest.items() if key[0] != run_id}

    def change_code(self) -> None:
        """Let runs that have decided something meet other code at their next replay."""
        for run_id, seen in self.witness.by_id.items():
            if seen.row.status not in FINISHED and any(e.kind in COMMANDS for e in seen.events):
                self.changed.add(run_id)
                self.blocked_by_plan.add(run_id)

    def use(self) -> None:
        """Make this the world that steps and bodies act in."""
        flows.use_stage(self)
