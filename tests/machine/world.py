"""The product under test, and the model beside it: whatever is done is done to both.

`do` asks both for the same, and compares what they answer; `crash_in` lets the process die
a few turns of the loop after it has asked, `restart` ends it in good order. `check`
compares all that can be seen of all runs. What was asked when the process died, and not
answered, may have happened or not: then one of two models must fit.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durable import HookInfo, Run
from durable.errors import DurableError
from durable.testing import VirtualClock, VirtualRuntime, settle
from tests.campaign.programme import FoundError
from tests.engine.rig import crash
from tests.machine import program
from tests.machine.reference import Model
from tests.machine.runs import RunModel

PATIENCE_TURNS = 20_000


@dataclass
class Request:
    """One thing that can be asked for: of the runtime, and of the model."""

    what: str
    real: Callable[[VirtualRuntime], Awaitable[Any]]
    model: Callable[[Model], Any]


class World:
    """One journal and the model of what is in it."""

    def __init__(self, path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.path = path
        self.clock = VirtualClock()
        self.model = Model(self.clock.wall_us())
        self.outside = program.Outside(self.clock.wall_us)
        program.use(self.outside)
        self.histories: dict[str, list[tuple[object, ...]]] = {}
        self.known: dict[str, dict[str, Any]] = {}  # what is to be seen of runs that have ended
        self._loop = new_loop()
        self.runtime = self._wait(self._opened())

    def _wait(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    async def _opened(self) -> VirtualRuntime:
        runtime = VirtualRuntime(self.path, clock=self.clock)
        await runtime.open()
        await self._quiet(runtime)
        return runtime

    def close(self) -> None:
        """End the process in good order, for good."""
        self._wait(self.runtime.close())
        self._wait(self._loop.shutdown_asyncgens())
        self._loop.close()

    # --- doing -----------------------------------------------------------------------------

    def do(self, request: Request) -> Any:
        """Ask both, let both come to rest, compare the answers."""
        answer = self._wait(self._ask(request))
        expected = _told(request.model, self.model)
        assert answer == expected, f"{request.what}: told {answer!r}, expected {expected!r}"
        self.model.settle()
        self._wait(self._quiet(self.runtime))
        self._note_settled()
        return answer

    async def _ask(self, request: Request) -> Any:
        try:
            return _plain(await request.real(self.runtime))
        except DurableError as error:
            return type(error).__name__

    def advance(self, seconds: float) -> None:
        """Let time pass for both."""
        self._wait(self._advance(self.model.now + round(seconds * 1_000_000)))
        self.model.advance(seconds)
        self._note_settled()

    async def _advance(self, target: int) -> None:
        await self._quiet(self.runtime)
        while (due := self.clock.until_next()) is not None:
            if self.clock.wall_us() + round(due * 1_000_000) > target:
                break
            await self.clock.advance(due)
            await self._quiet(self.runtime)
        await self.clock.advance((target - self.clock.wall_us()) / 1_000_000)
        await self._quiet(self.runtime)

    def restart(self, gap_seconds: float) -> None:
        """End the process in good order, let time pass, and begin another one."""
        self._wait(self.runtime.close())
        self.known = {}
        self.model.restarted(crashed=False)
        self._reopen(gap_seconds)

    def crash(self, gap_seconds: float) -> None:
        """Let the process die while nothing is going on but running steps."""
        self._wait(crash(self.runtime))
        self.known = {}
        self.model.restarted(crashed=True)
        self._reopen(gap_seconds)

    def _reopen(self, gap_seconds: float) -> None:
        self.clock.suspend(gap_seconds)
        self.model.now = self.clock.wall_us()
        self.model.settle()
        self.runtime = self._wait(self._opened())
        self._note_settled()

    def crash_in(self, request: Request, turns: int) -> None:
        """Let the process die `turns` turns of its loop after it was asked for something."""
        answer = self._wait(self._ask_and_die(request, turns))
        self.known = {}
        done, undone = copy.deepcopy(self.model), self.model
        expected = _told(request.model, done)
        fitting = [done, undone] if answer is None else [done]
        if answer is not None:
            assert answer == (expected,), f"{request.what}: told {answer!r}, not {expected!r}"
        for model in fitting:
            model.settle()
            model.restarted(crashed=True)
            model.settle()
        self.runtime = self._wait(self._opened())
        self.model = self._wait(self._one_that_fits(fitting))
        self._note_settled()

    async def _ask_and_die(self, request: Request, turns: int) -> tuple[Any] | None:
        asking = self._loop.create_task(self._ask(request))
        await settle(turns)
        answered = asking.done()
        await crash(self.runtime)
        told = (await asking,)
        return told if answered else None

    async def _one_that_fits(self, models: list[Model]) -> Model:
        wrong: list[AssertionError] = []
        for model in models:
            try:
                await self._compare(model)
                await self._compare_mail(model)
            except AssertionError as error:
                wrong.append(error)
            else:
                return model
        raise AssertionError("\nnor: ".join(map(str, wrong)))

    async def _quiet(self, runtime: VirtualRuntime) -> None:
        """Return when nothing but steps at their gates is going on."""
        still = 0
        for _ in range(PATIENCE_TURNS):
            await asyncio.sleep(0)
            still = 0 if _is_busy(runtime) else still + 1
            if still == 12 and self.clock.until_next() != 0:
                return
            if still == 12:
                await self.clock.advance(0)  # what fell due while nobody was there
                still = 0
        raise FoundError("hung", "the runtime does not come to rest")

    def _note_settled(self) -> None:
        gated = {
            run.run_id for run in self.model.runs.values() if run.live and run.wait.what == "gate"
        }
        for step_id in self.outside.begun:
            if step_id.rpartition(":")[0] not in gated:
                self.outside.settled.add(step_id)
        self.outside.begun = {s for s in self.outside.begun if s not in self.outside.settled}

    # --- comparing ---------------------------------------------------------------------------

    def check(self) -> None:
        """Compare all that can be seen, of runs where something ought to have changed or may."""
        if self.outside.repeated:
            raise FoundError("duplicated", f"ran again: {self.outside.repeated}")
        self._wait(self._compare(self.model))

    async def _compare(self, model: Model) -> None:
        expected = {run_id: expected_of(model, run) for run_id, run in model.runs.items()}
        chosen = [
            i for i, run in model.runs.items() if run.live or self.known.get(i) != expected[i]
        ]
        found = {run_id: await self._seen(run_id) for run_id in chosen}
        assert all(found[i] == expected[i] for i in chosen), _difference(found, expected)
        self.known = copy.deepcopy(expected)
        infos = await self.runtime.list_runs(order="oldest", limit=1000)
        assert {(i.run_id, str(i.status)) for i in infos} == {
            (run.run_id, run.shown) for run in model.runs.values()
        }
        created = [info.created_at for info in infos]
        assert created == sorted(created)

    async def _compare_mail(self, model: Model) -> None:
        """Compare what was sent to the runs: before it is taken it shows in histories alone."""
        for run_id, run in model.runs.items():
            events = await self.runtime.get_run(run_id).events()
            found = sum(event.kind == "hook_received" for event in events)
            assert found == run.received, f"{run_id}: {found} payloads, expected {run.received}"

    async def _seen(self, run_id: str) -> dict[str, Any]:
        run = self.runtime.get_run(run_id)
        if not await run.exists():
            return {"exists": False}
        status = await run.status()
        origin = await run.origin()
        return {
            "status": str(status),
            "reason": status.reason,
            "waits for": sorted(filter(None, map(_short, status.waiting_for))),
            "attributes": await run.attributes(),
            "parent": await run.parent_id(),
            "origin": None if origin is None else (origin.how, origin.run_id),
            "children": [child.run_id for child in await run.children()],
            "hooks": [_token(hook) for hook in await run.hooks()],
            "streams": {
                name: [value async for value in run.stream(name, follow=False)]
                for name in await run.list_streams()
            },
            "end": await self._end(run, status),
        }

    async def _end(self, run: Run[Any], status: str) -> Any:
        if status not in {"completed", "failed", "cancelled"}:
            return None
        try:
            return await run.result()
        except DurableError as error:
            return getattr(error, "error_message", None) or getattr(error, "reason", None)

    def check_histories(self) -> None:
        """No recorded event is ever another one, and numbers have no gaps."""
        for run_id in list(self.histories):
            if run_id not in self.model.runs:
                del self.histories[run_id]
        for run_id in self.model.runs:
            events = self._wait(self.runtime.get_run(run_id).events())
            history = [(e.seq, e.kind, e.name, e.ref, e.at, e.due, repr(e.value)) for e in events]
            if [line[0] for line in history] != list(range(1, len(history) + 1)):
                raise FoundError("corrupt", f"numbers of {run_id}: {history}")
            known = self.histories.get(run_id, [])
            if history[: len(known)] != known:
                raise FoundError("lost", f"{run_id} was {known}, is {history}")
            self.histories[run_id] = history


def expected_of(model: Model, run: RunModel) -> dict[str, Any]:
    """Return what is to be seen of a run."""
    ended = run.reason if run.status == "cancelled" else run.result
    return {
        "status": run.shown,
        "reason": run.paused,
        "waits for": _awaited(run),
        "attributes": run.attributes,
        "parent": run.parent,
        "origin": run.origin,
        "children": [r.run_id for r in model.runs.values() if r.parent == run.run_id],
        "hooks": [] if run.token is None else [run.token],
        "streams": run.streams,
        "end": ended if not run.live and run.status != "continued" else None,
    }


def _awaited(run: RunModel) -> list[str]:
    if not run.moves or run.status == "pending":
        return []
    names = {"gate": "step machine.gated", "retry": "step machine.flaky", "until": "sleep"}
    names |= {"hook": f"hook {run.wait.name!r}", "child": "step durable.*"}
    return [names[run.wait.what]] if run.wait.what in names else []


def _short(waiting: str) -> str:
    """Return what a run waits for, without what the model does not know."""
    if waiting.startswith(("mailbox", "its start")):
        return ""  # of a run that is a row only, mailboxes are not told
    if waiting.startswith("sleep"):
        return "sleep"
    return re.sub(r"step durable\.\S+", "step durable.*", waiting).partition(" (attempt")[0]


def _token(hook: HookInfo) -> str:
    return hook.token


def _is_busy(runtime: VirtualRuntime) -> bool:
    engine = runtime._engine
    assert engine is not None
    if engine._recovery._task is not None and not engine._recovery._task.done():
        return True
    if engine._spawned:
        return True
    for run in engine.scheduler:
        if run.scheduled or run.loading or run.unsaved or run.inbox:
            return True
        for attempt in run.attempts.values():
            if attempt.step.step.name != "machine.gated" and not attempt.settings.waits_for_run:
                return True
    return False


def _told(ask: Callable[[Model], Any], model: Model) -> Any:
    try:
        return ask(model)
    except DurableError as error:
        return type(error).__name__


def _plain(answer: Any) -> Any:
    if isinstance(answer, list):
        return [_plain(each) for each in answer]
    return answer.run_id if isinstance(answer, Run) else answer


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    lines = []
    for run_id, seen in found.items():
        wanted = expected[run_id]
        lines += [
            f"{run_id}: {key} is {seen.get(key)!r}, expected {wanted[key]!r}"
            for key in wanted
            if seen.get(key) != wanted[key]
        ]
    return "\n".join(lines)
