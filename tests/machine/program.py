"""The workflow that the state machine runs: it plays a script, a list of instructions.

An instruction is a tuple: what to do, and with what. Each is one thing that a body can do
and wait for; `reference` says what becomes of it, in its own words. What lies outside of
the journal, as bank accounts do, is the `Outside`: gates that steps wait at, faults that
somebody has mended. It also notes which step runs again though its outcome is on record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from durable import (
    Backoff,
    continue_as_new,
    create_hook,
    get_step_metadata,
    get_workflow_metadata,
    get_writable,
    now,
    receive,
    set_attributes,
    sleep,
    start,
    step,
    workflow,
)
from durable.errors import WorkflowRunCancelledError, WorkflowRunFailedError

Script = tuple[tuple[Any, ...], ...]

CLEANUP_GATE = "cleanup"
BACKOFF_SECONDS = 10.0
_EVEN = Backoff(initial=BACKOFF_SECONDS, factor=1, max=BACKOFF_SECONDS, jitter=0)


class BrokenError(Exception):
    """What steps of scripts fail with."""


@dataclass
class Outside:
    """The world around the journal, which no crash of the process undoes."""

    wall_us: Callable[[], int]
    gates: set[str] = field(default_factory=set)
    mended: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)  # steps since the last look, by id
    settled: set[str] = field(default_factory=set)  # those whose outcome is on record
    repeated: list[str] = field(default_factory=list)
    opened: list[asyncio.Event] = field(default_factory=list)

    def open_gate(self, name: str) -> None:
        """Let all through who wait at a gate, now and later."""
        self.gates.add(name)
        for event in self.opened:
            event.set()

    async def pass_gate(self, name: str) -> None:
        """Wait until a gate is open."""
        while name not in self.gates:
            event = asyncio.Event()
            self.opened.append(event)
            try:
                await event.wait()
            finally:
                self.opened.remove(event)


outside = Outside(lambda: 0)


def use(chosen: Outside) -> None:
    """Have all scripts of this process play in this world."""
    global outside
    outside = chosen


def _note() -> None:
    meta = get_step_metadata()
    if meta.step_id in outside.settled:
        outside.repeated.append(f"{meta.name} {meta.step_id}")
    outside.begun.add(meta.step_id)


# --- steps ----------------------------------------------------------------------------


@step(name="machine.say")
async def say(value: object) -> object:
    """Return the value."""
    _note()
    return value


@step(name="machine.gated")
async def gated(gate: str) -> str:
    """Wait outside until somebody opens the gate."""
    _note()
    await outside.pass_gate(gate)
    return gate


@step(name="machine.flaky", backoff=_EVEN, max_retries=99)
async def flaky(healthy_us: int) -> str:
    """Fail until this time has come."""
    if outside.wall_us() < healthy_us:
        raise BrokenError("not yet")
    return "well"


@step(name="machine.fragile", max_retries=0)
async def fragile(fault: str) -> str:
    """Fail for good, unless somebody has mended it."""
    if fault not in outside.mended:
        raise BrokenError(fault)
    return fault


@step(name="machine.emits")
async def emits(namespace: str, values: list[int]) -> None:
    """Write to a stream of the run; what an attempt wrote that was cut off is withdrawn."""
    _note()
    out = get_writable(namespace, on_retry="replace")
    for value in values:
        await out.write(value)


# --- the body ---------------------------------------------------------------------------


@workflow(name="machine.play")
async def play(script: Script, mode: str = "plain") -> list[Any]:
    """Do what the script says; `mode` tells how the body takes a cancellation."""
    out: list[Any] = []
    try:
        for place, (what, *given) in enumerate(script):
            await _PLAYERS[what](out, place, *given)
    except asyncio.CancelledError:
        if mode == "refuse":
            return [*out, "refused"]
        if mode == "clean":
            await gated(CLEANUP_GATE)
        raise
    return out


async def _say(out: list[Any], place: int, value: object) -> None:
    out.append(await say(value))


async def _gated(out: list[Any], place: int, gate: str) -> None:
    out.append(await gated(gate))


async def _flaky(out: list[Any], place: int, seconds: float) -> None:
    healthy_us = round(now().timestamp() * 1_000_000) + round(seconds * 1_000_000)
    out.append(await flaky(healthy_us))


async def _fragile(out: list[Any], place: int, fault: str) -> None:
    out.append(await fragile(fault))


async def _sleep(out: list[Any], place: int, seconds: float) -> None:
    await sleep(seconds)
    out.append("slept")


async def _ask(out: list[Any], place: int, token: str, seconds: float | None) -> None:
    whole = own_token(token, get_workflow_metadata().run_id)
    async with create_hook(token=whole) as hook:
        if (owner := await hook.get_conflict()) is not None:
            out.append(f"taken by {owner.run_id}")
            return
        try:
            out.append(await hook.get(seconds))
        except TimeoutError:
            out.append("late")


async def _receive(out: list[Any], place: int, box: str) -> None:
    out.append(await receive(box))


async def _emit(out: list[Any], place: int, namespace: str, value: int) -> None:
    await get_writable(namespace).write(value)


async def _emits(out: list[Any], place: int, namespace: str, values: list[int]) -> None:
    await emits(namespace, values)


async def _tag(out: list[Any], place: int, key: str, value: str | None) -> None:
    await set_attributes({key: value})


async def _begin(out: list[Any], place: int, script: Script, mode: str, bound: bool) -> None:
    close = "cancel" if bound else "abandon"
    options = play.options(run_id=child_id(place), on_parent_close=close)
    out.append((await start(options, script, mode)).run_id)


async def _await(out: list[Any], place: int, script: Script, mode: str) -> None:
    child = await start(play.options(run_id=child_id(place)), script, mode)
    try:
        out.append(await child.result())
    except WorkflowRunFailedError as error:
        out.append(f"failed: {error.error_message}")
    except WorkflowRunCancelledError as error:
        out.append(f"cancelled: {error.reason}")


async def _anew(out: list[Any], place: int, script: Script, mode: str) -> None:
    continue_as_new(script, mode)


def own_token(token: str, run_id: str) -> str:
    """Return the token that a run asks for: its own, unless runs shall meet at it."""
    return token if token.startswith("shared") else f"{token}@{run_id}"


def child_id(place: int) -> str:
    """Return the id of the child that the instruction at this place starts."""
    return f"{get_workflow_metadata().run_id}-{place}"


_PLAYERS = {
    "say": _say,
    "gated": _gated,
    "flaky": _flaky,
    "fragile": _fragile,
    "sleep": _sleep,
    "ask": _ask,
    "receive": _receive,
    "emit": _emit,
    "emits": _emits,
    "tag": _tag,
    "begin": _begin,
    "await": _await,
    "anew": _anew,
}
