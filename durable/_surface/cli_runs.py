"""`durable runs`: which runs a journal holds, told apart by filters, as a table or JSON.

Owns the arguments of the command and their meaning. It reads the file only, beside an
owner or without one, and loads nothing that is recorded in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any

from durable._authoring.primitives import from_us
from durable._base.clock import SystemClock
from durable._base.duration import parse_duration
from durable._journal.keys import KEY_FILE_VARIABLE, Encryption
from durable._journal.records import RunRow
from durable._journal.selection import STATUSES, Selection
from durable._surface.bystander import Bystander
from durable._surface.current import DEFAULT_PATH
from durable._surface.listing import run_facts, run_lines
from durable._surface.selecting import LIMIT_MAX, Order, read_rows, selection_of


def add_journal(
    parser: argparse.ArgumentParser, perform: Callable[[argparse.Namespace], int]
) -> None:
    """Let a command name its journal."""
    default = os.environ.get("DURABLE_JOURNAL") or DEFAULT_PATH
    parser.add_argument(
        "--db", metavar="PATH", default=default, help="the journal ($DURABLE_JOURNAL, durable.db)"
    )
    add_key_file(parser)
    parser.set_defaults(perform=perform)


def add_key_file(parser: argparse.ArgumentParser) -> None:
    """Let a command name the keys of a journal that is sealed."""
    parser.add_argument(
        "--key-file", metavar="FILE", default=os.environ.get(KEY_FILE_VARIABLE) or None,
        help=f"the keys of a sealed journal (${KEY_FILE_VARIABLE})",
    )  # fmt: skip


def keys_of(arguments: argparse.Namespace) -> Encryption | None:
    """Return the keys that a command line names."""
    return None if arguments.key_file is None else Encryption.if_sealed(arguments.key_file)


def bystander(arguments: argparse.Namespace) -> Bystander:
    """Return the way to look at the journal that a command line names."""
    return Bystander(arguments.db, keys_of(arguments))


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `durable runs`."""
    add_journal(parser, _runs)
    add_filters(parser)
    parser.add_argument("--oldest", action="store_true", help="oldest first")
    parser.add_argument("--limit", type=_number, default=20, metavar="N", help="at most N (20)")
    parser.add_argument("--count", action="store_true", help="only how many there are")
    parser.add_argument("--json", action="store_true", help="as a JSON array")


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that tell which runs are meant."""
    parser.add_argument(
        "--status", choices=STATUSES, action="append", help="only runs with this status (repeat)"
    )
    parser.add_argument("--workflow", metavar="NAME", help="only runs of this workflow")
    parser.add_argument(
        "--attribute", metavar="KEY=VALUE", type=_pair, action="append", default=[],
        help="only runs with this attribute (repeat: with all of them)",
    )  # fmt: skip
    parser.add_argument(
        "--since", metavar="WHEN", type=_moment,
        help="created since: 2024-05-01T12:00+00:00, or a time ago such as 2h",
    )  # fmt: skip
    parser.add_argument("--until", metavar="WHEN", type=_moment, help="created before")
    parser.add_argument("--parent", metavar="RUN_ID", help="only runs that this one started")
    parser.add_argument("--root", metavar="RUN_ID", help="only this run and its descendants")


def chosen(arguments: argparse.Namespace) -> Selection:
    """Return the runs that a command line means."""
    filters: dict[str, Any] = {
        "workflow": arguments.workflow,
        "status": arguments.status,
        "attributes": dict(arguments.attribute) or None,
        "created_after": arguments.since,
        "created_before": arguments.until,
        "parent": arguments.parent,
        "root": arguments.root,
    }
    return selection_of(filters)


def _runs(arguments: argparse.Namespace) -> int:
    selection = chosen(arguments)
    if arguments.count:
        print(asyncio.run(_counted(arguments, selection)))
        return 0
    order: Order = "oldest" if arguments.oldest else "newest"
    rows = asyncio.run(_listed(arguments, selection, order, arguments.limit))
    if arguments.json:
        print(json.dumps([run_facts(row) for row in rows], indent=2))
    else:
        print("\n".join(run_lines(rows)))
    return 0


async def _counted(arguments: argparse.Namespace, selection: Selection) -> int:
    async with bystander(arguments) as access:
        return await access.reader.count(selection)


async def _listed(
    arguments: argparse.Namespace, selection: Selection, order: Order, limit: int
) -> list[RunRow]:
    rows: list[RunRow] = []
    cursor: str | None = None
    async with bystander(arguments) as access:
        while len(rows) < limit:
            page = min(limit - len(rows), LIMIT_MAX)
            found, cursor = await read_rows(access, selection, order, page, cursor)
            rows += found
            if cursor is None:
                break
    return rows


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1")
    return min(int(text), 1_000_000)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} must be KEY=VALUE, such as customer=acme")
    return key, value


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return _ago(text)
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no time zone: write {text}+00:00, or a Z")
    return found


def _ago(text: str) -> datetime:
    try:
        return from_us(SystemClock().wall_us() - parse_duration(text, what="the time"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time, such as 2024-05-01T12:00Z, nor a time ago, such as 2h"
        ) from None
