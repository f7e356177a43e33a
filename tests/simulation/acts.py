"""What clients and the machine do in a simulation, and what must be so when a call returns.

Each act is a coroutine of a client: it calls the public API, and what the call acknowledges
must be in the journal at that instant. Errors of `durable` are answers too; anything else that
is raised is a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from durable import Run, Runtime
from durable._replay.events import WOKEN, EventKind
from durable.errors import (
    DurableError,
    HookNotFoundError,
    HookPayloadError,
    InternalError,
    JournalError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
)
from tests.simulation.disk import Trouble
from tests.simulation.flows import flow
from tests.simulation.watch import FINISHED, Seen
from tests.simulation.world import World

Verb = Callable[..., Awaitable[None]]
VERBS: dict[str, Verb] = {}
# What no client does: it happens at once.
MACHINE = {"disk", "suspend", "set wall", "crash at commit", "forget code", "change code"}


def _verb(name: str) -> Callable[[Verb], Verb]:
    def register(function: Verb) -> Verb:
        VERBS[name] = function
        return function

    return register


async def perform(world: World, runtime: Runtime, verb: str, given: tuple[Any, ...]) -> None:
    """Perform one act; errors of the library are answers."""
    life, loop = world.life, asyncio.get_running_loop()
    try:
        await VERBS[verb](world, runtime, *given)
    except InternalError as error:
        world.broken("broken", f"{verb}: {error!r}")
    except DurableError as error:
        world.mark(f"{verb}: {type(error).__name__}")
        world.tell(f"{verb}: {type(error).__name__}: {error}"[:300])
    except Exception as error:
        if not loop.is_closed():  # else it is a coroutine of a life that was lost, disposed of
            world.broken("broken", f"{verb} raised {error!r}")
    else:
        if life == world.life and not world.dead:
            world.tell(f"{verb} {given}: done")


def _pick(world: World, share: float) -> str | None:
    names = list(world.witness.by_id)
    return names[int(share * len(names))] if names else None


def _some_run(world: World, runtime: Runtime, share: float) -> Run[Any] | None:
    name = _pick(world, share)
    return None if name is None else runtime.get_run(name)


def _seen(world: World, run_id: str) -> Seen | None:
    """Return what the journal holds of a run; None if it has been there and is gone."""
    seen = world.witness.by_id.get(run_id)
    if seen is None and run_id not in world.witness.gone:
        world.broken("lost", f"9: {run_id} was acknowledged, and is not in the journal")
    return seen


def _rows(world: World, seen: Seen | None, stream: str) -> list[tuple[Any, ...]] | None:
    """Return the recorded rows of a run's stream; None if the run is gone, or none can be read."""
    return None if seen is None else world.look_at_stream(seen, stream)


# --- runs -----------------------------------------------------------------------------


@_verb("start")
async def start(world: World, runtime: Runtime, number: int) -> None:
    """Start a run of the plan."""
    order = world.plan.orders[number]
    wanted = flow.options(run_id=order.run_id, **order.options)
    is_there = order.run_id in world.witness.by_id
    mine = world.starts[order.run_id] = world.starts.get(order.run_id, 0) + 1
    try:
        run = await runtime.start(wanted, order.program)
    except JournalError:
        world.mark("refused start")
        is_there = is_there or world.starts[order.run_id] != mine  # or it is another start's
        if not is_there and order.run_id in world.witness.by_id and not world.closing:
            world.broken("corrupt", f"{order.run_id} was refused, and is recorded")
        raise
    world.acked.add(run.run_id)
    _seen(world, run.run_id)


@_verb("start again")
async def start_again(world: World, runtime: Runtime, share: float) -> None:
    """Start one under an id that is taken, as after a crash that left one unsure."""
    number = int(share * len(world.plan.orders))
    if world.plan.orders[number].run_id in world.acked:
        await start(world, runtime, number)


@_verb("watch")
async def watch(world: World, runtime: Runtime, share: float) -> None:
    """Wait for a result: it must be the recorded one."""
    run = _some_run(world, runtime, share)
    if run is None:
        return
    status, value = "completed", None
    try:
        value = await run.result()
    except WorkflowRunFailedError:
        status = "failed"
    except WorkflowRunCancelledError:
        status = "cancelled"
    seen = world.witness.by_id.get(run.run_id)
    if seen is None or seen.row.status == "continued" or seen.was_set_back:
        return
    if seen.row.status != status:
        world.broken("lost", f"9: {run.run_id} was seen {status}, and is {seen.row.status}")
    elif status == "completed":
        payload = seen.events[-1].payload
        recorded = None if payload is None else world.payloads.decode(payload)
        if recorded != value:
            world.broken("corrupt", f"10: {run.run_id} returned {value!r}, not {recorded!r}")


@_verb("cancel")
async def cancel(world: World, runtime: Runtime, share: float) -> None:
    """Cancel a run."""
    run = _some_run(world, runtime, share)
    if run is None:
        return
    world.cancelled.add(run.run_id)
    seen = world.witness.by_id.get(run.run_id)
    was_over = seen is not None and seen.row.status in FINISHED  # a retry may be under way
    await run.cancel("the simulation says so")
    seen = _seen(world, run.run_id)
    if was_over or seen is None or seen.cancel_asked:
        return
    if seen.row.status not in FINISHED:
        world.broken("lost", f"9: the cancellation of {run.run_id} is not recorded")


@_verb("cancel twice")
async def cancel_twice(world: World, runtime: Runtime, share: float) -> None:
    """Two clients cancel the same run, one right behind the other."""
    first = asyncio.ensure_future(cancel(world, runtime, share))
    await asyncio.sleep(share / 1000)
    await asyncio.gather(first, cancel(world, runtime, share), return_exceptions=True)


@_verb("wake")
async def wake(world: World, runtime: Runtime, share: float) -> None:
    """End the sleeps of a run."""
    run = _some_run(world, runtime, share)
    if run is None:
        return
    count = await run.wake_up()
    seen = _seen(world, run.run_id)
    if seen is not None and seen.row.status not in FINISHED:
        woken = [e for e in seen.events if e.kind == EventKind.WAIT_COMPLETED and e.name == WOKEN]
        # One that is woken may win a race, and so end another one without a record; and a
        # cancellation that comes at the same time ends them as well.
        if count and not woken and not seen.cancel_asked:
            world.broken("lost", f"9: {count} sleeps of {run.run_id} ended, recorded are {woken}")
    if count:
        world.mark("woken")


@_verb("pause")
async def pause(world: World, runtime: Runtime, share: float) -> None:
    """Pause a run."""
    run = _some_run(world, runtime, share)
    if run is not None:
        await run.pause("the simulation says so")


@_verb("resume")
async def resume(world: World, runtime: Runtime, share: float) -> None:
    """Let a run go on."""
    run = _some_run(world, runtime, share)
    if run is not None:
        await run.resume()


@_verb("retry")
async def retry(world: World, runtime: Runtime, share: float) -> None:
    """Retry a run that has failed, if there is one."""
    failed = [n for n, seen in world.witness.by_id.items() if seen.row.status == "failed"]
    if failed:
        await runtime.get_run(failed[int(share * len(failed))]).retry()
        world.mark("retried")


@_verb("rerun")
async def rerun(world: World, runtime: Runtime, share: float) -> None:
    """Start a run anew."""
    run = _some_run(world, runtime, share)
    if run is not None and len(world.witness.by_id) < 30:
        again = await run.rerun(run_id=f"{run.run_id}+")
        _seen(world, again.run_id)


@_verb("fork")
async def fork(world: World, runtime: Runtime, share: float) -> None:
    """Fork a run at the end of its history."""
    run = _some_run(world, runtime, share)
    if run is None or len(world.witness.by_id) >= 30:
        return
    name = f"{run.run_id}^"
    forked = await run.fork(run_id=name)
    _seen(world, forked.run_id)
    world.mark("forked")


@_verb("delete")
async def delete(world: World, runtime: Runtime, share: float) -> None:
    """Delete a finished run."""
    ended = [n for n, seen in world.witness.by_id.items() if seen.row.status in FINISHED]
    if not ended:
        return
    name = ended[int(share * len(ended))]
    world.deleted.add(name)
    before = world.witness.by_id[name]
    await runtime.get_run(name).delete()
    if world.witness.by_id.get(name) is before:  # and not another one under its id
        world.broken("lost", f"9: {name} was deleted, and is there")


@_verb("list")
async def list_runs(world: World, runtime: Runtime, share: float) -> None:
    """List all runs: those that were acknowledged before are there."""
    wanted = {name for name in world.acked if name in world.witness.by_id}
    names: set[str] = set()
    page = await runtime.list_runs(limit=2)
    while True:
        names |= {info.run_id for info in page}
        if page.next_cursor is None:
            break
        page = await runtime.list_runs(limit=2, cursor=page.next_cursor)
    missing = wanted - names - world.witness.gone
    if missing:
        world.broken("lost", f"9: {missing} are not in the listing {names}")


# --- payloads ---------------------------------------------------------------------------


@_verb("pay")
async def pay(world: World, runtime: Runtime, share: float) -> None:
    """Give one of the open hooks a payload."""
    tokens = list(world.tokens)
    if tokens:
        world.sent += 1
        token = tokens[int(share * len(tokens))]
        await give(world, runtime, token, f"k{world.sent}", world.sent)


async def give(world: World, runtime: Runtime, token: str, key: str, value: int) -> None:
    """Give a hook a payload under a key; it is recorded, or refused."""
    world.keys.append((token, key, value))
    try:
        run = await runtime.resume_hook(token, value, dedupe_key=key)
    except (HookNotFoundError, HookPayloadError):
        if any(_has_key(seen, key) for seen in world.witness.by_id.values()):
            world.mark("refused again")  # an earlier try under this key was recorded
        raise
    seen = _seen(world, run.run_id)
    if seen is not None and not _has_key(seen, key):
        world.broken("lost", f"9: payload {key} of {token} is acknowledged and not recorded")
    world.mark("payload")


def _has_key(seen: Seen, key: str) -> bool:
    return any(
        e.kind == EventKind.HOOK_RECEIVED and e.name.endswith(f"\n{key}") for e in seen.events
    )


@_verb("pay again")
async def pay_again(world: World, runtime: Runtime, share: float) -> None:
    """Deliver something once more, under its key."""
    if world.keys:
        token, key, value = world.keys[int(share * len(world.keys))]
        world.mark("duplicate payload")
        await (post if "/" not in token else give)(world, runtime, token, key, value)


@_verb("pay late")
async def pay_late(world: World, runtime: Runtime, share: float) -> None:
    """Give a payload to a hook that was never created."""
    world.sent += 1
    try:
        await runtime.resume_hook(f"nobody/{share}", world.sent)
    except HookNotFoundError:
        world.mark("late payload")
    else:
        world.broken("corrupt", "6: a payload was accepted for a hook that nobody has created")


@_verb("send")
async def send(world: World, runtime: Runtime, share: float) -> None:
    """Send mail to a run, whether it asks for it or not."""
    name = _pick(world, share)
    if name is not None:
        world.sent += 1
        await post(world, runtime, name, f"k{world.sent}", world.sent)


async def post(world: World, runtime: Runtime, run_id: str, key: str, value: int) -> None:
    """Send mail under a key; it is recorded, or refused."""
    box = "ab"[value % 2]
    world.keys.append((run_id, key, value))
    await runtime.send(run_id, box, value, dedupe_key=key)
    found = [_has_key(seen, key) for seen in world.witness.by_id.values()]
    if found and not any(found) and run_id not in world.witness.gone:
        world.broken("lost", f"9: mail {key} to {run_id} is acknowledged and not recorded")
    world.mark("mail")


# --- streams ------------------------------------------------------------------------------


@_verb("write outside")
async def write_outside(world: World, runtime: Runtime, share: float) -> None:
    """Write to a stream of a run from outside."""
    run = _some_run(world, runtime, share)
    if run is None:
        return
    world.sent += 1
    value = world.sent
    await run.get_writable("guests").write(value)
    rows = _rows(world, _seen(world, run.run_id), "guests")
    if rows is None:
        return
    chunks = [row[4] for row in rows if row[4] is not None]
    if value not in [world.payloads.decode(chunk) for chunk in chunks]:
        world.broken("lost", f"9: chunk {value} of {run.run_id} is not recorded")
    world.mark("outside chunk")


@_verb("read stream")
async def read_stream(world: World, runtime: Runtime, share: float) -> None:
    """Read what a run's streams hold: no more than what is recorded."""
    run = _some_run(world, runtime, share)
    if run is None:
        return
    for name in await run.list_streams():
        pieces = [piece async for piece in run.stream(name, follow=False).chunks()]
        rows = _rows(world, world.witness.by_id.get(run.run_id), name)
        if rows is None:
            return
        recorded = {row[0]: row[4] for row in rows}
        if any(world.payloads.decode(recorded[p.index]) != p.value for p in pieces):
            world.broken("corrupt", f"9: stream {name!r} of {run.run_id} reads otherwise")
        world.counts["chunks read"] += len(pieces)


# --- the machine ------------------------------------------------------------------------------


@_verb("disk")
async def disk(
    world: World, runtime: Runtime, kind: Any, at: int, length: int, reads: bool
) -> None:
    """Let the disk fail from one of the next statements on."""
    world.fail_disk(Trouble(kind, at, length, reads))


@_verb("suspend")
async def suspend(world: World, runtime: Runtime, seconds: float) -> None:
    """Close the laptop for a while."""
    world.mark("suspend")
    world.clock.suspend(seconds)


@_verb("set wall")
async def set_wall(world: World, runtime: Runtime, seconds: float) -> None:
    """Set the wall clock."""
    if world.clock.tick_seconds_max < 1e9:
        seconds = max(-86400.0, min(seconds, 86400.0))  # else it would tick for years
    if abs(world.offset + seconds) > 4e8:
        seconds = -seconds
    world.offset += seconds
    world.upsets += 1
    world.upset_at = world.clock.boot()
    world.mark("wall back" if seconds < 0 else "wall forward")
    world.last_wall = max(world.last_wall, world.clock.wall_us() + int(seconds * 1e6))
    world.clock.set_wall(world.clock.wall_us() + int(seconds * 1e6))


@_verb("crash at commit")
async def crash_at_commit(world: World, runtime: Runtime, count: int, side: str) -> None:
    """Die at one of the next COMMITs."""
    world.kill_at = (count, side)


@_verb("forget code")
async def forget_code(world: World, runtime: Runtime, share: float) -> None:
    """Unregister a workflow."""
    name = "sim.flow" if share < 0.6 else "sim.other"
    world.blocked_by_plan.add(name)
    world.forget_code(name)


@_verb("change code")
async def change_code(world: World, runtime: Runtime, share: float) -> None:
    """Let runs decide otherwise when they are replayed."""
    world.change_code()


@_verb("restore code")
async def restore_code(world: World, runtime: Runtime, share: float) -> None:
    """Make the code right again, and resume what it has blocked."""
    world.restore_code()
    for name, seen in list(world.witness.by_id.items()):
        if seen.row.status == "blocked":
            world.mark("unblocked")
            try:
                await runtime.get_run(name).resume()
            except JournalError:
                world.mark("resume refused")
