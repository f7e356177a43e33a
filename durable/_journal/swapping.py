"""Putting one journal in the place of another, so that no crash leaves half of it.

A database and its -wal are two files, and cannot be exchanged in one step: the old -wal
beside the new database would be applied to it, the old database without its -wal would be
an older journal. So the exchange is written down first, in ``<journal>.repair``; from then
on nobody opens the journal without finishing it, and finishing it twice does no harm.

A repair has copied the old files before, so they go. A restore keeps them: they are moved
into a folder that the plan names.

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


def exchange(files: JournalFiles, draft: str, aside: str | None = None) -> None:
    """Put a finished, synced draft in the journal's place.

    Args:
        files: the journal's.
        draft: path of the new database, in the journal's folder or below it.
        aside: folder beside the journal for the old files, made if there are any. None: they
            are deleted.
    """
    folder = os.path.dirname(files.path)
    plan = {"draft": os.path.relpath(draft, folder)}
    if aside is not None:
        plan["aside"] = os.path.relpath(aside, folder)
    write_whole(files.path + PLAN, json.dumps(plan).encode(), overwrite=True)
    finish(files)


def finish(files: JournalFiles) -> bool:
    """Finish an exchange that was begun; tell whether there was one.

    Raises:
        JournalError: the plan cannot be read.
    """
    plan, folder = files.path + PLAN, os.path.dirname(files.path)
    try:
        with open(plan, encoding="utf-8") as file:
            found = json.load(file)
        draft = os.path.join(folder, found["draft"])
        aside = os.path.join(folder, found["aside"]) if "aside" in found else None
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(
            f"{plan} is no plan of a repair or a restore: delete it, and restore {files.path} from "
            f"a backup, or from the newest {files.path}.repaired-... or .replaced-... folder"
        ) from error
    if os.path.exists(draft):
        if aside is None:
            _delete_old(files)
        else:
            _keep_old(files, aside)
        os.replace(draft, files.path)
        sync_directory(files.path)
    os.unlink(plan)
    sync_directory(files.path)
    return True


def _delete_old(files: JournalFiles) -> None:
    for end in _GOES:
        with suppress(FileNotFoundError):
            os.unlink(files.path + end)
    sync_directory(files.path)


def _keep_old(files: JournalFiles, aside: str) -> None:
    """Move all that is left of the old journal into a folder, the database last."""
    there = [end for end in (*_GOES, ".reserve", "") if os.path.lexists(files.path + end)]
    if not there:
        return
    with suppress(FileExistsError):
        os.mkdir(aside, 0o700)
    sync_directory(files.path)
    for end in there:
        target = os.path.join(aside, os.path.basename(files.path) + end)
        while os.path.lexists(target):  # somebody has put another file here since the crash
            target += "~"
        os.rename(files.path + end, target)
    sync_directory(os.path.join(aside, "-"))  # of all that lies in it
    sync_directory(files.path)


def is_there(files: JournalFiles) -> bool:
    """Tell whether there is a journal, be it in the midst of an exchange."""
    return os.path.exists(files.path) or os.path.exists(files.path + PLAN)


def refuse_unfinished(files: JournalFiles) -> None:
    """Refuse to read a journal that is just being exchanged.

    Raises:
        JournalError: it is, or the program that did it was killed.
    """
    if os.path.exists(files.path + PLAN):
        raise JournalError(
            f"the repair or restore of {files.path} is not finished: wait; or, if its process was "
            "killed, run `durable repair`, or open the journal with a Runtime: both finish it"
        )
