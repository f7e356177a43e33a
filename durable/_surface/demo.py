"""`durable demo`: a process is killed in the middle of a step, and its run goes on.

Drives a real program (`demo_program`) in processes of its own: the first is ended with
SIGKILL while one of three parallel steps is running, the second finishes the run. Then it
holds the journal against the steps' own ledger. Returns 0 only if every claim holds;
leaves nothing behind unless asked to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from durable._authoring.primitives import from_us
from durable._base.clock import SystemClock
from durable._surface.bystander import Bystander
from durable._surface.demo_plot import PARTS, RESULT, RUN_ID, SLOW_PART
from durable._surface.demo_proof import Claim, Story, claims, entry_of, read_ledger
from durable._surface.demo_view import View
from durable._surface.history import HistoryEvent
from durable._surface.run import Run

LIMIT_SECONDS = 60.0  # for everything; it takes about seven
_LOOK_SECONDS = 0.05  # between two looks at a file that another process writes
_PROGRAM = "durable._surface.demo_program"


class DemoError(Exception):
    """The demonstration did not go as planned; the text says where."""


def demonstrate(keep: str | None = None, view: View | None = None) -> int:
    """Perform the demonstration.

    Args:
        keep: a new or empty directory that keeps the journal and the ledger. Default: a
            temporary one, removed at the end.
        view: where to print. Default: standard output.

    Returns:
        0 if all went well and every claim holds, else 1.
    """
    view = view or View(sys.stdout)
    try:
        if keep is not None:
            return asyncio.run(_demonstrate(_empty(Path(keep)), view, kept=True))
        with tempfile.TemporaryDirectory(prefix="durable-demo-") as scratch:
            return asyncio.run(_demonstrate(Path(scratch), view, kept=False))
    except (DemoError, TimeoutError) as error:
        what = str(error) or f"it took longer than {LIMIT_SECONDS:g} s"
        print(f"durable: the demonstration failed: {what}", file=sys.stderr)
        return 1


def _empty(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise DemoError(f"{folder} is not empty: name a new directory")
    return folder


async def _demonstrate(folder: Path, view: View, *, kept: bool) -> int:
    stage = Stage(folder / "durable.db", folder / "ledger.jsonl", view)
    async with asyncio.timeout(LIMIT_SECONDS):
        story = await _perform(stage)
    view.timeline(story)
    proof = [*claims(story), Claim(f"the result is {RESULT!r}", stage.result == RESULT)]
    view.claims(proof)
    wrong = sum(not claim.holds for claim in proof)
    view.title(f"{wrong} claims do not hold" if wrong else "No completed step ran twice.")
    if kept:
        view.title(f"Look at it again: durable show {RUN_ID} --db {stage.journal}")
    return 1 if wrong else 0


async def _perform(stage: Stage) -> Story:
    view = stage.view
    view.title("An order: reserve, charge, then invoice, label and parcel side by side")
    async with _process(stage, "slow") as first:
        await _until_mid_step(stage, first)
        killed_at = _now()
        os.kill(first.pid, signal.SIGKILL)
        code = await first.end()
        if code != -signal.SIGKILL:
            raise DemoError(f"process 1 was to die by SIGKILL and ended with code {code}")
        view.line(killed_at, "kill", f"kill -9 {first.pid}: process 1 is dead, in mid-step")
    before = await _history(stage)
    async with _process(stage, "normal") as second:
        code = await second.end()
        if code != 0:
            raise DemoError(f"process 2 ended with code {code}")
    ledger = read_ledger(stage.ledger)
    pids = (first.pid, second.pid)
    return Story(RUN_ID, before, await _history(stage), ledger, pids, killed_at)


# --- processes --------------------------------------------------------------------------


@dataclass(slots=True)
class Stage:
    """Where the demonstration takes place, and what it has heard.

    `heard` holds ``step what text`` of every line of the ledger so far.
    """

    journal: Path
    ledger: Path
    view: View
    heard: set[tuple[str, str, str]] = field(default_factory=set)
    result: str | None = None
    lives: int = 0


class _Life:
    """One process of the program, and the reading of its lines."""

    def __init__(self, process: asyncio.subprocess.Process, stage: Stage) -> None:
        self._process = process
        self.pid = process.pid
        self.reading = asyncio.create_task(_listen(process, stage))

    async def end(self) -> int:
        """Wait for the end of the process and of its output; return its exit code."""
        await self.reading
        return await self._process.wait()

    def over(self) -> bool:
        """Tell whether the process has ended."""
        return self.reading.done()

    async def stop(self) -> None:
        """Make sure that the process is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self.reading.cancel()


@asynccontextmanager
async def _process(stage: Stage, pace: str) -> AsyncIterator[_Life]:
    stage.lives += 1
    root = str(Path(__file__).parents[2])  # the child finds the package where we found it
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _PROGRAM, str(stage.journal), str(stage.ledger), pace,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    again = "" if stage.lives == 1 else " opens the same journal"
    stage.view.line(_now(), "life", f"process {stage.lives} (pid {process.pid}){again}")
    life = _Life(process, stage)
    try:
        yield life
    finally:
        await life.stop()


async def _listen(process: asyncio.subprocess.Process, stage: Stage) -> None:
    assert process.stdout is not None
    async for raw in process.stdout:
        try:
            line = json.loads(raw)
        except ValueError:
            raise DemoError(f"the program said {raw!r}") from None
        if line["what"] == "result":
            stage.result = line["text"]
        elif line["what"] == "says":
            stage.view.line(from_us(line["at"]), "says", line["text"])
        else:
            stage.view.entry(entry := entry_of(line))
            stage.heard.add((entry.step, entry.what, entry.text))


async def _until_mid_step(stage: Stage, life: _Life) -> None:
    """Wait until the journal holds the two quick steps and the slow one is at work."""
    while not life.over():
        if ("pack_parcel", "part", f"{SLOW_PART - 1} of {PARTS}") in stage.heard:
            events = await _history(stage)
            names = {event.seq: event.name for event in events}
            done = {names[e.ref] for e in events if e.kind == "step_completed" and e.ref}
            if {"send_invoice", "print_label"} <= done:
                return
        await asyncio.sleep(_LOOK_SECONDS)
    raise DemoError(f"process 1 ended by itself, with code {await life.end()}")


async def _history(stage: Stage) -> list[HistoryEvent]:
    async with Bystander(stage.journal) as access:
        return await Run(RUN_ID, access).events()


def _now() -> datetime:
    return from_us(SystemClock().wall_us())
