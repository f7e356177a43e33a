"""What a program under test saw happen, kept outside the journal.

One line per fact, written with one `write` to a file opened for appending, so that a
fact survives SIGKILL as soon as the program goes on. The oracle compares the ledger
with the journal: the journal may know more, never less.

Facts: ``acked run`` (start returned), ``cancelled run`` (cancel returned), ``posted run
key`` (a payload was acknowledged), ``tagged run key value`` (a step has set an attribute),
``result run status value`` (result returned), ``refused what error``, ``unparked run`` (it
was found parked, and resumed), and for steps
``begin`` / ``end`` / ``fail`` with run, step, attempt and idempotency key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

Marks = Callable[[str], object]


class Attempt(NamedTuple):
    """One attempt of a step, as the step itself saw it."""

    run: str
    step: str
    number: int
    key: str


class Ledger:
    """The facts that one process wrote; open it for writing with `Ledger.write_to`."""

    def __init__(self, facts: list[list[str]], marks: Marks = str) -> None:
        self.facts = facts
        self._marks = marks
        self._descriptor = -1

    @classmethod
    def write_to(cls, path: Path, marks: Marks = str) -> Ledger:
        """Return an empty ledger that appends to `path` and tells `marks` each line."""
        ledger = cls([], marks)
        ledger._descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        return ledger

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Return what was written to `path`; empty if the program never got that far."""
        lines = path.read_text().splitlines() if path.exists() else []
        return cls.from_lines(lines)

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> Ledger:
        """Return the ledger that consists of `lines`, in any order."""
        return cls([json.loads(line) for line in lines])

    def note(self, what: str, *values: object) -> None:
        """Append one fact."""
        fact = [what, *map(str, values)]
        line = json.dumps(fact)
        os.write(self._descriptor, f"{line}\n".encode())
        self.facts.append(fact)
        self._marks(line)

    def of(self, what: str) -> list[list[str]]:
        """Return the values of all facts of one kind, in order."""
        return [fact[1:] for fact in self.facts if fact[0] == what]

    def attempts(self, what: str) -> list[Attempt]:
        """Return the attempts that did ``begin``, ``end`` or ``fail``."""
        return [Attempt(run, step, int(n), key) for run, step, n, key in self.of(what)]
