"""`durable demo`: it proves what it says, says so when it cannot, and cleans up."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from durable._surface.bystander import Bystander
from durable._surface.cli import main
from durable._surface.demo_plot import RUN_ID
from durable._surface.demo_proof import Entry, Story, claims, read_ledger
from durable._surface.demo_view import View
from durable._surface.history import HistoryEvent
from durable._surface.run import Run

LIMIT_SECONDS = 40.0  # what two demonstrations may take on a busy machine


@dataclass(frozen=True)
class Finished:
    """Two demonstrations that ran side by side: one kept its files, one did not."""

    codes: tuple[int, int]
    output: str
    seconds: float
    kept: Path
    scratch: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    kept, scratch = tmp_path_factory.mktemp("demo") / "new", tmp_path_factory.mktemp("scratch")
    environment = os.environ | {"TMPDIR": str(scratch)}
    began = time.monotonic()
    command = [sys.executable, "-m", "durable", "demo"]
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as other,
        subprocess.Popen(
            [*command, "--keep", str(kept)], stdout=subprocess.PIPE, text=True, encoding="utf-8"
        ) as keeping,
    ):
        output, _ = keeping.communicate()
        codes = keeping.wait(), other.wait()
    return Finished(codes, output, time.monotonic() - began, kept, scratch)


@pytest.fixture
def story(finished: Finished) -> Story:
    """What the kept files tell, as the demonstration itself reads them."""

    async def read() -> list[HistoryEvent]:
        async with Bystander(finished.kept / "durable.db") as access:
            return await Run(RUN_ID, access).events()

    events = asyncio.run(read())
    ledger = read_ledger(finished.kept / "ledger.jsonl")
    pids = tuple(dict.fromkeys(entry.pid for entry in ledger))
    cut = next(number for number, event in enumerate(events) if event.name == "interrupted")
    last = max(entry.at for entry in ledger if entry.pid == pids[0])
    return Story(RUN_ID, events[:cut], events, ledger, (pids[0], pids[1]), last)


# --- the whole --------------------------------------------------------------------------


@pytest.mark.slow
def test_demo_succeeds_in_time(finished: Finished) -> None:
    """Both ways end with 0, and a reader does not lose patience."""
    assert finished.codes == (0, 0), finished.output
    assert finished.seconds < LIMIT_SECONDS
    assert "No completed step ran twice." in finished.output
    assert "CONTRADICTED" not in finished.output


@pytest.mark.slow
def test_demo_leaves_nothing_behind_unless_asked(finished: Finished) -> None:
    """The temporary directory is gone; the one that was asked for holds both records."""
    assert list(finished.scratch.iterdir()) == []
    names = {path.name for path in finished.kept.iterdir()}
    assert {"durable.db", "ledger.jsonl"} <= names


@pytest.mark.slow
def test_piped_output_is_plain(finished: Finished) -> None:
    """No escape sequence and nothing beyond ASCII when no terminal reads it."""
    assert finished.output.isascii()
    assert "\x1b" not in finished.output


@pytest.mark.slow
def test_the_killed_process_was_really_another_one(story: Story, finished: Finished) -> None:
    """Two processes wrote the ledger, and the timeline names the first as killed."""
    assert len({entry.pid for entry in story.ledger}) == 2
    assert f"kill -9 {story.pids[0]}" in finished.output


@pytest.mark.slow
def test_timeline_holds_every_event_and_every_ledger_line(story: Story, finished: Finished) -> None:
    """Nothing is left out of the table, and it is in the order of time."""
    table = finished.output.partition("Timeline")[2].partition("What the two")[0]
    rows = [line for line in table.splitlines() if re.match(r" *\d+\.\d{3} ", line)]
    assert len(rows) == len(story.events) + len(story.ledger) + 1
    times = [float(row.split()[0]) for row in rows]
    assert times == sorted(times)


# --- the proof ----------------------------------------------------------------------------


def without(story: Story, step: str, what: str) -> Story:
    """Take an entry out of the ledger."""
    kept = [e for e in story.ledger if (e.step, e.what) != (step, what)]
    return story._replace(ledger=kept)


def again(story: Story, step: str, pid_of: int) -> Story:
    """Let a step begin and end once more at the end of the ledger."""
    extra = [
        e._replace(pid=story.pids[pid_of], at=story.ledger[-1].at)
        for e in story.ledger
        if e.step == step and e.what in {"begin", "end"}
    ]
    return story._replace(ledger=[*story.ledger, *extra])


def other_key(story: Story) -> Story:
    """Give the second attempt of the interrupted step a key of its own."""

    def change(entry: Entry) -> Entry:
        is_second = entry.step == "pack_parcel" and entry.attempt == 2
        return entry._replace(key=f"{RUN_ID}:99") if is_second else entry

    return story._replace(ledger=[change(entry) for entry in story.ledger])


def changed(story: Story, of_kind: str, **fields: object) -> Story:
    """Change the first event of a kind in the final history."""
    index = next(i for i, event in enumerate(story.events) if event.kind == of_kind)
    events = list(story.events)
    events[index] = replace(events[index], **fields)
    return story._replace(events=events)


def twice_recorded(story: Story) -> Story:
    """Record an outcome a second time."""
    outcome = next(event for event in story.events if event.kind == "step_completed")
    return story._replace(events=[*story.events, outcome])


def early_sleep(story: Story) -> Story:
    """Let the sleep end before its time."""
    due = next(e.due for e in story.events if e.kind == "wait_created")
    assert due is not None
    return changed(story, "wait_completed", at=due - timedelta(milliseconds=1))


CONTRADICTIONS: dict[str, Callable[[Story], Story]] = {
    "a completed step ran in both processes": lambda s: again(s, "send_invoice", 1),
    "a completed step ran twice in one process": lambda s: again(s, "reserve_stock", 0),
    "a recorded step never ended": lambda s: without(s, "print_label", "end"),
    "a recorded step never ran": lambda s: without(s, "hand_over", "begin"),
    "the interrupted step changed its key": other_key,
    "two outcomes of one step": twice_recorded,
    "history was rewritten": lambda s: changed(s, "step_created", name="charge_twice"),
    "a step failed": lambda s: changed(s, "step_completed", kind="step_failed"),
    "the sleep ended early": early_sleep,
    "nothing was recorded before the kill": lambda s: s._replace(before=[]),
    "no step was interrupted": lambda s: s._replace(
        ledger=[e for e in s.ledger if (e.step, e.attempt) != ("pack_parcel", 1)]
    ),
}


@pytest.mark.slow
def test_the_records_bear_out_every_claim(story: Story) -> None:
    """Read again from the files, they prove the same."""
    assert [claim.text for claim in claims(story) if not claim.holds] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_between_the_records_is_found(story: Story, name: str) -> None:
    """Each kind of damage to one of the records makes a claim fail."""
    damaged = CONTRADICTIONS[name](story)
    assert not all(claim.holds for claim in claims(damaged))


# --- when it goes wrong ---------------------------------------------------------------------


def test_demo_keeps_out_of_directories_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that holds something is refused and left alone."""
    (tmp_path / "mine").write_text("mine")
    assert main(["demo", "--keep", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_demo_fails_when_its_program_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exit code is not 0, and the line on stderr tells which process it was."""
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # seen by the child only
    assert main(["demo"]) == 1
    assert "process 1 ended by itself, with code 1" in capfd.readouterr().err


# --- how it looks ---------------------------------------------------------------------------


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined]


@pytest.fixture
def modern(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without preferences."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.usefixtures("modern")
def test_a_terminal_gets_colours() -> None:
    """On a terminal that speaks UTF-8."""
    terminal = Terminal()
    View(terminal).title("Hello")
    assert terminal.text() == "\n\x1b[1mHello\x1b[0m\n"


@pytest.mark.usefixtures("modern")
@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_preferences_of_the_environment_are_respected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """`NO_COLOR` and `TERM=dumb` make the output plain."""
    monkeypatch.setenv(name, value)
    terminal = Terminal()
    View(terminal).title("Hello")
    assert terminal.text() == "\nHello\n"


@pytest.mark.usefixtures("modern")
def test_a_terminal_without_unicode_gets_plain_text() -> None:
    """Symbols that it could not show are not sent."""
    terminal = Terminal("latin-1")
    View(terminal).title("Hello")
    assert terminal.text() == "\nHello\n"
