"""Command lines: every one ends with a documented exit code, and says why in one line.

The journal is a real one, on which commands that change something have their effect; so the
later inputs of a trial meet runs that earlier ones have cancelled, forked or deleted.

`serve` and `demo` are left out, and so is `stream --follow`: they are there to go on.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from durable._surface.cli import main
from tests.campaign.programme import FoundError
from tests.fuzz import flows, mutations
from tests.fuzz.aside import make_journal, quiet
from tests.fuzz.target import Judge, Make, Target
from tests.fuzz.watch import acts

JOURNAL = "app.db"
COMMANDS = (
    ("runs", "--limit", "5"), ("runs", "--status", "completed"), ("runs", "--workflow", "fuzz.sum"),
    ("runs", "--json"), ("runs", "--attribute", "who=sum"), ("runs", "--since", "2 days"),
    ("show", "RUN"), ("show", "RUN", "--json"), ("stream", "RUN"),
    ("stream", "RUN", "--start", "-1"),
    ("stream", "RUN", "--namespace", "other", "--json"), ("cancel", "RUN", "--reason", "why"),
    ("wake", "RUN"), ("pause", "RUN", "--reason", "later"), ("resume", "RUN"), ("retry", "RUN"),
    ("rerun", "RUN", "--run-id", "again"), ("fork", "RUN", "--at", "3"),
    ("fork", "RUN", "--at", "fuzz.add"),
    ("resume-hook", flows.TOKEN, "1"), ("resume-hook", flows.TOKEN, '{"a": [1]}', "--key", "k"),
    ("send", "RUN", "box", '"text"'), ("send", "RUN", "box", "null", "--key", "k"),
    ("export", "RUN"), ("export", "RUN", "out.json"), ("export", "RUN", "out.json", "--overwrite"),
    ("import", "out.json"), ("import", "out.json", "--as", "taken in"), ("backup", "copy.db"),
    ("backup", "copy.db", "--overwrite"), ("delete", "RUN"), ("docs",), ("docs", "steps"),
    ("--version",), ("--help",), ("runs", "--help"), (),
)  # fmt: skip
_PATHS = (JOURNAL, "nothing.db", "folder", "out.json", "noise", ".", "", "\0", "x" * 300)


def command_line(draw: random.Random) -> list[str]:
    """Return the arguments of a command, right ones or spoiled ones."""
    words = [draw.choice(flows.RUNS) if w == "RUN" else w for w in draw.choice(COMMANDS)]
    for _ in range(draw.choice((0, 1, 1, 1, 2))):
        place = draw.randint(min(2, len(words)) if draw.random() < 0.9 else 0, len(words))
        match draw.randrange(5):
            case 0 if words:
                words.pop(place - 1)
            case 1:
                words.insert(place, mutations.text(draw, *words))
            case _ if words:
                words[place - 1] = mutations.text(draw, words[place - 1])
    if words and draw.random() < 0.9:
        words += ["--db", JOURNAL if draw.random() < 0.85 else draw.choice(_PATHS)]
    # Nothing leaves the directory of the trial, and nothing waits for ever.
    words = [word.replace("/", "|") for word in words]
    return [w for w in words if not w.startswith(("--f", "--d=")) and w not in {"serve", "demo"}]


def judge_command(given: list[str]) -> None:
    """Perform a command line, and judge how it ends."""
    printed, told = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(told),
        acts() as done,
        quiet(),
    ):
        try:
            code: object = main(given)
        except SystemExit as end:  # argparse's own
            code = end.code or 0
    errors = told.getvalue()
    if code not in {0, 1, 2}:
        raise FoundError("broken", f"exit code {code!r}")
    form = {0: "", 1: "durable: ", 2: "usage: "}[code]
    if not errors.startswith(form) or "Traceback" in errors:
        raise FoundError("broken", f"exit code {code} and {errors!r:.1000}")
    if code == 1 and errors.strip().count("\n") > 2:
        raise FoundError("broken", f"more than a line: {errors!r:.1000}")
    if loaded := [act for act in done if act.startswith("pickle.find_class")]:
        raise FoundError("broken", f"it loaded {loaded}")
    if code == 0 and "--json" in given and given[0] == "show":
        json.loads(printed.getvalue())


@contextmanager
def _commands(place: Path) -> Iterator[tuple[Make, Judge]]:
    make_journal(place / JOURNAL)
    (place / "folder").mkdir()
    (place / "noise").write_bytes(random.Random(1).randbytes(5000))
    before, width = os.getcwd(), os.environ.get("COLUMNS")
    os.chdir(place)
    os.environ["COLUMNS"] = "80"
    try:
        yield command_line, judge_command
    finally:
        os.chdir(before)
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)


COMMAND_LINES = Target("commands", 100, _commands, seconds_max=0.5)  # a command opens the journal
