"""How the demonstration looks: live lines, the timeline, the claims.

Colours and symbols beyond ASCII appear only on a terminal that takes them; piped output
is plain text. ``NO_COLOR`` and ``TERM=dumb`` are respected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TextIO

from durable._surface.demo_proof import Claim, Entry, Story, life
from durable._surface.history import HistoryEvent
from durable._surface.listing import subject, table

_CODES = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}
_MARKS = {  # what an entry or line is: (symbol, plain mark, colour)
    "begin": ("▶", ">", "dim"),
    "part": ("·", ".", "dim"),
    "end": ("✓", "+", "green"),
    "fail": ("✗", "x", "yellow"),
    "says": ("○", "-", "dim"),
    "kill": ("☠", "!", "red"),
    "life": ("●", "=", "bold"),
}


class View:
    """Prints to `stream`; `rich` (default: found out) allows colours and symbols."""

    def __init__(self, stream: TextIO, rich: bool | None = None) -> None:
        self._stream = stream
        self._rich = _is_rich(stream) if rich is None else rich
        self._start: datetime | None = None

    # --- live -------------------------------------------------------------------------

    def title(self, text: str) -> None:
        """Print a heading."""
        self._print(f"\n{self._paint(text, 'bold')}")

    def line(self, at: datetime, mark: str, text: str) -> None:
        """Print one live line with the time since the first one."""
        self._start = self._start or at
        seconds = (at - self._start).total_seconds()
        symbol, plain, colour = _MARKS[mark]
        self._print(
            self._paint(f"{seconds:7.3f} s  {symbol if self._rich else plain} {text}", colour)
        )

    def entry(self, entry: Entry) -> None:
        """Print what an attempt of a step is doing."""
        words = {
            "begin": f"begins (attempt {entry.attempt})",
            "part": entry.text,
            "fail": f"fails: {entry.text}",
            "end": "done",
        }
        self.line(entry.at, entry.what, f"{entry.step:14} {words[entry.what]}")

    # --- the end ----------------------------------------------------------------------

    def timeline(self, story: Story) -> None:
        """Print both records side by side, in the order of time."""
        self.title("Timeline: what the journal records, and what the steps wrote themselves")
        head = ("  TIME", "PROCESS", "JOURNAL", "LEDGER OF THE STEPS")
        for line in table(head, _timeline_cells(story)):
            self._print(self._paint(line, "red") if "kill -9" in line else line)

    def claims(self, claims: Sequence[Claim]) -> None:
        """Print each claim with its verdict."""
        self.title("What the two records prove")
        for claim in claims:
            verdict = ("✓" if self._rich else "ok") if claim.holds else "CONTRADICTED"
            self._print(
                f"  {self._paint(verdict, 'green' if claim.holds else 'red')}  {claim.text}"
            )

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if self._rich else text


def _is_rich(stream: TextIO) -> bool:
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


Cells = tuple[datetime, int, str, str, str]


def _timeline_cells(story: Story) -> Iterator[tuple[str, str, str, str]]:
    start = story.events[0].at
    for at, _, process, left, right in sorted(_merged(story)):
        yield f"{(at - start).total_seconds():6.3f}", process, left, right


def _merged(story: Story) -> Iterator[Cells]:
    """Yield rows; equal times keep the order of the records, the kill after both."""
    names = {event.seq: event.name for event in story.events}
    for number, event in enumerate(story.events):
        process = "1" if number < len(story.before) else "2"
        yield event.at, number, process, _journal_text(event, names), ""
    for number, entry in enumerate(story.ledger):
        text = f"{entry.step:14} {_ledger_text(entry)}"
        yield entry.at, number + len(story.events), str(life(story, entry.pid)), "", text
    kill = f"---- kill -9 {story.pids[0]} ----"
    yield story.killed_at, len(story.events) + len(story.ledger), "", kill, ""


def _journal_text(event: HistoryEvent, names: dict[int, str]) -> str:
    return f"{event.kind:15} {subject(event, names)}".rstrip()


def _ledger_text(entry: Entry) -> str:
    words = {"begin": f"attempt {entry.attempt} begins", "end": "done", "fail": entry.text}
    return words.get(entry.what, entry.text)
