"""Performing a plan: floor, workload, floor, workload, floor, each in a fresh process.

Owns the order in time. A shared machine drifts within seconds, so a workload is only
ever compared with the floors measured immediately before and after it; repetitions
are spread over the whole session (all workloads once, then all of them again).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.floors import Durability, Samples
from benchmarks.worker import FLOORS, Request
from benchmarks.workload import Workload
from benchmarks.workloads import OURS

TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Plan:
    """What to measure, in which order of durabilities, how often, and where.

    `peer_python` is the interpreter that peers are installed for.
    """

    workloads: list[Workload]
    durabilities: list[Durability]
    repeat: int
    quick: bool
    loop: str
    directory: Path
    peer_python: str = sys.executable


@dataclass(frozen=True)
class Pass:
    """One performance of one workload between its two floors."""

    workload: Workload
    durability: Durability
    before: Samples
    after: Samples
    samples: Samples
    error: str | None


class WorkError(Exception):
    """A worker ended without an answer; carries what it printed."""


def perform(plan: Plan, progress: Callable[[str], None]) -> Iterator[Pass]:
    """Perform the plan; yields each pass as soon as its second floor is known."""
    for repetition in range(plan.repeat):
        for durability in plan.durabilities:
            yield from _round(plan, repetition, durability, progress)


def _round(
    plan: Plan, repetition: int, durability: Durability, progress: Callable[[str], None]
) -> Iterator[Pass]:
    due = [
        workload
        for workload in plan.workloads
        if (repetition == 0 or not workload.once) and durability in workload.durabilities
    ]
    before = _floors(plan, durability)
    for workload in due:
        progress(f"{repetition + 1}/{plan.repeat} {durability} {workload.subject} {workload.name}")
        samples, error = _attempt(plan, workload, durability)
        after = _floors(plan, durability)
        yield Pass(workload, durability, before, after, samples, error)
        before = after


def _floors(plan: Plan, durability: Durability) -> Samples:
    return _work(plan, Request(FLOORS, FLOORS, "", "", durability, plan.loop, plan.quick))


def _attempt(plan: Plan, workload: Workload, durability: Durability) -> tuple[Samples, str | None]:
    try:
        request = Request(
            workload.name, workload.subject, workload.module, "", durability, plan.loop, plan.quick
        )
        return _work(plan, request), None
    except WorkError as failure:
        return {}, str(failure)


def _work(plan: Plan, wanted: Request) -> Samples:
    """Perform one thing in a fresh process in a fresh directory."""
    python = sys.executable if wanted.subject in (OURS, FLOORS) else plan.peer_python
    place = tempfile.TemporaryDirectory(
        prefix="durable-bench-", dir=plan.directory, ignore_cleanup_errors=True
    )
    with place as directory:
        request = replace(wanted, directory=directory)
        _spawn(request, python)
        answer: Samples = json.loads(request.answer.read_text())
        return answer


def _spawn(request: Request, python: str) -> None:
    command = [python, "-m", "benchmarks.worker", json.dumps(asdict(request))]
    root = str(Path(__file__).absolute().parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    try:
        ended = subprocess.run(
            command,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as expired:
        raise WorkError(f"{request.name} did not end in {TIMEOUT_SECONDS} s") from expired
    if ended.returncode != 0 or not request.answer.exists():
        said = ended.stdout.decode(errors="replace").strip()
        raise WorkError(f"{request.name} ended with code {ended.returncode}:\n{said}")
