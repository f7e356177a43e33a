"""Performing a plan: floor, workload, floor, workload, floor, each in a fresh process.

Owns the order in time. A shared machine drifts within seconds, so a workload is only
ever compared with the floors measured immediately before and after it (a peer with those
before all peers); repetitions are spread over the whole session (all workloads once, then
all of them again).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter

from benchmarks.floors import Durability, Samples
from benchmarks.worker import FLOORS, Request
from benchmarks.workload import Workload

TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Plan:
    """What to measure, in which order of durabilities, how often, and where.

    `pythons` tells the interpreter of each package that peers require; `peer_seconds` is the
    limit of each figure of a peer.
    """

    workloads: list[Workload]
    durabilities: list[Durability]
    repeat: int
    quick: bool
    loop: str
    directory: Path
    pythons: Mapping[str, str] = field(default_factory=dict)
    peer_seconds: float = 30.0


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
        name = f"{repetition + 1}/{plan.repeat} {durability} {workload.subject} {workload.name}"
        progress(name)
        begun = perf_counter()
        samples, error = _attempt(plan, workload, durability)
        progress(f"{name}: {perf_counter() - begun:.1f} s{' FAILED' if error else ''}")
        # Peers are told in times; the floors around them serve for the picture only.
        after = before if workload.requires else _floors(plan, durability)
        yield Pass(workload, durability, before, after, samples, error)
        before = after


def _floors(plan: Plan, durability: Durability) -> Samples:
    return _work(plan, _request(plan, durability, FLOORS, FLOORS, ""), sys.executable)


def _attempt(plan: Plan, workload: Workload, durability: Durability) -> tuple[Samples, str | None]:
    try:
        request = _request(plan, durability, workload.name, workload.subject, workload.module)
        python = plan.pythons[workload.requires] if workload.requires else sys.executable
        return _work(plan, request, python), None
    except WorkError as failure:
        return {}, str(failure)


def _request(plan: Plan, durability: Durability, name: str, subject: str, module: str) -> Request:
    return Request(
        name=name,
        subject=subject,
        module=module,
        directory="",
        durability=durability,
        loop=plan.loop,
        quick=plan.quick,
        peer_seconds=plan.peer_seconds,
    )


def _work(plan: Plan, wanted: Request, python: str) -> Samples:
    """Perform one thing in a fresh process in a fresh directory."""
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
    # Programs are started from compiled files; W9 measures that, not the compiler.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # Into a file: a server that a peer leaves behind would keep a pipe open. And with a group
    # of its own, so that such a server ends with the work that began it.
    said = Path(request.directory) / "said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as expired:
            raise WorkError(f"{request.name} did not end in {TIMEOUT_SECONDS} s") from expired
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code != 0 or not request.answer.exists():
        told = said.read_text(errors="replace").strip()
        raise WorkError(f"{request.name} ended with code {code}:\n{told}")
