"""Restoring a journal from a backup: whole, or not at all, and what was there is kept.

Owns the order of a restore:

    1. the backup is copied beside the journal, as a draft, with what its own -wal holds
    2. the copy is looked at: the file's structure, the schema, every event and every chunk
    3. it is put in the journal's place (`swapping`); the database that was there, its -wal and
       whatever else belongs to it are moved to ``<journal>.replaced-<time>``

A -wal that a crash has left must go with its database: SQLite would write it into the
copy, which would then hold what the journal held at the crash. The mark of the newest event
goes too, because the backup rightly lacks that event; the next owner begins another one.

A crash before the third step leaves the journal as it was, and a draft. A crash within it is
made good by whoever opens the journal next. The caller holds the owner lock.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import quote

from durable._journal.backup import check_copy
from durable._journal.care.looking import looking_at
from durable._journal.driver import connect
from durable._journal.files import JournalFiles, new_draft, sync_and_close, sync_directory
from durable._journal.migrations import LATEST, version_of
from durable._journal.swapping import PLAN, exchange, finish
from durable.errors import BackupError, JournalCorruptError, JournalError

Stage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """A journal that was restored from a backup.

    Attributes:
        path: the journal.
        runs, events: how many it holds; every event and chunk has been checked.
        bytes: its size.
        replaced: folder with the files that were there before; None if there were none.

    Example:
        ``print((await restore("monday.db", "app.db", overwrite=True)).replaced)``
    """

    path: str
    runs: int
    events: int
    bytes: int
    replaced: str | None


def restore_journal(
    backup: JournalFiles,
    files: JournalFiles,
    stamp: str,
    *,
    overwrite: bool = False,
    stage: Stage = lambda _: None,
) -> Restored:
    """Put a checked copy of a backup in the place of a journal; see the module's docstring.

    Args:
        backup: what is copied; it is only read, and may be a journal that is in use.
        files: the journal's; the caller holds the owner lock, and nothing has it open.
        stamp: names the folder of the old files, such as "20240101T000000Z".
        overwrite: also where there is a journal.
        stage: called before each step with its name; tests look there.

    Raises:
        FileExistsError: there is a journal, and `overwrite` is False.
        BackupError: the backup is not good, or could not be copied; nothing was changed.
        JournalError: there is no backup; or it is of another version or program, or could not
            be put in place, which the message tells the way out of.
    """
    if os.path.exists(files.path) and os.path.realpath(backup.path) == files.path:
        raise BackupError(f"{files.path} is to be restored from itself: name a backup")
    finish(files)
    _refuse_existing(files, overwrite=overwrite)
    stage("copy")
    draft, descriptor = new_draft(files.path)
    os.close(descriptor)
    try:
        runs, events = _copied(backup, draft, stage)
        size = os.stat(draft).st_size
        aside = f"{files.path}.replaced-{stamp}"
        stage("exchange")
        _exchange(files, draft, aside)
    finally:
        if not os.path.exists(files.path + PLAN):  # otherwise it is what is put in place
            with suppress(OSError):
                os.unlink(draft)
    return Restored(files.path, runs, events, size, aside if os.path.isdir(aside) else None)


def _refuse_existing(files: JournalFiles, *, overwrite: bool) -> None:
    """Refuse to move what may be all that there is of a journal, such as a -wal alone."""
    for path in (files.path, files.wal, f"{files.path}-journal"):
        if os.path.lexists(path) and not overwrite:
            what = "it exists already: choose another path, or give overwrite=True"
            raise FileExistsError(errno.EEXIST, what, path)


def _copied(backup: JournalFiles, draft: str, stage: Stage) -> tuple[int, int]:
    """Copy the backup, and look at the copy; return how many runs and events it holds."""
    try:
        _copy(backup, draft)
        stage("check")
        uri = f"file:{quote(os.fsencode(draft))}?mode=ro&immutable=1"
        with closing(connect(uri)) as conn:
            counts = check_copy(backup.path, conn)
        sync_and_close(os.open(draft, os.O_RDWR | os.O_CLOEXEC))
        sync_directory(draft)
    except (sqlite3.Error, OSError, JournalCorruptError) as error:
        raise BackupError(
            f"the backup {backup.path} was not restored, and nothing was changed: {error}. If it "
            "is damaged and there is no other, `durable repair` on it saves what can be read"
        ) from error
    return counts


def _copy(backup: JournalFiles, draft: str) -> None:
    with looking_at(backup) as conn:
        if version_of(conn, backup.path, LATEST) == 0:
            raise BackupError(f"{backup.path} is empty: it is no backup of a journal")
        with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
            # Not worth a thing before it is whole; then it is synced at once.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            conn.backup(copy)


def _exchange(files: JournalFiles, draft: str, aside: str) -> None:
    try:
        exchange(files, draft, aside)
    except OSError as error:
        if not os.path.exists(files.path + PLAN):
            raise
        raise JournalError(
            f"the backup is copied, and putting it in the place of {files.path} was begun, but is "
            f"not finished: {error}. Remove the cause and repeat this, or open the journal: both "
            "finish it"
        ) from error
