"""A scenario program that streams in every way, and what must be in its streams.

A step writes chunks and notes which ones `drain` has promised; a body writes between two
steps; one generator is iterated, another awaited; somebody outside writes. What can be told
from rows alone is judged by `check_chunks` after each death, without `durable`; the order and
number of everything is judged by the program itself when it has come to its end.
"""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from typing import Any

from durable import get_step_metadata, get_writable, step, workflow
from tests.crash.ledger import Ledger
from tests.crash.oracle import STEP_COMPLETED, STEP_YIELDED, Journal, PromiseBrokenError
from tests.crash.program import FAST, Program, attempt, insist, note

COUNT, FEW = 12, 5


@step(name="crash.emit", backoff=FAST)
async def emit(value: int) -> int:
    """Write numbers with the attempt; note, after each third, that they are durable."""
    finish = attempt(fails=0)
    number = get_step_metadata().attempt
    out = get_writable("drained")
    for n in range(COUNT):
        await out.write((number, n))
        if n % 3 == 2:
            await out.drain()
            note("drained", get_step_metadata().run_id, number, n)
    finish()
    return value + 1


@step(name="crash.items", backoff=FAST, stream="items")
async def items(count: int) -> AsyncIterator[int]:
    """Yield numbers; fail once on the way."""
    finish = attempt(fails=0)
    for n in range(count):
        yield n
    finish()


@step(name="crash.counted", backoff=FAST, stream="counted", on_retry="resume")
async def counted(count: int) -> AsyncIterator[int]:
    """Yield the numbers that are not on record yet."""
    finish = attempt(fails=0)
    for n in range(get_step_metadata().yielded, count):
        yield n
    finish()


@workflow(name="crash.streaming")
async def streaming(value: int) -> int:
    """All of these, with the body's own log in between."""
    log = get_writable("log")
    await log.write("begin")
    value = await emit(value)
    async for n in items(COUNT):
        value += n
        if n == FEW:
            await log.write(n)
    value += await counted(COUNT)
    await log.close()
    return value


async def main_streaming(program: Program) -> None:
    """One run with a writer outside, and a look at all its streams in the end."""
    run = await program.start(streaming.options(run_id="stream-1"), 1)
    out = run.get_writable("outside")
    if await insist(run.status) != "completed" and await insist(lambda: read(run, "log")):
        await insist(lambda: write_outside(program, run, out))
    await program.finish(run)
    for namespace, expected in (
        ("items", [*range(COUNT)]),
        ("counted", [*range(COUNT)]),
        ("log", ["begin", FEW]),
    ):
        found = await insist(lambda namespace=namespace: read(run, namespace))
        assert found == expected, f"stream {namespace}: {found}"
    drained = await insist(lambda: read(run, "drained"))
    last = max(number for number, _ in drained)
    assert [n for number, n in drained if number == last] == [*range(COUNT)], drained


async def read(run: Any, namespace: str) -> list[Any]:
    """Return what a stream holds."""
    return [value async for value in run.stream(namespace, follow=False)]


async def write_outside(program: Program, run: Any, out: Any) -> None:
    """Write a chunk from outside, unless the run has ended meanwhile."""
    from durable.errors import StreamClosedError

    try:
        await out.write("hello")
    except StreamClosedError:
        return
    note("outside", run.run_id)


# --- judging the rows ----------------------------------------------------------------------


def check_chunks(journal: Journal, ledger: Ledger | None = None) -> None:
    """Streams have no gaps, steps that are complete have their chunks, promises are kept."""
    for (run, stream), rows in journal.chunks.items():
        if [row.idx for row in rows] != [*range(len(rows))]:
            raise PromiseBrokenError(f"{run}: gaps in stream {stream!r}: {rows}", "corrupt")
    for run, events in journal.events.items():
        if journal.workflow[run] == "crash.streaming":
            _check_items(journal, run, events)
    for run, number, n in ledger.of("drained") if ledger else ():
        if (int(number), int(n)) not in _values(journal, run, "drained"):
            raise PromiseBrokenError(
                f"{run}: chunk {n} of attempt {number} was drained, is lost", "lost"
            )
    for (run,) in ledger.of("outside") if ledger else ():
        if "hello" not in _values(journal, run, "outside"):
            raise PromiseBrokenError(f"{run}: the chunk from outside is lost", "lost")


def _check_items(journal: Journal, run: str, events: list[Any]) -> None:
    yielded = [_value(event.payload) for event in events if event.kind == STEP_YIELDED]
    found = _values(journal, run, "items")
    if found != yielded or found != [*range(len(found))]:
        raise PromiseBrokenError(
            f"{run}: items {yielded} as events, {found} in the stream", "corrupt"
        )
    counted_values = _values(journal, run, "counted")
    if counted_values != [*range(len(counted_values))]:
        raise PromiseBrokenError(f"{run}: {counted_values} in the stream of a counted generator")
    names = {event.seq: event.name for event in events}
    done = {names[event.ref] for event in events if event.kind == STEP_COMPLETED}
    drained = _values(journal, run, "drained")
    whole = [n for _, n in drained[-COUNT:]] == [*range(COUNT)]
    for name, is_whole in (
        ("crash.emit", whole),
        ("crash.items", len(found) == COUNT),
        ("crash.counted", len(counted_values) == COUNT),
    ):
        if name in done and not is_whole:
            raise PromiseBrokenError(f"{run}: {name} is complete without all of its chunks", "lost")
    if len(_values(journal, run, "log")) > 2:
        raise PromiseBrokenError(f"{run}: the body's writes are doubled", "duplicated")


def _values(journal: Journal, run: str, stream: str) -> list[Any]:
    rows = journal.chunks.get((run, stream), [])
    return [_value(row.payload) for row in rows if row.kind == 1]


def _value(payload: bytes | None) -> Any:
    return pickle.loads(payload or b"N.")
