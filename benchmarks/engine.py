"""The only place of the benchmarks that reaches into the library's inside.

Owns opening a runtime as a user would (all defaults except the durability) and
reading the journal writer's own counters. Everything else uses the public names.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from benchmarks.workload import Settings
from durable import Runtime
from durable._journal.records import COMPLETED, RunEvent, RunRow, Write
from durable._replay.events import Event, EventKind


class Counters(NamedTuple):
    """What the journal's writer has done since it was opened."""

    commits: int
    statements: int


def open_runtime(settings: Settings, name: str = "journal") -> Runtime:
    """A runtime on a fresh journal, with default settings."""
    return Runtime(settings.journal(name), durability=settings.durability)


def counters(runtime: Runtime) -> Counters:
    """Read the counters of the journal that `runtime` owns; costs no statement."""
    writer = runtime.journal.writer
    if writer is None:
        raise LookupError("this runtime does not own its journal: nothing is counted here")
    return Counters(writer.commits, writer.statements)


async def fill_with_finished_runs(runtime: Runtime, count: int, portion: int = 10_000) -> None:
    """Record `count` runs of one step as if they had been performed, `portion` to a COMMIT.

    Nothing is flushed from then on: open the journal anew before anything is measured.
    """
    assert runtime.journal.writer is not None
    await runtime.journal.writer.run(_do_not_flush)
    encode, now = runtime.payloads.encode, 1_700_000_000_000_000
    call, result = runtime.payloads.encode_call((1,), {}), encode(2)
    for begin in range(0, count, portion):
        rows, events = [], []
        for number in range(begin, min(begin + portion, count)):
            run_id, pk = f"finished-{number}", runtime.journal.next_pk()
            times = (now + number, now + number, now + number + 1000)
            row = (pk, run_id, "benchmarks.finished", COMPLETED, *times, None, None, None, -1)
            rows.append(RunRow(*row, None, None, None, None, None, 1))
            history = (
                (EventKind.RUN_CREATED, 0, "benchmarks.finished", call),
                (EventKind.RUN_STARTED, 0, "", None),
                (EventKind.STEP_CREATED, 0, "benchmarks.add", call),
                (EventKind.STEP_COMPLETED, 3, "", result),
                (EventKind.RUN_COMPLETED, 0, "", result),
            )
            events += [
                RunEvent(pk, run_id, Event(seq, kind, ref, name, now + number, None, payload))
                for seq, (kind, ref, name, payload) in enumerate(history, 1)
            ]
        await runtime.journal.perform(Write(done=_ignore, runs=rows, events=events, vital=True))


def _do_not_flush(connection: sqlite3.Connection) -> None:
    """Nobody relies on the rows of a benchmark's preparation: a lost file is a failed pass."""
    connection.execute("PRAGMA synchronous = OFF")


def _ignore(error: BaseException | None) -> None:
    """`perform` tells the outcome."""
