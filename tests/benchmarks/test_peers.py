"""How the benchmarks give other engines the same work."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from benchmarks import machine, runner
from benchmarks.rivals import STEPS, WORK, Peer, Rival, Shape, doubled, used, workloads
from benchmarks.runner import Plan
from benchmarks.worker import Request
from benchmarks.workload import Settings
from benchmarks.workloads import OURS, registry

ROOT = Path(__file__).parents[2]


class Toy:
    """An engine that keeps nothing."""

    def __init__(self, started: list[tuple[str, int]]) -> None:
        self.started = started

    async def start(self, shape: Shape, steps: int) -> Any:
        """Note what is asked for."""
        self.started.append((shape, steps))
        return steps

    async def result(self, run: Any) -> object:
        """Give back the handle."""
        await asyncio.sleep(0)
        return run


def toy(started: list[tuple[str, int]], **changes: Any) -> Peer:
    """Return a peer whose engine writes down what it was asked to do."""

    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[Rival]:
        (settings.directory / "store").write_bytes(b"x" * 1000)
        yield Toy(started)

    return replace(Peer("toy", "toy", "json", opened, ("full",)), **changes)


@pytest.mark.parametrize("name", WORK)
def test_fast_peer_does_the_same_work_as_we_do(name: str, tmp_path: Path) -> None:
    """Limits of time shorten the work of slow engines only."""
    started: list[tuple[str, int]] = []
    (workload,) = (each for each in workloads(toy(started)) if each.name == name)
    samples = workload.perform(Settings(tmp_path, "full", "asyncio"))
    assert {figure.key for figure in workload.figures} == set(samples)
    full = {"W1": 100, "W2": 1000, "W3": 1000, "W4": 1000, "W5": 10_000}[name]
    assert samples["size"] == [full]
    shapes = {shape for shape, _ in started[1:]}
    assert shapes == ({"gather"} if name == "W4" else {"chain"})


def test_peer_that_gets_slower_stops_within_its_limit() -> None:
    """The next size is not begun when quadratic growth would lead beyond the limit."""
    sizes: list[int] = []
    passed = 0.0

    async def work(size: int) -> None:
        nonlocal passed
        sizes.append(size)
        passed += 0.001 * size * size

    samples = asyncio.run(doubled(work, STEPS, 10.0, lambda: passed))
    assert sizes == sizes[:1] + [2 * size for size in sizes[:-1]]
    assert samples["size"] == [sizes[-1]] and sizes[-1] < STEPS
    assert 10.0 / 4 < passed < 10.0


def test_what_a_peer_lacks_is_not_measured() -> None:
    """Nothing stands in for a feature that an engine does not have."""
    names = {each.name for each in workloads(toy([], lacks=frozenset({"W5", "W9"})))}
    assert names == {"W1", "W2", "W3", "W4", "W10"}


def test_bytes_of_a_peer_are_those_of_closed_stores(tmp_path: Path) -> None:
    """Whatever files it keeps, and without what an empty store takes."""
    (weighed,) = (each for each in workloads(toy([])) if each.name == "W10")
    assert weighed.perform(Settings(tmp_path, "full")) == {"step": [0.0]}
    assert used(tmp_path) == 2000


def test_peers_share_names_and_figures_with_us() -> None:
    """A figure of a peer has one of ours to stand beside, under the same key."""
    everything = registry()
    ours = {
        (each.name, figure.key)
        for each in everything
        if each.subject == OURS
        for figure in each.figures
    }
    theirs = {
        (each.name, figure.key)
        for each in everything
        if each.subject != OURS
        for figure in each.figures
        if figure.key != "size"
    }
    assert theirs <= ours
    assert {each.requires for each in everything if each.subject != OURS} == {
        "dbos", "edda-framework", "huey", "prefect", "python-durable", "vercel-workflow"
    }  # fmt: skip


def test_files_of_peers_load_neither_us_nor_them() -> None:
    """Their processes are to pay for their own imports only."""
    program = (
        "import sys\n"
        "from benchmarks.workloads import find\n"
        "find('W1', 'dbos', 'peer_dbos')\n"
        "print(sorted({'durable', 'dbos', 'sqlalchemy', 'aiosqlite'} & set(sys.modules)))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    assert said.stdout.strip() == "[]"


def test_versions_are_those_of_the_interpreter_asked() -> None:
    """A package that is not there is left out, not guessed."""
    found = machine.versions(["pytest", "no-such-package"], sys.executable)
    assert found == {"pytest": pytest.__version__}


def test_worker_performs_a_workload_in_a_process_of_its_own(tmp_path: Path) -> None:
    """What it measured is in the file that the request names."""
    request = {
        "name": "W4", "subject": OURS, "module": "w4_gather", "directory": str(tmp_path),
        "durability": "process", "loop": "asyncio", "quick": True, "peer_seconds": 1.0,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(request)]
    subprocess.run(command, cwd=ROOT, check=True)
    samples = json.loads((tmp_path / "answer.json").read_text())
    assert list(samples) == ["step"] and 0 < samples["step"][0] < 1


def test_server_left_behind_ends_with_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither holds up the next measurement nor runs beside it."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "worker.py").write_text(
        "import json, pathlib, subprocess, sys\n"
        "request = json.loads(sys.argv[1])\n"
        "place = pathlib.Path(request['directory'])\n"
        "server = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(place / 'answer.json').write_text(json.dumps({'server': [server.pid]}))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "__file__", str(tmp_path / "benchmarks" / "runner.py"))
    plan = Plan([], ["full"], repeat=1, quick=True, loop="asyncio", directory=tmp_path)
    request = Request("W1", "other", "", "", "full", "asyncio", quick=True)
    (server,) = runner._work(plan, request, sys.executable)["server"]
    end = monotonic() + 30
    while _is_alive(int(server)):  # killed, but the kernel takes its time
        assert monotonic() < end, "the server is still there"
        os.sched_yield()


def _is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
