"""What the demonstration claims, checked against two independent records.

One is the run's history from the journal; the other is the ledger that the steps wrote
themselves. Every claim is computed from them, and one that does not hold makes the
demonstration fail; nothing here trusts the engine's word alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from durable._authoring.primitives import from_us
from durable._surface.history import HistoryEvent


class Entry(NamedTuple):
    """One line of the ledger: what one attempt of a step really did."""

    at: datetime
    pid: int
    step: str
    key: str
    attempt: int
    what: str  # begin, part, fail or end
    text: str


class Claim(NamedTuple):
    """Something that the records show, or contradict."""

    text: str
    holds: bool


class Story(NamedTuple):
    """Everything known about a finished demonstration.

    `before` is the history as it was found after the kill; `pids` are the killed process
    and the one that finished, in this order.
    """

    run_id: str
    before: Sequence[HistoryEvent]
    events: Sequence[HistoryEvent]
    ledger: Sequence[Entry]
    pids: tuple[int, int]
    killed_at: datetime


def entry_of(line: dict[str, object]) -> Entry:
    """Return the ledger entry of a decoded line.

    Raises:
        KeyError, ValueError: it is none.
    """
    return Entry(
        from_us(int(str(line["at"]))),
        int(str(line["pid"])),
        str(line["step"]),
        str(line["key"]),
        int(str(line["attempt"])),
        str(line["what"]),
        str(line["text"]),
    )


def read_ledger(path: Path) -> list[Entry]:
    """Return the ledger, oldest entry first."""
    return [entry_of(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def claims(story: Story) -> list[Claim]:
    """Return all claims, each with whether both records bear it out."""
    return [*_steps(story), *_the_rest(story)]


def _steps(story: Story) -> Iterator[Claim]:
    created = {event.seq: event.name for event in story.events if event.kind == "step_created"}
    for seq, name in created.items():
        outcomes = [e for e in story.events if e.ref == seq and e.kind in _OUTCOMES]
        entries = [e for e in story.ledger if e.key == f"{story.run_id}:{seq}"]
        yield _one_step(story, name, outcomes, entries)
    known = {f"{story.run_id}:{seq}" for seq in created}
    strangers = sorted({entry.key for entry in story.ledger} - known)
    if strangers:
        yield Claim(f"the ledger knows steps that the journal does not: {strangers}", False)


_OUTCOMES = {"step_completed", "step_failed", "step_cancelled"}


def _one_step(
    story: Story, name: str, outcomes: Sequence[HistoryEvent], entries: Sequence[Entry]
) -> Claim:
    begun = [entry for entry in entries if entry.what == "begin"]
    ended = [entry for entry in entries if entry.what == "end"]
    attempts = [entry.attempt for entry in begun]
    holds = (
        [event.kind for event in outcomes] == ["step_completed"]
        and len(ended) == 1
        and ended[0] is entries[-1]
        and ended[0].at <= outcomes[0].at
        and attempts == list(range(1, len(attempts) + 1)) != []
        and {entry.step for entry in entries} == {name}
    )
    how = ", ".join(_how(story, entry, entries) for entry in begun)
    return Claim(f"{name}: {how}; completed {len(ended)}x, recorded {len(outcomes)}x", holds)


def _how(story: Story, begin: Entry, entries: Sequence[Entry]) -> str:
    rest = [e for e in entries if e.attempt == begin.attempt and e.what in {"end", "fail"}]
    fate = {"end": "ran", "fail": "failed"}[rest[0].what] if rest else "was killed"
    return f"attempt {begin.attempt} {fate} in process {life(story, begin.pid)}"


def life(story: Story, pid: int) -> int:
    """Return 1 for the killed process, 2 for the one that finished, 0 for no process of ours."""
    return story.pids.index(pid) + 1 if pid in story.pids else 0


def _the_rest(story: Story) -> Iterator[Claim]:
    first, second = story.pids
    finished = {e.key for e in story.ledger if e.pid == first and e.what == "end"}
    again = {e.key for e in story.ledger if e.pid == second} & finished
    yield Claim(
        f"process 2 touched none of the {len(finished)} steps that process 1 had completed",
        bool(finished) and not again,
    )
    cut = _cut_off(story)
    keys = {entry.key for entry in story.ledger if entry.step in cut}
    yield Claim(
        f"the interrupted step ({', '.join(cut)}) ran again under the same idempotency key: "
        f"{', '.join(sorted(keys))}",
        len(cut) == 1 and len(keys) == 1,
    )
    count = len(story.before)
    yield Claim(
        f"the {count} events recorded before the kill are still the first {count}",
        count > 0 and list(story.events[:count]) == list(story.before),
    )
    yield _sleep_claim(story)


def _cut_off(story: Story) -> list[str]:
    begun = {(e.step, e.attempt) for e in story.ledger if e.what == "begin"}
    over = {(e.step, e.attempt) for e in story.ledger if e.what in {"end", "fail"}}
    return [step for step, _ in sorted(begun - over)]


def _sleep_claim(story: Story) -> Claim:
    due = {e.seq: e.due for e in story.events if e.kind == "wait_created"}
    done = {e.ref: e.at for e in story.events if e.kind == "wait_completed"}
    late = [done[seq] - at for seq, at in due.items() if at is not None and seq in done]
    holds = len(late) == len(due) == 1 and late[0].total_seconds() >= 0
    shown = f"{late[0].total_seconds() * 1000:.0f} ms after its time" if holds else "wrongly"
    return Claim(f"the sleep ended {shown}, never before", holds)
