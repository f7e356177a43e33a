"""A process that deletes runs is killed at any moment: no run is ever half there.

The program tells each run that has ended and each deletion that was acknowledged; it is
killed at a seeded line of its output, a few times on one journal.
"""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durable import SyncRuntime
from tests.surface.programs import Program, spawn

KILLS = 5
EVENTS = 3 + 2 * 120

PROGRAM = """
import asyncio, sys
from durable import Runtime, get_writable, set_attributes, step, workflow

@step
async def one(n: int) -> int:
    if n % 10 == 0:
        await get_writable("log").write(n)
    return n

@workflow(name="kill.long")
async def long() -> None:
    await set_attributes({"kind": "long"})
    for n in range(120):
        await one(n)

async def main(first: int) -> None:
    async with Runtime("app.db", durability="process") as rt:
        for n in range(first, first + 1000):
            run = await rt.start(long.options(run_id=f"r{n}"))
            await run.result()
            print("ended", n, flush=True)
            if n % 3:
                await run.delete()
                print("deleted", n, flush=True)

asyncio.run(main(int(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_kill_leaves_a_run_half_deleted(tmp_path: Path, seed: int) -> None:
    """What was acknowledged as deleted is gone, what is there is whole, the rest is trash."""
    draw = random.Random(seed)
    ended: set[int] = set()
    deleted: set[int] = set()
    for kill in range(KILLS):
        lines = _play(tmp_path, 1000 * kill, draw.randint(3, 16))
        for line in lines:
            what, number = line.split()
            (ended if what == "ended" else deleted).add(int(number))
        _judge(tmp_path / "app.db", ended, deleted)
    with SyncRuntime(tmp_path / "app.db") as rt:
        kept = rt.count_runs(status="completed")
        assert kept == rt.count_runs(attributes={"kind": "long"}, status="completed")
        rt.backup(tmp_path / "copy.db")
    _judge(tmp_path / "copy.db", ended, deleted)
    with SyncRuntime(tmp_path / "copy.db"):
        pass


def _play(folder: Path, first: int, lines: int) -> list[str]:
    """Run the program, kill it after so many lines, and return all that it said."""
    with spawn(Program(folder, PROGRAM), str(first)) as process:
        for _ in range(lines):
            process.until(" ")
        process.kill()
        return [line for line in process.lines if line.count(" ") == 1]


def _judge(path: Path, ended: set[int], deleted: set[int]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT pk, run_id, status, attributes FROM runs"
        runs = {row[0]: row[1:] for row in connection.execute(query)}
        trash = {pk for (pk,) in connection.execute("SELECT run FROM trash")}
        events: dict[int, list[int]] = {}
        for pk, seq in connection.execute("SELECT run, seq FROM events ORDER BY run, seq"):
            events.setdefault(pk, []).append(seq)
        chunks = {pk for (pk,) in connection.execute("SELECT run FROM chunks")}
        indexed = {pk for (pk,) in connection.execute("SELECT run FROM attributes")}
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    names = {name for name, _, _ in runs.values()}
    assert not names & {f"r{n}" for n in deleted}, "a deleted run is back"
    assert {f"r{n}" for n in ended if n % 3 == 0} <= names, "a run is lost"
    assert not trash & runs.keys()
    assert events.keys() <= runs.keys() | trash, "rows of no run"
    assert chunks <= runs.keys() | trash
    assert indexed == {pk for pk, (_, _, column) in runs.items() if column}
    for pk, (name, status, _) in runs.items():
        assert events[pk] == list(range(1, len(events[pk]) + 1)), name
        assert status != "completed" or len(events[pk]) >= EVENTS, name
