"""`durable repair`: sets damaged runs of a journal aside, so that all others go on.

Owns the arguments, the owner lock and what is printed. It never runs beside an owner, and
loads nothing recorded. Exit codes: 0 done, or nothing to be done; 3 a dry run has found
something to be done; 1 an error, told in one line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any

from durable._authoring.primitives import from_us
from durable._base.clock import SystemClock
from durable._journal.care.repairing import (
    Repair,
    lost_tail,
    needs_repair,
    plan_repair,
    repair_journal,
)
from durable._journal.files import JournalFiles
from durable._journal.filesystem import check_filesystem
from durable._journal.high_water import forget_mark
from durable._journal.lock import OwnerLock
from durable._journal.swapping import finish
from durable._surface.cli_doctor import DAMAGED, WELL, add_place, files_of
from durable._surface.cli_runs import add_journal
from durable._surface.listing import plain


def add_repair(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_parser("repair", help="set damaged runs aside, so that the others go on")
    add_journal(parser, _repair)
    add_place(parser)
    parser.add_argument("--dry-run", action="store_true", help="tell what would be done")
    parser.add_argument(
        "--accept-loss", action="store_true",
        help="let a journal whose end was lost go on from what it holds: runs do things again",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="as a JSON object")


def _repair(arguments: argparse.Namespace) -> int:
    files = files_of(arguments)
    check_filesystem(files.path)
    with _owned(files):
        finished = not arguments.dry_run and finish(files)
        if (lost := lost_tail(files)) is not None:
            print(f"{files.path}: {plain(lost)} was there and is not: its end was lost, or it is "
                  "an older copy")  # fmt: skip
            if arguments.dry_run or not arguments.accept_loss:
                print("put the right files back, or repeat this with --accept-loss")
                return DAMAGED
            forget_mark(files.path)
            finished = True
        if not needs_repair(files):
            done = "it may go on" if finished else "nothing to repair"
            print(json.dumps({"done": done}) if arguments.json else f"{files.path}: {done}")
            return WELL
        if arguments.dry_run:
            _show(plan_repair(files), as_json=arguments.json)
            return DAMAGED
        now = from_us(SystemClock().wall_us()).astimezone(UTC)
        _show(repair_journal(files, f"{now:%Y%m%dT%H%M%S%fZ}"), as_json=arguments.json)
    return WELL


@contextmanager
def _owned(files: JournalFiles) -> Iterator[None]:
    """Own a journal, so that nobody executes from it meanwhile.

    Raises:
        JournalLockedError: another process does.
    """
    lock = OwnerLock(files.path)
    info: Any = {"since": SystemClock().wall_us(), "command": " ".join(sys.argv)[:300]}
    if not lock.acquire(info):
        raise lock.locked_error()
    try:
        yield
    finally:
        lock.release()


def _show(repair: Repair, *, as_json: bool) -> None:
    if as_json:
        runs = [
            {"run_id": run.run_id, "key": run.key, "fate": run.fate, "why": run.why,
             "events_kept": len(run.events), "chunks_kept": len(run.chunks),
             "rows_left_out": run.left_out}
            for run in repair.runs if run.fate != "kept"
        ]  # fmt: skip
        counts = dict(repair.counts())
        print(
            json.dumps(
                {"path": repair.path, "folder": repair.folder, "counts": counts, "runs": runs}
            )
        )
        return
    print("\n".join(map(plain, repair.lines)))
    if repair.folder is not None:
        print(f"the damaged files, and every row that is not kept, lie in {repair.folder}")
