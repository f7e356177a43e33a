"""SEAL: a sealed journal is tampered with at random by somebody who has no key.

He knows how everything in the file is made and gives each row its right checksums. Whatever
he does, a row that is read with the key is the one that was written in that place, or it is
refused, or it stays sealed; and nothing of it is unpickled.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from durable import Encryption, Runtime
from durable._base.clock import SystemClock
from durable._journal.chunks import Chunk, StreamKey, opened_chunk
from durable._journal.journal import Journal
from durable._journal.seals import is_sealed
from durable._replay.events import Event
from durable.errors import JournalCorruptError
from tests.campaign.programme import Counts, FoundError, Programme
from tests.security.rig import (
    KEY,
    audit,
    chunks_of,
    evil,
    history_of,
    put_chunk,
    put_event,
    shopped,
)

RUNS = ("one", "two", "three")
Row = Event | Chunk


class Template(NamedTuple):
    """A sealed journal, and what was written in each place of it."""

    path: Path
    events: dict[str, list[Event]]
    chunks: dict[str, list[Chunk]]


@contextmanager
def opened() -> Iterator[Callable[[int, Path], Counts]]:
    """Make the journal that all trials of this process begin with."""
    with tempfile.TemporaryDirectory() as folder:
        template = asyncio.run(_made(Path(folder) / "app.db"))

        def trial(seed: int, directory: Path) -> Counts:
            return asyncio.run(_tamper(template, random.Random(seed), directory))

        yield trial


async def _made(path: Path) -> Template:
    async with Runtime(path, encryption=Encryption(KEY)) as runtime:
        for run_id in RUNS:
            await shopped(runtime, run_id)
        seals = runtime.journal.seals
        assert seals is not None
        events = {
            run_id: [seals.open_event(run_id, event) for event in history_of(path, run_id)]
            for run_id in RUNS
        }
        chunks = {
            run_id: [
                opened_chunk(StreamKey(0, run_id, ""), chunk, seals)
                for chunk in chunks_of(path, run_id)
            ]
            for run_id in RUNS
        }
    return Template(path, events, chunks)


async def _tamper(template: Template, chance: random.Random, directory: Path) -> Counts:
    path = directory / "app.db"
    shutil.copy(template.path, path)
    for _ in range(chance.randint(1, 4)):
        _forge(path, chance, directory / "trap")
    counts: Counts = Counter(seeds=1)
    with audit() as heard:
        ring = Encryption(KEY).ring()
        journal = await Journal.open(path, clock=SystemClock(), ring=ring, owner=False)
        try:
            for pk, run_id in enumerate(RUNS, 1):
                await _read(journal, template, pk, run_id, counts)
        finally:
            await journal.close()
    if heard:
        raise FoundError("corrupt", f"unpickled: {heard}")
    return counts


async def _read(journal: Journal, template: Template, pk: int, run_id: str, counts: Counts) -> None:
    for wanted in template.events[run_id]:
        try:
            (found,) = await journal.reader.history(pk, run_id, wanted.seq - 1, 1)
        except JournalCorruptError:
            counts["refused"] += 1
            continue
        _compare(run_id, found, wanted, counts)
    key, seals = StreamKey(pk, run_id, ""), journal.seals
    stored_chunks = chunks_of(Path(journal.path), run_id)
    for stored, chunk in zip(stored_chunks, template.chunks[run_id], strict=True):
        try:
            found_chunk = opened_chunk(key, stored, seals)
        except JournalCorruptError:
            counts["refused"] += 1
            continue
        _compare(run_id, found_chunk, chunk, counts)


def _compare(run_id: str, found: Row, wanted: Row, counts: Counts) -> None:
    counts["states"] += 1
    if found == wanted:
        return
    if not is_sealed(found.payload):
        raise FoundError("corrupt", f"{run_id} has {found!r} and wrote {wanted!r}")
    counts["kept_sealed"] += 1


def _forge(path: Path, chance: random.Random, trap: Path) -> None:
    run_id = chance.choice(RUNS)
    rows: list[Row] = [*history_of(path, run_id), *chunks_of(path, run_id)]
    target = chance.choice(rows)
    others: list[Row] = [row for each in RUNS for row in history_of(path, each)]
    payload = chance.choice([
        lambda: _changed(target.payload or b"x", chance),
        lambda: (target.payload or b"")[: chance.randrange(80)],
        lambda: chance.choice(others).payload,
        lambda: evil(trap),
        lambda: (target.payload or b"")[:10] + chance.randbytes(chance.randrange(60)) + evil(trap),
        lambda: None,
    ])()  # fmt: skip
    if isinstance(target, Chunk):
        return put_chunk(path, run_id, target._replace(payload=payload))
    other = chance.choice(others)
    assert isinstance(other, Event)
    change: dict[str, object] = chance.choice([
        {"payload": payload}, {"payload": payload, "kind": other.kind}, {"name": other.name},
        {"at": other.at, "due": other.due}, {"ref": other.ref, "payload": other.payload},
        other._replace(seq=target.seq)._asdict(),
    ])  # fmt: skip
    put_event(path, run_id, target._replace(**change))


def _changed(payload: bytes, chance: random.Random) -> bytes:
    changed = bytearray(payload)
    for _ in range(chance.randint(1, 3)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


PROGRAMME = Programme(key="SEAL", title="tampering with a sealed journal", open=opened)
