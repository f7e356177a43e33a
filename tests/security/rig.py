"""What the tests of security share: a run with all kinds of payloads, forgers, an audit.

A forger can write the file and knows how everything in it is made, checksums included; he
has no key. `Audit` tells what was unpickled by name while it listened.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from durable import (
    Backoff,
    FatalError,
    Run,
    Runtime,
    create_hook,
    get_step_metadata,
    get_writable,
    receive,
    set_attributes,
    step,
    workflow,
)
from durable._journal.checksum import checksum, checksum_of_run
from durable._journal.chunks import Chunk, StreamKey, chunk_op
from durable._journal.high_water import forget_mark
from durable._journal.records import RunRow
from durable._journal.row_checksums import sums_of
from durable._replay.events import Event

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
SENTINEL = "SENTINEL-7f3a"
WAIT = 20.0


# --- a run that has everything ------------------------------------------------------------


@step(max_retries=1, backoff=Backoff(0.001, max=0.001))
async def charge(card: str) -> str:
    """Fails once, and writes to a stream."""
    await get_writable(on_retry="replace").write(f"{SENTINEL}-chunk")
    if get_step_metadata().attempt == 1:
        raise OSError(f"{SENTINEL}-retried {card}")
    return f"{SENTINEL}-result"


@step(max_retries=0)
async def refuse(card: str) -> str:
    """Fails for good."""
    raise FatalError(f"{SENTINEL}-failed {card}")


@workflow
async def shop(card: str) -> str:
    """Leaves a payload of every kind."""
    await set_attributes({"customer": "acme"})
    await charge(card)
    try:
        await refuse(card)
    except FatalError:
        pass
    hook = create_hook(metadata={"about": f"{SENTINEL}-metadata"})
    await asyncio.sleep(0.001)
    mail = await receive("letters")
    answer = await hook
    hook.dispose()
    return f"{SENTINEL}-end {mail} {answer}"


@workflow
async def waiting(card: str) -> str:
    """Waits for a letter."""
    await charge(card)
    return f"{SENTINEL}-{await receive('letters')}"


@workflow
async def failing(card: str) -> str:
    """Fails."""
    raise ValueError(f"{SENTINEL}-uncaught {card}")


async def shopped(runtime: Runtime, run_id: str) -> Run[Any]:
    """A run of `shop` that has ended."""
    run = await runtime.start(shop.options(run_id=run_id), f"{SENTINEL}-card")
    await runtime.send(run, "letters", f"{SENTINEL}-mail", dedupe_key="once")
    while not (hooks := await run.hooks()):
        await asyncio.sleep(0)
    await runtime.resume_hook(hooks[0].token, f"{SENTINEL}-payload")
    await run.result(WAIT)
    return run


# --- forging ----------------------------------------------------------------------------------


def rows(path: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    """What another program sees, or does; it takes away the mark that would betray it."""
    forget_mark(str(path))
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("PRAGMA synchronous = OFF")
        return conn.execute(query, values).fetchall()


def history_of(path: Path, run_id: str) -> list[Event]:
    """The events of a run as they are stored."""
    query = """SELECT seq, kind, ref, name, at, due, payload FROM events
        JOIN runs ON runs.pk = events.run WHERE run_id = ? ORDER BY seq"""
    return [Event(*row) for row in rows(path, query, run_id)]


def put_event(path: Path, run_id: str, event: Event) -> None:
    """Write an event in the place of the one with its number, with the right checksum."""
    seq, kind, ref, name, at, due, payload = event
    crc = checksum(checksum_of_run(run_id), event)
    query = "REPLACE INTO events SELECT pk, ?, ?, ?, ?, ?, ?, ?, ? FROM runs WHERE run_id = ?"
    rows(path, query, seq, kind, ref, name, at, due, payload, crc, run_id)


def put_run(path: Path, run_id: str, **changes: object) -> None:
    """Change the row of a run, with the right checksums."""
    names = ", ".join(RunRow._fields)
    ((*stored,),) = rows(path, f"SELECT {names} FROM runs WHERE run_id = ?", run_id)
    row = RunRow._make(stored)._replace(**changes)
    marks = ", ".join("?" * (len(row) + 3))
    rows(path, f"REPLACE INTO runs VALUES ({marks})", *row, *sums_of(row))


def chunks_of(path: Path, run_id: str) -> list[Chunk]:
    """The rows of a run's default stream as they are stored."""
    query = """SELECT idx, kind, step, attempt, payload FROM chunks
        JOIN runs ON runs.pk = chunks.run WHERE run_id = ? AND stream = '' ORDER BY idx"""
    return [Chunk(*row) for row in rows(path, query, run_id)]


def put_chunk(path: Path, run_id: str, chunk: Chunk) -> None:
    """Write a row of the default stream, with the right checksum."""
    ((pk,),) = rows(path, "SELECT pk FROM runs WHERE run_id = ?", run_id)
    values = chunk_op(StreamKey(pk, run_id, ""), chunk).values
    rows(path, "REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values)


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def evil(path: Path) -> bytes:
    """A payload that acts when it is loaded."""
    return pickle.dumps(((Evil(path),), {}), 5)


def tampered(event: Any, other: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Every way to forge a row, given the row of another run in the same place."""
    payload = event.payload
    for place in (0, 1, 11, 30, len(payload) - 1):
        flipped = bytearray(payload)
        flipped[place] ^= 0x10
        yield f"byte {place} changed", event._replace(payload=bytes(flipped))
    for size in (0, 1, 9, 10, 37, len(payload) - 1):
        yield f"cut to {size}", event._replace(payload=payload[:size])
    yield "longer", event._replace(payload=payload + b"\0")
    yield "without a payload", event._replace(payload=None)
    yield "not sealed", event._replace(payload=evil(path))
    yield "sealed by nobody", event._replace(payload=payload[:10] + bytes(32) + evil(path))
    yield "of another run", other._replace(seq=event.seq) if hasattr(other, "seq") else other


# --- what is unpickled ------------------------------------------------------------------------

_heard: list[str] | None = None


def _hear(name: str, args: tuple[Any, ...]) -> None:
    if _heard is not None and name in {"pickle.find_class", "os.mkdir"}:
        _heard.append(".".join(map(str, args)))


@contextmanager
def audit() -> Iterator[list[str]]:
    """Collect the names that are looked up by unpickling, and the folders that are made."""
    global _heard
    if not getattr(sys, "_durable_audit", False):
        sys.addaudithook(_hear)  # for good: it cannot be taken away
        sys._durable_audit = True  # type: ignore[attr-defined]
    _heard = heard = []
    try:
        yield heard
    finally:
        _heard = None
