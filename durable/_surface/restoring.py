"""`durable.restore`: a backup in the place of a journal, for programs and the command line.

Owns the public function, the owner lock and the name of the folder for the old files; what
is done is `_journal.care.restoring`'s. No runtime is needed, and none may have the journal
open.
"""

from __future__ import annotations

import asyncio
from datetime import UTC
from os import PathLike

from durable._authoring.primitives import from_us
from durable._base.clock import SystemClock
from durable._journal.care.restoring import Restored, restore_journal
from durable._journal.files import JournalFiles
from durable._journal.filesystem import canonical_journal_path, check_filesystem
from durable._journal.lock import OwnerLock


async def restore(
    backup: str | PathLike[str], path: str | PathLike[str], *, overwrite: bool = False
) -> Restored:
    """Put a copy of a backup in the place of a journal that no program has open.

    The copy is checked whole before anything is changed. A journal that is there is not
    deleted: its files, the `-wal` of a crash among them, are moved to a folder beside it. A
    program that is killed meanwhile leaves the old journal or the new one, or what the next
    opening of the journal finishes. What the runs have done since the backup they do again.

    Args:
        backup: the file that `backup` has made, or another whole copy of a journal; it stays.
        path: the journal, which need not exist.
        overwrite: also where there is a journal.

    Returns:
        A `Restored`, whose `replaced` is the folder with the old files.

    Raises:
        FileExistsError: there is a journal, and `overwrite` is False.
        JournalLockedError: a program has the journal open.
        BackupError: the backup is not good, or could not be copied; nothing was changed.
        JournalError: there is no backup, or it is of another program or a newer `durable`.

    Example:
        ``await restore("monday.db", "app.db", overwrite=True)``
    """
    return await asyncio.to_thread(restore_file, backup, path, overwrite=overwrite)


def restore_file(
    backup: str | PathLike[str], path: str | PathLike[str], *, overwrite: bool
) -> Restored:
    """Do what `restore` does, and return when it is done."""
    canonical = canonical_journal_path(path)
    check_filesystem(canonical)
    lock, now = OwnerLock(canonical), SystemClock().wall_us()
    if not lock.acquire({"since": now, "command": "durable restore"}):
        raise lock.locked_error()
    try:
        stamp = f"{from_us(now).astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
        files = JournalFiles(canonical)
        return restore_journal(JournalFiles(backup), files, stamp, overwrite=overwrite)
    finally:
        lock.release()
