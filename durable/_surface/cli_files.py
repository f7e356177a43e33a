"""`durable export`, `import`, `backup`, `restore` and `delete`: runs and journals as files.

Owns the arguments and what is printed. Exporting and backing up read the journal's file,
beside an owner or without one; importing and deleting are given to the owner, or done in
its absence; restoring is done without one only. Nothing recorded is executed or loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import partial

from durable._base.words import counted
from durable._surface.bystander import CommandPort, Unowned, command
from durable._surface.carrying import export_run, read_document, send_document
from durable._surface.cli_runs import add_journal, bystander, keys_of
from durable._surface.restoring import restore
from durable.errors import WorkflowRunNotFoundError

Ask = Callable[[argparse.Namespace], Coroutine[None, None, str]]


def add_files(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the five commands."""
    export = _add(add_parser("export", help="write one run to a JSON file"), _export)
    export.add_argument("run_id", metavar="RUN_ID")
    export.add_argument("file", metavar="FILE", nargs="?", help="default: print it")
    export.add_argument("--overwrite", action="store_true", help="over an existing file")
    take = _add(add_parser("import", help="take an exported run in; it does not run"), _import)
    take.add_argument("file", metavar="FILE")
    take.add_argument("--as", dest="run_id", metavar="RUN_ID", help="under another id")
    backup = _add(add_parser("backup", help="copy the journal, also while it is used"), _backup)
    backup.add_argument("file", metavar="FILE")
    backup.add_argument("--overwrite", action="store_true", help="over an existing file")
    restore = _add(add_parser("restore", help="put a backup in the journal's place"), _restore)
    restore.description = (
        "Put a copy of BACKUP in the place of a journal that no program has open. The copy is "
        "checked first. The files of a journal that is there are moved to a folder beside it."
    )
    restore.add_argument("file", metavar="BACKUP")
    restore.add_argument("journal", metavar="JOURNAL", nargs="?", help="the same as --db JOURNAL")
    restore.add_argument("--overwrite", action="store_true", help="also where there is a journal")
    delete = _add(add_parser("delete", help="delete a finished run"), _delete)
    delete.add_argument("run_id", metavar="RUN_ID")


def _add(parser: argparse.ArgumentParser, ask: Ask) -> argparse.ArgumentParser:
    add_journal(parser, partial(_perform, ask))
    return parser


def _perform(ask: Ask, arguments: argparse.Namespace) -> int:
    print(asyncio.run(ask(arguments)))
    return 0


async def _export(arguments: argparse.Namespace) -> str:
    async with bystander(arguments) as access:
        document = await export_run(
            access, arguments.run_id, arguments.file, overwrite=arguments.overwrite
        )
    if arguments.file is None:
        return json.dumps(document, indent=1)
    return f"{arguments.run_id}: {counted(len(document['events']), 'event')} in {arguments.file}"


async def _import(arguments: argparse.Namespace) -> str:
    document = await asyncio.to_thread(read_document, arguments.file)

    async def give(port: CommandPort) -> str:
        near = isinstance(port, Unowned)
        return await send_document(port, document, arguments.run_id, near=near)

    keys = keys_of(arguments)
    run_id = await command(arguments.db, give, create=True, encryption=keys)
    return f"{run_id}: imported; see `durable show {run_id}`"


async def _backup(arguments: argparse.Namespace) -> str:
    async with bystander(arguments) as access:
        made = await access.journal.back_up(arguments.file, overwrite=arguments.overwrite)
    counts = f"{counted(made.runs, 'run')}, {counted(made.events, 'event')}"
    return f"{made.path}: {counts}, {made.bytes:,} bytes, all checked"


async def _restore(arguments: argparse.Namespace) -> str:
    place = arguments.journal or arguments.db
    made = await restore(arguments.file, place, overwrite=arguments.overwrite)
    counts = f"{counted(made.runs, 'run')}, {counted(made.events, 'event')}"
    told = f"{made.path}: {counts} restored, all checked"
    if made.replaced is None:
        return told
    return f"{told}; the files that were there lie in {made.replaced}"


async def _delete(arguments: argparse.Namespace) -> str:
    async def give(port: CommandPort) -> None:
        await port.ask("delete_run", run_id=arguments.run_id)

    async with bystander(arguments) as access:
        if await access.reader.run_by_id(arguments.run_id) is None:
            raise WorkflowRunNotFoundError(arguments.run_id)
    await command(arguments.db, give, encryption=keys_of(arguments))
    return f"{arguments.run_id}: deleted"
