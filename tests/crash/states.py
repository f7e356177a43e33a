"""Every state that a power cut may leave behind, built from a recording of `faultfs`.

What was synced is on the disk. What was written since may be there, be missing, be there
in another order, or be torn at 512-byte sectors. For each moment of a recording this
yields a handful of such states; a file is decided independently of the others, as
nothing orders them but syncs. The -shm file is never restored: it does not survive.

When a sync fails, the kernel forgets that it owes the disk those writes: no later sync writes
them, and yet they are read as if they were there. From then on each of their sectors may be
on the disk or not, until it is written again.

It knows nothing about `durable`: the caller opens each state and judges it.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.faultfs import Op

SECTOR = 512


@dataclass(frozen=True)
class State:
    """One possible content of the disk after a power cut.

    Attributes:
        moment: how many operations of the recording had been issued.
        variant: which rule made it, for messages.
        files: content by file name; a missing name = no such file.
        marks: labels acknowledged before the cut.
        pending: names of the files with unsynced writes.
        doubtful: whether writes of a failed sync may be missing.
    """

    moment: int
    variant: str
    files: dict[str, bytes]
    marks: frozenset[str]
    pending: frozenset[str] = frozenset()
    doubtful: bool = False

    def restore(self, directory: Path) -> None:
        """Write the files of this state into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)

    def __str__(self) -> str:
        return f"power cut after operation {self.moment}, {self.variant}"


Choice = Callable[[list[Op]], list[Op]]


class Disk:
    """What is surely on the disk, and what is on its way there."""

    def __init__(self) -> None:
        self.durable: dict[str, bytes] = {}
        self.pending: dict[str, list[Op]] = {}
        self.doubtful: dict[str, bytes | None] = {}  # `durable`, had failed syncs not failed
        self.failed = False  # whether a sync has failed so far
        self.settled = 0  # grows with whatever reaches the disk

    def issue(self, op: Op) -> None:
        """Take the next operation of the recording."""
        name = Path(op.file).name
        if op.kind == "sync":
            if name not in self.durable:
                self._settle_deletes()  # SQLite's first sync of a new file syncs its folder
            self._settle(name, self.pending.pop(name, []))
        elif op.kind == "rewrite":  # whole and as it reads, and synced
            self._settle(name, self.pending.pop(name, []))
            present = self.doubtful.pop(name, self.durable.get(name))
            if present is not None:
                self.durable[name] = present
        elif op.kind == "sync failed":
            present = self.doubtful.get(name, self.durable.get(name))
            self.doubtful[name] = apply(present, self.pending.pop(name, []))
            self.failed = True
            self.settled += 1
        elif op.kind == "delete" and op.offset:
            self.settled += 1
            for files in (self.pending, self.durable, self.doubtful):
                files.pop(name, None)
        else:
            self.pending.setdefault(name, []).append(op)

    def _settle(self, name: str, ops: Sequence[Op]) -> None:
        self.settled += bool(ops)
        if name in self.doubtful:
            self.doubtful[name] = apply(self.doubtful[name], ops)
        content = apply(self.durable.get(name), ops)
        if content is None:
            self.durable.pop(name, None)
        else:
            self.durable[name] = content
        if name in self.doubtful and self.doubtful[name] == content:
            del self.doubtful[name]

    def _settle_deletes(self) -> None:
        for name, ops in list(self.pending.items()):
            last = max((at for at, op in enumerate(ops, 1) if op.kind == "delete"), default=0)
            self._settle(name, ops[:last])
            self.pending[name] = ops[last:]

    def cut(self, choose: Choice, draw: random.Random) -> tuple[dict[str, bytes], bytes]:
        """Return the files when, of each file's pending operations, `choose` arrived.

        The second value differs for different files.
        """
        files = dict(self.durable)
        digest = hashlib.blake2b(self.settled.to_bytes(8, "big"), digest_size=16)
        for name, present in self.doubtful.items():
            content = _either(files.get(name), present, draw)
            files.pop(name, None)
            if content is not None:
                files[name] = content
            digest.update(content or b"none")
        for name, ops in self.pending.items():
            arrived = choose(ops)
            for op in arrived:
                digest.update(f"{name} {op.kind} {op.offset} {len(op.data)}".encode())
                digest.update(op.data)
            content = apply(files.get(name), arrived)
            if content is None:
                files.pop(name, None)
            else:
                files[name] = content
        return files, digest.digest()


def apply(content: bytes | None, ops: Sequence[Op]) -> bytes | None:
    """Return `content` after `ops`; None stands for a file that does not exist."""
    if not ops:
        return content
    image: bytearray | None = None if content is None else bytearray(content)
    for op in ops:
        if op.kind == "delete":
            image = None
            continue
        image = bytearray() if image is None else image
        if op.kind == "truncate":
            del image[op.offset :]
        else:
            image.extend(bytes(max(0, op.offset - len(image))))
            image[op.offset : op.offset + len(op.data)] = op.data
    return None if image is None else bytes(image)


def _either(absent: bytes | None, present: bytes | None, draw: random.Random) -> bytes | None:
    """Return what may be left of a file whose sync has failed: one, the other, or a mixture."""
    choice = draw.randrange(3)
    if choice == 0 or absent == present:
        return absent
    if choice == 1 or present is None:
        return present
    size = max(len(absent or b""), len(present))
    both = [(content or b"").ljust(size, b"\0") for content in (absent, present)]
    return b"".join(draw.choice(both)[at : at + SECTOR] for at in range(0, size, SECTOR))


def variants(draw: random.Random) -> dict[str, Choice]:
    """Return the ways in which pending operations may have arrived."""

    def some(ops: list[Op]) -> list[Op]:
        return [op for op in ops if draw.random() < 0.5]

    def torn(ops: list[Op]) -> list[Op]:
        return [part for op in some(ops) for part in _sectors(op) if draw.random() < 0.5]

    return {
        "everything written arrived": lambda ops: ops,
        "nothing unsynced arrived": lambda _: [],
        "a prefix arrived": lambda ops: ops[: draw.randint(0, len(ops))],
        "all but the last arrived": lambda ops: ops[:-1],
        "a random half arrived": some,
        "a random half arrived torn": torn,
        "the last write is torn": lambda ops: [*ops[:-1], *torn(ops[-1:])],
    }


def _sectors(op: Op) -> list[Op]:
    if op.kind != "write":
        return [op]
    return [
        op._replace(offset=op.offset + at, data=op.data[at : at + SECTOR])
        for at in range(0, len(op.data), SECTOR)
    ]


def crash_states(
    ops: Sequence[Op],
    *,
    seed: int,
    part: int = 0,
    parts: int = 1,
    start: State | None = None,
    after_failure: bool = False,
) -> Iterator[State]:
    """Yield different states that a power cut may leave, at every moment of the recording.

    Args:
        part: which of `parts` equal shares of them to build; building is what takes time.
        start: what the disk held when the recording began; default nothing.
        after_failure: only moments after the first sync that failed.
    """
    draw = random.Random(seed)
    disk = Disk()
    marks: set[str] = set()
    if start is not None:
        disk.durable.update(start.files)
        marks |= start.marks
    seen: set[bytes] = set()
    number = itertools.count()
    for moment, op in enumerate([*ops, Op("sync", "the end")]):
        if op.kind == "mark":
            marks.add(op.file)
            continue
        for variant, choose in variants(draw).items():
            if after_failure and not disk.failed:
                break
            if next(number) % parts == part:
                files, key = disk.cut(choose, draw)
                key += len(marks).to_bytes(4, "big")
                if key not in seen:
                    seen.add(key)
                    yield State(
                        moment, variant, files, frozenset(marks),
                        frozenset(disk.pending), bool(disk.doubtful),
                    )  # fmt: skip
            if not disk.pending and not disk.doubtful:
                break
        disk.issue(op)


def dump(ops: Sequence[Op], path: Path) -> None:
    """Write a recording to `path`."""
    path.write_bytes(pickle.dumps([tuple(op) for op in ops]))


def load(path: Path) -> list[Op]:
    """Read a recording that `dump` wrote."""
    return [Op(*fields) for fields in pickle.loads(path.read_bytes())]
