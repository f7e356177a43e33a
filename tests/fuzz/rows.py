"""Damaged rows: a journal in which columns were changed, and rows lost, moved or doubled.

Every value that a run observes or returns is the one that was recorded, or there is an error
that says so: the run is parked, or refused. Other runs go on. The rows harmed are those that
carry a checksum; without one, nobody can tell a changed value from a recorded one.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from durable import Run
from durable.errors import DurableError
from durable.testing import VirtualRuntime
from tests.campaign.programme import FoundError
from tests.fuzz import flows, mutations
from tests.fuzz.aside import make_journal, open_runtime
from tests.fuzz.payloads import VALID, is_unknown
from tests.fuzz.target import Judge, Make, Target
from tests.fuzz.watch import acts

JOURNAL = "app.db"
_KEYS = {"events": 2, "chunks": 3, "runs": 1, "hooks": 1, "requests": 2, "meta": 1}  # columns
_WEIGHTS = {"events": 6, "chunks": 2, "runs": 3}  # how often, compared with the others
_TURNS = 100  # of the loop, in which an answer comes that is there already
_ENDS = {"completed", "failed", "cancelled", "continued", "blocked"}


class Harm(NamedTuple):
    """One change of one row: a statement and its values."""

    statement: str
    values: tuple[Any, ...]


class _Making:
    """Makes changes of the rows that there are."""

    def __init__(self, path: Path) -> None:
        self._columns: dict[str, list[tuple[str, str]]] = {}
        self._rows: dict[str, list[tuple[Any, ...]]] = {}
        with closing(sqlite3.connect(path)) as connection:
            for table in _KEYS:
                about = connection.execute(f"PRAGMA table_info({table})").fetchall()
                if any(row[1] == "crc" for row in about):
                    self._columns[table] = [(row[1], row[2]) for row in about]
                    self._rows[table] = connection.execute(f"SELECT * FROM {table}").fetchall()
        self._tables = [table for table in self._rows for _ in range(_WEIGHTS.get(table, 1))]

    def __call__(self, draw: random.Random) -> list[Harm]:
        return [self._harm(draw) for _ in range(draw.choice((1, 1, 1, 2, 5)))]

    def _harm(self, draw: random.Random) -> Harm:
        table = draw.choice(self._tables)
        rows, columns = self._rows[table], self._columns[table]
        if not rows or draw.random() < 0.08:
            return self._insert(draw, table)
        row = draw.choice(rows)
        where = " AND ".join(f"{name} IS ?" for name, _ in columns[: _KEYS[table]])
        key = row[: _KEYS[table]]
        if draw.random() < 0.1:
            return Harm(f"DELETE FROM {table} WHERE {where}", key)
        place = draw.randrange(len(columns))
        name, kind = columns[place]
        if draw.random() < 0.25:
            value = draw.choice(rows)[place]  # of another row
        else:
            value = _spoiled(draw, kind, row[place])
        return Harm(f"UPDATE OR REPLACE {table} SET {name} = ? WHERE {where}", (value, *key))

    def _insert(self, draw: random.Random, table: str) -> Harm:
        columns = self._columns[table]
        rows = self._rows[table]
        row = list(draw.choice(rows)) if rows else [None] * len(columns)
        for place in draw.sample(range(len(columns)), min(2, len(columns))):
            row[place] = _spoiled(draw, columns[place][1], row[place])
        marks = ", ".join("?" * len(columns))
        return Harm(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", tuple(row))


def _spoiled(draw: random.Random, kind: str, value: Any) -> Any:
    if draw.random() < 0.1:
        return None
    if kind == "INTEGER":
        near = (value or 0) + draw.choice((-1, 1, 1 << draw.randrange(40)))
        return draw.choice((near, near, draw.choice(mutations.EDGES), 2**62, -(2**63), 2**63 - 1))
    if kind == "BLOB":
        return mutations.spoil_bytes(draw, draw.choice((value or b"", value or b"", *VALID[:9])))
    texts = (str(value), "completed", "running", "{}", '{"a": 1}', "fuzz.sum", "sum", "nap", "[]")
    return mutations.text(draw, *texts).encode("utf-8", "replace").decode()


def apply(path: Path, harms: list[Harm]) -> None:
    """Change the rows, as far as SQLite lets anybody."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        connection.execute("PRAGMA synchronous=OFF")
        for harm in harms:
            with suppress(sqlite3.Error, OverflowError):
                connection.execute(harm.statement, harm.values)


# --- judging --------------------------------------------------------------------------------


def judge_journal(path: Path) -> None:
    """Open a journal that was harmed, look at everything in it, and let its runs go on."""
    with (
        acts(_loads_unknown),
        suppress(DurableError),
        open_runtime(path, patience=0.01) as (rt, wait),
    ):
        wait(_judge(rt))


async def _judge(rt: VirtualRuntime) -> None:
    await rt.settled()
    with suppress(DurableError):
        await rt.list_runs()
    with suppress(DurableError):
        await rt.resume_hook(flows.TOKEN, "first")
    with suppress(DurableError):
        await rt.send("hooked", "box", "second")
    rt.clock.suspend(2 * 86400.0)
    await rt.advance(2)
    for run_id, expected in flows.RESULTS.items():
        run = rt.get_run(run_id)
        await _judge_result(run, expected)
        await _look(run)
        if run_id == "emitting":
            await _judge_stream(run)


async def _look(run: Run[Any]) -> None:
    for ask in (run.status, run.events, run.hooks, run.children, run.list_streams,
                run.attributes, run.created_at, run.completed_at, run.continued_as):  # fmt: skip
        with suppress(DurableError):
            await ask()


async def _judge_result(run: Run[Any], expected: Any) -> None:
    answer = asyncio.ensure_future(run.result())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
        if answer.done():
            break
    else:
        answer.cancel()
        with suppress(DurableError):
            if await run.status() in _ENDS:
                raise FoundError("hung", f"{run.run_id} is over, and nobody is told")
        return
    try:
        value = answer.result()
    except (DurableError, LookupError):  # parked, refused; or what `failing` raises
        return
    if value != expected:
        raise FoundError("corrupt", f"{run.run_id} returned {value!r} instead of {expected!r}")


async def _judge_stream(run: Run[Any]) -> None:
    found: list[Any] = []

    async def read() -> None:
        with suppress(DurableError):
            async for chunk in run.stream():
                found.append(chunk)  # noqa: PERF401 - those before an error count

    reading = asyncio.ensure_future(read())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    if reading.done():
        reading.result()
    reading.cancel()
    if found != [{"number": number} for number in range(len(found))] or len(found) > 3:
        raise FoundError("corrupt", f"the stream gave {found!r}")


def _loads_unknown(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "pickle.find_class" and is_unknown(event, arguments)


@contextmanager
def _rows(place: Path) -> Iterator[tuple[Make, Judge]]:
    made, harmed = place / "made", place / "harmed"
    made.mkdir()
    make_journal(made / JOURNAL)

    def judge(harms: list[Harm]) -> None:
        shutil.rmtree(harmed, ignore_errors=True)
        shutil.copytree(made, harmed)
        apply(harmed / JOURNAL, harms)
        judge_journal(harmed / JOURNAL)

    yield _Making(made / JOURNAL), judge


ROWS = Target("rows", 30, _rows, seconds_max=2.0)  # a journal is opened, and looked at whole
