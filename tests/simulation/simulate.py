"""Plays a plan in a world to its end, and judges what is left.

`play` is a trial: lives follow each other until all acts are done; then faults stop, everything
that waits for the world is served, and every run must come to its end within bounded virtual
time. At last each history is replayed: the body must decide the same again.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from durable import Runtime
from durable._authoring import registry
from durable._engine.hot import HotRun
from durable._engine.loader import _begin
from durable._journal.attributes import decode_attributes, seed_of
from durable._replay.attributes import first_attributes
from durable._replay.body import Body
from durable._replay.events import TERMINAL, EventKind
from durable._replay.rewound import effective
from durable.errors import DurableError, JournalError
from tests.campaign.programme import Counts, FoundError
from tests.campaign.sometimes import reached
from tests.simulation import acts
from tests.simulation.disk import KINDS
from tests.simulation.loop import DeadlockError, LivelockError, StoppedError
from tests.simulation.marks import MARKED
from tests.simulation.plan import Plan
from tests.simulation.watch import FINISHED, Seen
from tests.simulation.world import World

LIVES_MAX = 40
# How long everything may take once faults have stopped: rounds of serving what waits.
ROUNDS = (0.01, 1, 60, 600, 3600, 86400, 86400 * 40, 86400 * 366 * 27, *(3600.0, 86400.0 * 40) * 20)


def play(plan: Plan, place: Path, template: bytes) -> World:
    """Play a plan; return the world as it is at the end.

    Raises:
        FoundError: a promise is broken. `world` of it is the world.
    """
    world = World(plan, place, template)
    world.use()
    before = random.getstate()
    random.seed(plan.seed)  # what the library draws: how long it waits before a retry
    try:
        _play(world)
    except FoundError as error:
        error.world = world  # type: ignore[attr-defined]
        raise
    finally:
        random.setstate(before)
        world.restore_code()
    return world


def _play(world: World) -> None:
    for _ in range(LIVES_MAX):
        if _live(world):
            break
    else:
        raise FoundError("hung", f"{LIVES_MAX} lives were not enough")
    if world.found is not None:
        raise world.found
    for seen in [*world.witness.vanished, *world.witness.by_id.values()]:
        _check_end(world, seen)


def _live(world: World) -> bool:
    """Live one life; True when all is done."""
    with world.living() as loop:
        try:
            done = loop.finish(_main(world))
        except StoppedError:
            done = False
        except DeadlockError:
            raise FoundError("hung", f"11: nothing can ever happen again: {_open(world)}") from None
        except LivelockError:
            raise FoundError("hung", f"11: busy for ever: {_open(world)}") from None
    if world.found is not None:
        raise world.found
    return done


async def _main(world: World) -> bool:
    runtime = world.runtime
    assert runtime is not None
    try:
        await runtime.open()
    except JournalError as error:
        world.mark("open refused")
        world.tell(f"open: {error}")
        return False
    clients: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    while world.next_act < len(world.plan.acts):
        act = world.plan.acts[world.next_act]
        world.next_act += 1
        await asyncio.sleep(act.delay)
        if act.verb == "crash":
            world.kill("at any time")
            return False
        if act.verb in {"restart", "lose loop"}:
            world.mark(act.verb)
            world.tell(act.verb)
            world.closing = True
            if act.verb == "restart":
                await runtime.close()
            return False
        if act.verb == "shut client":
            for client in clients[-1:]:
                client.cancel()
            continue
        if act.verb in acts.MACHINE:
            await acts.perform(world, runtime, act.verb, act.given)
            continue
        world.tell(f"{act.verb} {act.given} ...")
        clients.append(loop.create_task(acts.perform(world, runtime, act.verb, act.given)))
    await _settle(world, runtime)
    world.closing = True
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    await runtime.close()
    return True


# --- when faults have stopped ---------------------------------------------------------------


async def _settle(world: World, runtime: Runtime) -> None:
    """Serve what waits for the world, until every run has ended."""
    assert world.disk is not None
    world.tell("faults stop")
    world.kill_at = None
    world.disk.fail(None)
    world.disk.fail(None, reads=True)
    world.disk.stalls = 0.0
    world.restore_code()
    for number, pause in enumerate(ROUNDS):
        await asyncio.sleep(pause)
        world.is_healed = number > 2  # a writer that is pausing looks again within a minute
        for place, order in enumerate(world.plan.orders):
            if order.run_id not in world.acked:
                await acts.perform(world, runtime, "start", (place,))
        if not _open(world) and number > 0:
            return
        await _serve(world, runtime)
    raise FoundError("hung", f"11: {_open(world)} did not end after faults had stopped")


def _open(world: World) -> list[str]:
    return [
        f"{name} ({seen.row.status})"
        for name, seen in world.witness.by_id.items()
        if seen.row.status not in FINISHED
    ]


async def _serve(world: World, runtime: Runtime) -> None:
    for name, seen in list(world.witness.by_id.items()):
        if seen.row.status == "blocked":
            await _quietly(world, runtime.get_run(name).resume())
    for token in list(world.tokens):
        world.sent += 1
        await _quietly(world, acts.give(world, runtime, token, f"k{world.sent}", world.sent))
    for run_id, box in list(world.mailboxes):
        if _is_open(world, run_id):
            world.sent += 1
            await _quietly(world, runtime.send(run_id, box, world.sent))


def _is_open(world: World, run_id: str) -> bool:
    seen = world.witness.by_id.get(run_id)
    return seen is not None and seen.row.status not in FINISHED


async def _quietly(world: World, call: Any) -> None:
    try:
        await call
    except JournalError as error:
        if world.is_healed:
            world.broken("hung", f"11: the disk works again, and yet {error!r}")
    except DurableError as error:
        world.tell(f"{type(error).__name__}: {error}"[:200])


# --- when all is over -----------------------------------------------------------------------


def _check_end(world: World, seen: Seen) -> None:
    """Judge how a run ended, what it says that it has seen, and replay it."""
    row, history = seen.row, seen.events
    world.mark(row.status)
    by_name = world.cancelled & {row.run_id, row.first_id}  # a chain goes by its first run's
    asked = seen.cancel_asked or by_name or row.parent_id is not None
    if row.status == "cancelled" and not asked:
        raise FoundError("corrupt", f"{row.run_id} is cancelled, and nobody has asked for it")
    if row.status == "completed" and history[-1].payload is not None:
        _check_seen(world, seen, world.payloads.decode(history[-1].payload))
    _replay(world, seen)


def _check_seen(world: World, seen: Seen, value: Any) -> None:
    for node in _nodes(value):
        if node[:1] == ["hook"] and len(node) == 4:
            _check_payloads(world, seen, *node[1:])


def _nodes(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, list | tuple):
        yield list(value)
        for item in value:
            yield from _nodes(item)


def _check_payloads(world: World, seen: Seen, token: str, got: list[int], missed: int) -> None:
    """What the body took is what was recorded, from the first on, without a hole."""
    refs = [
        e.seq for e in seen.events
        if e.kind == EventKind.HOOK_CREATED and e.name == token
    ]  # fmt: skip
    recorded = [
        world.payloads.decode(e.payload)
        for e in seen.events
        if e.kind == EventKind.HOOK_RECEIVED and e.ref in refs and e.payload is not None
    ]
    if len(refs) == 1 and not seen.was_set_back and recorded[: len(got)] != got:
        raise FoundError("lost", f"6: {seen.row.run_id}: {token} gave {got} of {recorded}")
    if len(refs) == 1 and not seen.was_set_back and len(recorded) < len(got) + missed:
        raise FoundError("corrupt", f"6: {token}: {got}, {missed} missed, of {recorded}")


def _replay(world: World, seen: Seen) -> None:
    """Let a fresh body follow the history: it decides the same, and comes to the same end."""
    view = effective(seen.events)
    definition: Any = registry.find_workflow(seen.row.workflow)
    payload = view.events[0].payload
    assert payload is not None
    args, kwargs = world.payloads.decode_call(payload)
    run = HotRun(seen.row, definition)
    main = partial(definition.fn, *args, **kwargs)
    body = run.body = Body(
        run.run_id, partial(_begin, run, definition, main), view.events, world.payloads,
        _no_clock, seed_of(run.row.origin),
    )  # fmt: skip
    body.attributes = first_attributes(decode_attributes(run.row.attributes), seen.events)
    try:
        while not body.replay(10_000):
            pass
        last = seen.events[-1]
        divergence = body.script.divergence
        if divergence is not None:
            # One cancelled while it was parked has not seen what had come in meanwhile.
            is_end = last.kind == EventKind.RUN_CANCELLED and divergence.position == last.seq
            if seen.was_blocked and is_end:
                return
            raise FoundError("corrupt", f"10: {run.run_id}: {divergence}")
        if last.kind in TERMINAL and (body.script.out or body.outcome != last):
            raise FoundError(
                "corrupt", f"10: {run.run_id} ended as {last}, its replay as {body.outcome}"
            )
    finally:
        body.abandon()


def _no_clock() -> int:
    raise AssertionError("a replay asked for the time")


# --- what is shown of it ----------------------------------------------------------------------


def fingerprint(world: World) -> str:
    """Return a digest of all histories: the same for the same seed."""
    digest = hashlib.sha256()
    for seen in [*world.witness.vanished, *world.witness.runs.values()]:
        # A retry is recorded with the random id of the request for it.
        events = [
            event._replace(payload=None) if event.kind == EventKind.RUN_REWOUND else event
            for event in seen.events
        ]
        digest.update(repr((seen.row, events)).encode())
    return digest.hexdigest()


def counts_of(world: World) -> Counts:
    """Return what a trial did, by word, and the marks that it has reached."""
    counts = reached(*(MARKED[word] for word in MARKED.keys() & world.counts.keys()))
    counts["seeds"] = 1
    counts["crashes"] = world.counts["crash"]
    counts["faults"] = sum(world.counts[kind] for kind in KINDS)
    counts["commits"] = world.witness.commits
    return counts


def tell(world: World) -> str:
    """Return the story of a world, for people."""
    lines = [str(world.plan), "", "what happened:"]
    for us, life, what in world.story:
        lines.append(f"{us / 1e6:>16.6f}s life {life}  {what}")
    for seen in [*world.witness.vanished, *world.witness.by_id.values()]:
        lines.append(f"\n{seen.row}")
        lines += [
            f"  {e.seq:>3} {EventKind(e.kind).label:<16} {e.name!r} ref={e.ref} at={_clock(e.at)}"
            + (f" due={_clock(e.due)}" if e.due is not None else "")
            for e in seen.events
        ]
    return "\n".join(lines)


def _clock(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%y-%m-%d %H:%M:%S.%f")
