"""One workflow that performs any program, and the steps that it calls.

A program is a tree of lists, `["all", [...], [...]]`, whose first items name the functions
below. Each node returns a plain value made of what it has observed, so that a run's result
tells what its body has seen. Attempts of steps return a value that no other attempt returns,
and note on the `stage` (the simulated world) when they begin and end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol

from durable import (
    Backoff,
    continue_as_new,
    create_hook,
    get_step_metadata,
    get_workflow_metadata,
    get_writable,
    now,
    random,
    receive,
    set_attributes,
    sleep,
    start,
    step,
    uuid4,
    workflow,
)
from durable.errors import (
    DurableError,
    FatalError,
    HookConflictError,
    StepTimeoutError,
)

Node = list[Any]


class PlannedError(Exception):
    """What steps and bodies fail with, as their program says."""


class Stage(Protocol):
    """The world that the code of steps and bodies acts in."""

    def begin(self) -> str:
        """Note that the calling attempt begins; return what it is to return."""

    def end(self, token: str, how: str) -> None:
        """Note that an attempt has "returned", "failed" or was "cancelled"."""

    def hook(self, run_id: str, token: str) -> None:
        """Note that a run's body has created a hook."""

    def mailbox(self, run_id: str, name: str) -> None:
        """Note that a body receives mail."""

    def is_changed(self, run_id: str) -> bool:
        """Tell whether this run now meets code that decides something else."""


class _Nowhere:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError("no simulation is under way")


stage: Stage = _Nowhere()  # type: ignore[assignment]


def use_stage(world: Stage) -> None:
    """Let steps and bodies act in this world from now on."""
    global stage
    stage = world


# --- steps ----------------------------------------------------------------------------


async def _attempt(fails: int, seconds: float, fatal: bool = False) -> str:
    token = stage.begin()
    try:
        if seconds >= 0:
            await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        stage.end(token, "cancelled")
        raise
    if get_step_metadata().attempt <= fails:
        stage.end(token, "failed")
        raise FatalError(token) if fatal else PlannedError(token)
    stage.end(token, "returned")
    return token


QUICK = Backoff(initial=2, factor=3, max=20, jitter=0.5)


@step(name="sim.work", max_retries=2, backoff=QUICK)
async def work(fails: int, seconds: float) -> str:
    return await _attempt(fails, seconds)


@step(name="sim.once", max_retries=0)
async def once(fails: int, seconds: float) -> str:
    return await _attempt(fails, seconds)


@step(name="sim.fatal", max_retries=5)
async def fatal(fails: int, seconds: float) -> str:
    return await _attempt(fails, seconds, fatal=True)


@step(name="sim.timed", max_retries=1, timeout=5, backoff=Backoff(initial=0, max=0))
async def timed(fails: int, seconds: float) -> str:
    return await _attempt(fails, seconds)


@step(name="sim.narrow", concurrency=1, max_retries=1, backoff=QUICK)
async def narrow(fails: int, seconds: float) -> str:
    return await _attempt(fails, seconds)


@step(name="sim.stubborn", timeout=3, max_retries=1, backoff=QUICK)
async def stubborn(fails: int, seconds: float) -> str:
    """Goes on for a while when it is cancelled, and returns all the same."""
    token = stage.begin()
    for _ in range(2):
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            stage.end(token, "cancelled")
    stage.end(token, "returned")
    return token


@step(name="sim.changed")
async def changed() -> str:
    return await _attempt(0, 0)


@step(name="sim.emit", max_retries=2, backoff=QUICK)
async def emit(fails: int, count: int) -> str:
    token = stage.begin()
    async with get_writable() as out:
        for number in range(count):
            await out.write([token, number])
    if get_step_metadata().attempt <= fails:
        stage.end(token, "failed")
        raise PlannedError(token)
    stage.end(token, "returned")
    return token


@step(name="sim.items", max_retries=2, backoff=QUICK, on_retry="skip")
async def items(fails: int, count: int) -> Any:
    token = stage.begin()
    for number in range(count):
        if number and get_step_metadata().attempt <= fails:
            stage.end(token, "failed")
            raise PlannedError(token)
        yield number
    stage.end(token, "returned")


STEPS = {
    each.name.partition(".")[2]: each
    for each in (work, once, fatal, timed, narrow, stubborn, emit, items)
}

# --- bodies -----------------------------------------------------------------------------


async def perform(node: Node, path: str) -> Any:
    """Perform a node of a program; `path` names the program and the place in its tree."""
    return await _NODES[node[0]](path, *node[1:])


async def _do(path: str, name: str, fails: int, seconds: float, caught: bool) -> Any:
    try:
        return await STEPS[name](fails, seconds)
    except (PlannedError, FatalError, StepTimeoutError) as error:
        if not caught:
            raise
        return [type(error).__name__]


async def _iterate(path: str, fails: int, count: int) -> Any:
    return [item async for item in items(fails, count)]


async def _sleep(path: str, seconds: float) -> str:
    await sleep(seconds)
    return "slept"


async def _asleep(path: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


async def _until(path: str, seconds: float) -> str:
    await sleep(now() + timedelta(seconds=seconds))
    return "slept"


async def _seq(path: str, *nodes: Node) -> Any:
    return [await perform(node, f"{path}.{i}") for i, node in enumerate(nodes)]


async def _all(path: str, *nodes: Node) -> Any:
    return await asyncio.gather(*(perform(node, f"{path}.{i}") for i, node in enumerate(nodes)))


async def _group(path: str, *nodes: Node) -> Any:
    failed = 0
    tasks: list[asyncio.Task[Any]] = []
    try:
        async with asyncio.TaskGroup() as group:
            for i, node in enumerate(nodes):
                tasks.append(group.create_task(perform(node, f"{path}.{i}")))
    except* (PlannedError, FatalError, StepTimeoutError) as errors:
        failed = len(errors.exceptions)
    return ["group", failed] if failed else [task.result() for task in tasks]


async def _first(path: str, *nodes: Node) -> Any:
    """Race: the first one wins, the others are cancelled."""
    tasks = [
        asyncio.create_task(perform(node, f"{path}.{i}"), name=f"{path}.{i}")
        for i, node in enumerate(nodes)
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    told = [type(e).__name__ if isinstance(e, BaseException) else e for e in ends]
    return ["first", sorted(task.get_name() for task in done), told]


async def _within(path: str, seconds: float, node: Node) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await perform(node, f"{path}.0")
    except TimeoutError:
        return "late"


async def _finally(path: str, node: Node, cleanup: Node) -> Any:
    try:
        return await perform(node, f"{path}.0")
    finally:
        await perform(cleanup, f"{path}.1")


async def _queue(path: str, count: int, node: Node) -> Any:
    """A producer and a consumer, with a queue that holds one."""
    queue: asyncio.Queue[Any] = asyncio.Queue(1)

    async def produce() -> None:
        for number in range(count):
            try:
                made = await perform(node, f"{path}.{number}")
            except (PlannedError, FatalError, StepTimeoutError) as error:
                made = type(error).__name__
            await queue.put([number, made])

    producing = asyncio.create_task(produce())
    try:
        got = [await queue.get() for _ in range(count)]
        await producing
    finally:
        producing.cancel()
    return got


async def _hook(path: str, count: int, limit: float | None, tries: int, raced: bool) -> Any:
    """Take payloads; a waiter that gives up must leave them to the next one."""
    token = f"/{path}"
    take = _race if raced else _get
    got: list[Any] = []
    async with create_hook(int, token=token) as hook:
        stage.hook(get_workflow_metadata().run_id, token)
        try:
            while len(got) < count and tries:
                try:
                    got.append(await take(hook, limit))
                except TimeoutError:
                    tries -= 1
        except HookConflictError:
            return "conflict"
        missed = hook.pending
    return ["hook", token, got, missed]


async def _get(hook: Any, limit: float | None) -> Any:
    return await hook.get(timeout=limit)


async def _race(hook: Any, limit: float | None) -> Any:
    waiter = asyncio.create_task(hook.get())
    pause = asyncio.create_task(asyncio.sleep(limit if limit is not None else 1000.0))
    try:
        await asyncio.wait([waiter, pause], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        try:
            return await waiter
        except asyncio.CancelledError:
            raise TimeoutError from None
    finally:
        waiter.cancel()
        pause.cancel()


async def _mail(path: str, name: str, limit: float | None) -> Any:
    run_id = get_workflow_metadata().run_id
    stage.mailbox(run_id, name)
    try:
        return ["mail", name, await receive(name, int, timeout=limit)]
    except TimeoutError:
        return "no mail"


async def _child(path: str, program: dict[str, Any], wait: bool, bound: bool) -> Any:
    close = "cancel" if bound else "abandon"
    child = await start(other.options(run_id=path, on_parent_close=close), {**program, "id": path})  # type: ignore[arg-type]
    if not wait:
        return child.run_id
    try:
        return ["child", await child.result()]
    except DurableError as error:
        return [type(error).__name__]


async def _write(path: str, count: int) -> str:
    out = get_writable("body")
    for number in range(count):
        await out.write(f"{path}:{number}")
    return "written"


async def _tag(path: str, value: str) -> str:
    await set_attributes({f"at-{path}"[-200:]: value})
    return "tagged"


async def _draw(path: str) -> Any:
    return [random().random(), str(uuid4()), str(now())]


_NODES: dict[str, Callable[..., Awaitable[Any]]] = {
    "do": _do, "iterate": _iterate, "sleep": _sleep, "asleep": _asleep, "until": _until,
    "seq": _seq, "all": _all, "group": _group, "first": _first, "within": _within,
    "finally": _finally, "queue": _queue, "hook": _hook, "mail": _mail, "child": _child,
    "write": _write, "tag": _tag, "draw": _draw,
}  # fmt: skip


async def _flow(program: dict[str, Any]) -> Any:
    if stage.is_changed(get_workflow_metadata().run_id):
        await changed()
    seen = await perform(program["tree"], program["id"])
    if program.get("again", 0) > 0:
        continue_as_new({**program, "again": program["again"] - 1})
    if program.get("fails"):
        raise PlannedError("the body fails")
    return seen


@workflow(name="sim.flow")
async def flow(program: dict[str, Any]) -> Any:
    return await _flow(program)


@workflow(name="sim.other")
async def other(program: dict[str, Any]) -> Any:
    return await _flow(program)
