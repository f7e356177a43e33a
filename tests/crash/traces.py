"""What a trial has really reached, read off what it left behind: marks for `sometimes`.

Nothing in `durable` exists for this: the marks are derived from histories, from the ledgers
of all processes, from what they logged, and from what the disk did to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from durable._replay.events import EventKind
from tests.crash.forkserver import Outcome
from tests.crash.ledger import Ledger
from tests.crash.oracle import Journal

EVENTS = {kind.value: f"event {kind.name.lower()}" for kind in EventKind}
PAUSED, WENT_ON = "durable: writing is paused", "durable: writing to the journal"


def traces(place: Path, processes: int, journal: Journal, last: Outcome) -> frozenset[str]:
    """Return the marks of a trial whose files lie in `place`."""
    ledgers = [Ledger.read(place / f"ledger.{n}") for n in range(1, processes + 1)]
    logs = [(place / f"errors.{n}").read_text() for n in range(1, processes + 1)]
    found = {EVENTS[row.kind] for rows in journal.events.values() for row in rows}
    found |= {f"failed {met}" for met in last.met}
    found |= {*_disk(logs, ledgers), *_repeated(ledgers)}
    if (place / "app.db").exists() and not (place / "app.db.reserve").exists():
        found.add("the reserve was released")
    return frozenset(found)


def _disk(logs: Sequence[str], ledgers: Sequence[Ledger]) -> Iterator[str]:
    if any(WENT_ON in log for log in logs):
        yield "writing was paused and went on by itself"
    if any(PAUSED in log and WENT_ON not in log for log in logs):
        yield "a process died while writing was paused"
    if any(ledger.of("refused") for ledger in ledgers):
        yield "a call was refused because of the disk"


def _repeated(ledgers: Sequence[Ledger]) -> Iterator[str]:
    """Yield what one process did, and a later one did or found again."""
    if any(ledger.of("unparked") for ledger in ledgers):
        yield "a step was set aside after three deaths, and its run resumed"
    begun: set[tuple[str, str]] = set()
    ended: set[tuple[str, str]] = set()
    told: set[tuple[str, ...]] = set()
    for ledger in ledgers:
        again = {attempt[:2] for attempt in ledger.attempts("begin")}
        if again & begun - ended:
            yield "an attempt was cut off and made again"
        if again & ended:
            yield "a step had ended, was not on record and ran again"
        begun |= again
        ended |= {attempt[:2] for attempt in ledger.attempts("end")}
        facts = {tuple(fact) for fact in ledger.facts if fact[0] in {"acked", "posted"}}
        for what in {fact[0] for fact in facts & told}:
            yield f"something {what} was asked for again"
        told |= facts
