"""Every state that a power cut may leave behind, built from a recording of `faultfs`.

What was synced is on the disk. What was written since may be there, be missing, be there
in another order, or be torn at 512-byte sectors. For each moment of a recording this
yields a handful of such states; a file is decided independently of the others, as
nothing orders them but syncs. The -shm file is never restored: it does not survive.

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
    """

    moment: int
    variant: str
    files: dict[str, bytes]
    marks: frozenset[str]

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
        self.settled = 0  # grows with whatever reaches the disk

    def issue(self, op: Op) -> None:
        """Take the next operation of the recording."""
        name = Path(op.file).name
        if op.kind == "sync":
            if name not in self.durable:
                self._settle_deletes()  # SQLite's first sync of a new file syncs its folder
            self._settle(name, self.pending.pop(name, []))
        elif op.kind == "delete" and op.offset:
            self.settled += 1
            self.pending.pop(name, None)
            self.durable.pop(name, None)
        else:
            self.pending.setdefault(name, []).append(op)

    def _settle(self, name: str, ops: Sequence[Op]) -> None:
        self.settled += bool(ops)
        content = apply(self.durable.get(name), ops)
        if content is None:
            self.durable.pop(name, None)
        else:
            self.durable[name] = content

    def _settle_deletes(self) -> None:
        for name, ops in list(self.pending.items()):
            last = max((at for at, op in enumerate(ops, 1) if op.kind == "delete"), default=0)
            self._settle(name, ops[:last])
            self.pending[name] = ops[last:]

    def cut(self, choose: Choice) -> tuple[dict[str, bytes], bytes]:
        """Return the files when, of each file's pending operations, `choose` arrived.

        The second value differs for different files.
        """
        files = dict(self.durable)
        digest = hashlib.blake2b(self.settled.to_bytes(8, "big"), digest_size=16)
        for name, ops in self.pending.items():
            arrived = choose(ops)
            for op in arrived:
                digest.update(f"{name} {op.kind} {op.offset} {len(op.data)}".encode())
                digest.update(op.data)
            content = apply(self.durable.get(name), arrived)
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


def crash_states(ops: Sequence[Op], *, seed: int, part: int = 0, parts: int = 1) -> Iterator[State]:
    """Yield different states that a power cut may leave, at every moment of the recording.

    Args:
        part: which of `parts` equal shares of them to build; building is what takes time.
    """
    draw = random.Random(seed)
    disk = Disk()
    marks: set[str] = set()
    seen: set[bytes] = set()
    number = itertools.count()
    for moment, op in enumerate([*ops, Op("sync", "the end")]):
        if op.kind == "mark":
            marks.add(op.file)
            continue
        for variant, choose in variants(draw).items():
            if next(number) % parts == part:
                files, key = disk.cut(choose)
                key += len(marks).to_bytes(4, "big")
                if key not in seen:
                    seen.add(key)
                    yield State(moment, variant, files, frozenset(marks))
            if not disk.pending:
                break
        disk.issue(op)


def dump(ops: Sequence[Op], path: Path) -> None:
    """Write a recording to `path`."""
    path.write_bytes(pickle.dumps([tuple(op) for op in ops]))


def load(path: Path) -> list[Op]:
    """Read a recording that `dump` wrote."""
    return [Op(*fields) for fields in pickle.loads(path.read_bytes())]
