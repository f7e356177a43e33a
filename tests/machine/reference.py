"""What ought to happen: runs that play scripts, in memory, without a journal.

Owns an interpreter of `program`'s scripts that knows neither bodies nor replay nor disk: a
run is a place in its script and what it waits for there. Requests are methods; they return
what the caller is to be told, or raise the product's own error. `settle` lets all runs do
what they can at this instant, `advance` lets time pass.

Runs never depend on the order in which others do something at the same instant; the
machine sees to that with the scripts it draws.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from durable._base.ids import next_run_id
from durable.errors import (
    HookNotFoundError,
    RunConflictError,
    RunExistsError,
    RunStateError,
    StreamClosedError,
    WorkflowRunNotFinishedError,
    WorkflowRunNotFoundError,
)
from tests.machine.program import BACKOFF_SECONDS, CLEANUP_GATE, Script, own_token
from tests.machine.runs import RunModel, Wait

GRACE_SECONDS = 30
WITH_ITS_PARENT = "its parent run has ended"


def us(seconds: float) -> int:
    """Return seconds as microseconds."""
    return round(seconds * 1_000_000)


class Model:
    """All runs, and the time."""

    def __init__(self, now_us: int) -> None:
        self.now = now_us
        self.runs: dict[str, RunModel] = {}
        self.gates: set[str] = set()
        self.mended: set[str] = set()

    # --- requests ---------------------------------------------------------------------

    def start(
        self,
        run_id: str,
        script: Script,
        mode: str,
        *,
        delay: float = 0,
        attributes: dict[str, str] | None = None,
        on_conflict: str = "return",
    ) -> str:
        """Start a run, or find it."""
        other = self.runs.get(run_id)
        if other is not None and on_conflict == "raise":
            raise RunExistsError(run_id)
        if other is not None:
            if (other.script, other.mode) != (script, mode):
                raise RunConflictError(run_id, "")
            return run_id
        run = self._make(run_id, script, mode, attributes or {})
        run.wait = Wait("start", due=self.now + us(delay))
        return run_id

    def _make(
        self, run_id: str, script: Script, mode: str, attributes: dict[str, str], **more: Any
    ) -> RunModel:
        run = RunModel(run_id, script, mode, self.now, dict(attributes), dict(attributes), **more)
        run.wait.due = self.now
        self.runs[run_id] = run
        return run

    def find(self, run_id: str) -> RunModel:
        """Return a run."""
        if run_id not in self.runs:
            raise WorkflowRunNotFoundError(run_id)
        return self.runs[run_id]

    def cancel(self, run_id: str, reason: str | None, *, first: bool = False) -> None:
        """Ask a run to end, or tell it a second time."""
        run = self.find(run_id)
        if run.successor is not None and run.successor in self.runs:
            return self.cancel(run.successor, reason, first=first)
        if not run.live:
            return None
        if run.status == "pending":
            return self._end(run, "cancelled", reason)
        if run.cancelling:
            return None if first else self._end(run, "cancelled", run.reason)
        if run.paused is not None:
            run.paused = None
            self._take_carried(run)
            if not run.live:
                return None
        run.cancelling, run.reason = True, reason
        run.grace = self.now + us(GRACE_SECONDS)
        run.held = []
        if run.mode == "plain":
            return self._end(run, "cancelled", reason)
        if run.mode == "refuse":
            return self._end(run, "completed", [*run.out, "refused"])
        run.wait = Wait("gate", CLEANUP_GATE)
        return None

    def wake_up(self, run_id: str) -> int:
        """End the sleep of a run."""
        run = self.find(run_id)
        if not run.moves or run.wait.what != "until":
            return 0
        self._pass(run, "slept")
        return 1

    def pause(self, run_id: str, reason: str | None) -> None:
        """Keep a run from going on."""
        run = self.find(run_id)
        if not run.live:
            raise RunStateError(run_id, run.status, "")
        if run.paused is None:
            run.paused = "paused" if reason is None else f"paused: {reason}"

    def resume(self, run_id: str) -> None:
        """Let a run go on."""
        run = self.find(run_id)
        if run.paused is not None and run.live:
            run.paused = None
            run.wait.in_flight = True
            self._take_carried(run)

    def _take_carried(self, run: RunModel) -> None:
        carried, run.carried = run.carried, []
        for item in carried:
            if item == "gate" and run.wait.what == "gate":
                self._pass(run, run.wait.name)
            elif run.wait.what == "hook" and run.held:
                self._pass(run, run.held[0])
            elif run.wait.what == "box":
                self._take_mail(run)

    def retry(self, run_id: str) -> None:
        """Let a failed run go on."""
        run = self.find(run_id)
        if run.status != "failed":
            raise RunStateError(run_id, run.status, "")
        run.status, run.wait, run.result = "running", Wait("fragile", run.wait.name), None

    def rerun(self, run_id: str, new_id: str) -> str:
        """Start a run like another one."""
        run = self.find(run_id)
        made = ("rerun", run_id)
        other = self.runs.get(new_id)
        if other is None:
            self._make(new_id, run.script, run.mode, run.first_attributes, origin=made)
        elif (other.script, other.mode) != (run.script, run.mode):
            raise RunConflictError(new_id, "")
        return new_id

    def delete(self, run_id: str) -> None:
        """Delete a run that has ended."""
        if self.find(run_id).live:
            raise WorkflowRunNotFinishedError(run_id, "")
        del self.runs[run_id]

    def answer(self, token: str, value: Any, key: str | None) -> str:
        """Give the open hook of this token a payload."""
        for run in self.runs.values():
            if run.token == token:
                self._deliver(run, f"hook {run.place}", run.held, value, key)
                return run.run_id
        raise HookNotFoundError(token)

    def send(self, run_id: str, box: str, value: Any, key: str | None) -> None:
        """Put a payload into a mailbox of a run."""
        run = self.find(run_id)
        if run.live:
            return self._deliver(run, f"box {box}", run.mail.setdefault(box, []), value, key)
        if key is not None and (f"box {box}", key) in run.keys:
            return None
        if run.successor is not None and run.successor in self.runs:
            return self.send(run.successor, box, value, key)
        raise HookNotFoundError(box)

    def _deliver(
        self, run: RunModel, place: str, queue: list[Any], value: Any, key: str | None
    ) -> None:
        if key is not None and (place, key) in run.keys:
            return
        if key is not None:
            run.keys.add((place, key))
        queue.append(value)
        run.received += 1
        if run.paused is not None:
            run.carried.append(place)

    def write(self, run_id: str, namespace: str, value: int) -> None:
        """Write to a stream of a run from outside."""
        run = self.find(run_id)
        if not run.live:
            raise StreamClosedError(run_id, namespace)
        run.streams.setdefault(namespace, []).append(value)

    def open_gate(self, gate: str) -> None:
        """Open a gate for good."""
        self.gates.add(gate)
        for run in self.runs.values():
            waits = run.live and run.wait.what == "gate" and run.wait.name == gate
            if waits and run.paused is not None and run.wait.in_flight:
                run.carried.append("gate")

    # --- the process --------------------------------------------------------------------

    def restarted(self, *, crashed: bool) -> None:
        """Forget what lives in the process only."""
        for run in self.runs.values():
            if run.wait.what == "gate" and run.paused is not None:
                run.wait.in_flight = "gate" in run.carried
            elif run.live and run.wait.what == "gate" and crashed:
                run.wait.crashes += 1

    # --- time --------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass, with all that falls due on the way."""
        target = self.now + us(seconds)
        self.settle()
        while (due := self.next_due()) is not None and due <= target:
            self.now = max(self.now, due)
            self.settle()
        self.now = target
        self.settle()

    def next_due(self) -> int | None:
        """Return when something is to happen next."""
        dues = [r.wait.due for r in self.runs.values() if r.moves and r.wait.due is not None]
        dues += [r.grace for r in self.runs.values() if r.moves and r.grace is not None]
        return min(dues, default=None)

    def settle(self) -> None:
        """Let all runs do what they can now."""
        while sum(self._turn(run) for run in list(self.runs.values())):
            pass

    # --- one run -----------------------------------------------------------------------

    def _turn(self, run: RunModel) -> bool:
        if not run.moves:
            return False
        before = (run.place, replace(run.wait), run.status)
        if run.grace is not None and run.grace <= self.now and not self._is_through(run):
            self._end(run, "cancelled", run.reason)
        else:
            getattr(self, f"_at_{run.wait.what}")(run)
        return before != (run.place, run.wait, run.status)

    def _is_through(self, run: RunModel) -> bool:
        return run.wait.what == "gate" and run.wait.name in self.gates

    def _is_due(self, run: RunModel) -> bool:
        return run.wait.due is not None and run.wait.due <= self.now

    def _at_start(self, run: RunModel) -> None:
        if self._is_due(run):
            run.status = "running"
            self._go_on(run)

    def _at_soon(self, run: RunModel) -> None:
        do = run.wait.name
        self._pass(run, *do(self, run))

    def _at_gate(self, run: RunModel) -> None:
        if not self._is_through(run):
            return
        if run.cancelling:
            self._end(run, "cancelled", run.reason)
        else:
            self._pass(run, run.wait.name)

    def _at_until(self, run: RunModel) -> None:
        if self._is_due(run):
            self._pass(run, "slept")

    def _at_retry(self, run: RunModel) -> None:
        if not self._is_due(run):
            return
        if self.now >= run.wait.name:
            self._pass(run, "well")
        else:
            run.wait = Wait("retry", run.wait.name, self.now + us(BACKOFF_SECONDS))

    def _at_fragile(self, run: RunModel) -> None:
        if run.wait.name in self.mended:
            self._pass(run, run.wait.name)
        else:
            self._end(run, "failed", run.wait.name)

    def _at_claim(self, run: RunModel) -> None:
        token, seconds = run.wait.name
        owner = next((r.run_id for r in self.runs.values() if r.token == token), None)
        if owner is not None:
            return self._pass(run, f"taken by {owner}")
        run.held = []
        run.wait = Wait("hook", token, None if seconds is None else self.now + us(seconds))
        return None

    def _at_hook(self, run: RunModel) -> None:
        if run.held:
            self._pass(run, run.held[0])
        elif self._is_due(run):
            self._pass(run, "late")

    def _at_box(self, run: RunModel) -> None:
        if run.mail.get(run.wait.name):
            self._take_mail(run)

    def _take_mail(self, run: RunModel) -> None:
        if queue := run.mail.get(run.wait.name):
            self._pass(run, queue.pop(0))

    def _at_child(self, run: RunModel) -> None:
        child = self.find(run.wait.name)
        while child.successor is not None:
            child = self.find(child.successor)
        if child.status == "completed":
            self._pass(run, child.result)
        elif child.status == "failed":
            self._pass(run, f"failed: {child.result}")
        elif child.status == "cancelled":
            self._pass(run, f"cancelled: {child.reason}")

    # --- instructions --------------------------------------------------------------------

    def _pass(self, run: RunModel, *values: Any) -> None:
        """End what a run waits for, and let its body come to its next wait."""
        run.out += values
        run.place += 1
        self._go_on(run)

    def _go_on(self, run: RunModel) -> None:
        while run.place < len(run.script):
            what, *given = run.script[run.place]
            wait = getattr(self, f"_do_{what}")(run, *given)
            if not run.live:
                return
            if wait is not None:
                run.wait = wait
                return
            run.place += 1
        self._end(run, "completed", run.out)

    def _do_say(self, run: RunModel, value: Any) -> Wait:
        return Wait("soon", lambda model, run: [value])

    def _do_gated(self, run: RunModel, gate: str) -> Wait:
        return Wait("gate", gate)

    def _do_flaky(self, run: RunModel, seconds: float) -> Wait:
        return Wait("retry", self.now + us(seconds), self.now)

    def _do_fragile(self, run: RunModel, fault: str) -> Wait:
        return Wait("fragile", fault)

    def _do_sleep(self, run: RunModel, seconds: float) -> Wait:
        return Wait("until", due=self.now + us(seconds))

    def _do_ask(self, run: RunModel, token: str, seconds: float | None) -> Wait:
        return Wait("claim", (own_token(token, run.run_id), seconds))

    def _do_receive(self, run: RunModel, box: str) -> Wait | None:
        if queue := run.mail.get(box):
            run.out.append(queue.pop(0))
            return None
        return Wait("box", box)

    def _do_emit(self, run: RunModel, namespace: str, value: int) -> Wait:
        return self._do_emits(run, namespace, [value])

    def _do_emits(self, run: RunModel, namespace: str, values: list[int]) -> Wait:
        def write(model: Model, run: RunModel) -> list[Any]:
            run.streams.setdefault(namespace, []).extend(values)
            return []

        return Wait("soon", write)

    def _do_tag(self, run: RunModel, key: str, value: str | None) -> None:
        run.attributes.pop(key, None)
        if value is not None:
            run.attributes[key] = value

    def _do_begin(self, run: RunModel, script: Script, mode: str, bound: bool) -> Wait:
        def begin(model: Model, run: RunModel) -> list[Any]:
            return [model._bear(run, script, mode, bound=bound)]

        return Wait("soon", begin)

    def _do_await(self, run: RunModel, script: Script, mode: str) -> Wait:
        def begin(model: Model, run: RunModel) -> list[Any]:
            model._bear(run, script, mode, bound=False)
            run.place -= 1  # the same instruction goes on
            return []

        if f"{run.run_id}-{run.place}" in self.runs:
            return Wait("child", f"{run.run_id}-{run.place}")
        return Wait("soon", begin)

    def _bear(self, run: RunModel, script: Script, mode: str, *, bound: bool) -> str:
        child_id = f"{run.run_id}-{run.place}"
        if child_id not in self.runs:
            child = self._make(
                child_id, script, mode, {}, parent=run.run_id, root=run.root or run.run_id
            )
            child.bound_to = (run.first or run.run_id) if bound else None
        return child_id

    def _do_anew(self, run: RunModel, script: Script, mode: str) -> None:
        successor_id = next_run_id(run.run_id, self.now)
        successor = self._make(
            successor_id, script, mode, run.attributes,
            parent=run.parent, root=run.root or run.run_id, bound_to=run.bound_to,
            origin=("continued", run.run_id), first=run.first or run.run_id,
        )  # fmt: skip
        successor.mail = {box: list(queue) for box, queue in run.mail.items()}
        successor.received = sum(map(len, successor.mail.values()))
        run.successor = successor_id
        self._end(run, "continued", None)

    def _end(self, run: RunModel, status: str, value: Any) -> None:
        run.status, run.grace, run.paused = status, None, None
        if status == "cancelled":
            run.reason = value
        else:
            run.result = value
        if status == "continued":
            return
        bound = [r for r in self.runs.values() if r.bound_to == (run.first or run.run_id)]
        for child in bound:
            self.cancel(child.run_id, WITH_ITS_PARENT, first=True)
