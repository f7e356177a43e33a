"""Putting a mended journal in the place of a damaged one, so that no crash leaves half of it.

A database and its -wal are two files, and cannot be exchanged in one step: the old -wal
beside the new database would be applied to it, the old database without its -wal would be
an older journal. So the exchange is written down first, in ``<journal>.repair``; from then
on nobody opens the journal without finishing it, and finishing it twice does no harm.

Only who holds the owner lock may call `exchange` and `finish`.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

from durable._journal.files import JournalFiles, sync_directory, write_whole
from durable.errors import JournalError

PLAN = ".repair"
_GOES = ("-wal", "-shm", "-journal", ".mark", ".running")  # with the old database


def exchange(files: JournalFiles, draft: str) -> None:
    """Put a finished, synced draft in the journal's place.

    Args:
        files: the journal's.
        draft: path of the new database, in the journal's folder or below it.
    """
    folder = os.path.dirname(files.path)
    plan = {"draft": os.path.relpath(draft, folder)}
    write_whole(files.path + PLAN, json.dumps(plan).encode(), overwrite=True)
    finish(files)


def finish(files: JournalFiles) -> bool:
    """Finish an exchange that was begun; tell whether there was one.

    Raises:
        JournalError: the plan cannot be read.
    """
    plan = files.path + PLAN
    try:
        with open(plan, encoding="utf-8") as file:
            draft = os.path.join(os.path.dirname(files.path), json.load(file)["draft"])
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(
            f"{plan} is no plan of a repair: restore {files.path} from the folder of the last "
            "repair, or from a backup, and delete it"
        ) from error
    if os.path.exists(draft):
        for end in _GOES:
            with suppress(FileNotFoundError):
                os.unlink(files.path + end)
        sync_directory(files.path)
        os.replace(draft, files.path)
        sync_directory(files.path)
    os.unlink(plan)
    sync_directory(files.path)
    return True


def refuse_unfinished(files: JournalFiles) -> None:
    """Refuse to read a journal that is just being exchanged.

    Raises:
        JournalError: it is, or the program that did it was killed.
    """
    if os.path.exists(files.path + PLAN):
        raise JournalError(
            f"the repair of {files.path} is not finished: wait, or run `durable repair` again"
        )
