"""What an exception from SQLite means for the journal.

Owns the line between the disk's troubles (the outcome may be unknown, other writes are
affected, waiting may help) and a statement's (only one write is at fault), and the
translation of both into the errors that callers see. It decides nothing about retrying.
"""

from __future__ import annotations

import sqlite3

from durable.errors import (
    InternalError,
    JournalCorruptError,
    JournalError,
    JournalFullError,
)

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DISK = _DAMAGED | {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOLFS,
}


class UnknownOutcomeError(Exception):
    """COMMIT raised, or its file was replaced: it may or may not be on disk.

    The cause is `__cause__`. Never leaves the journal.
    """


class FileReplacedError(OSError):
    """The journal's file, or its -wal, is no longer the one that was opened."""


def primary_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code of an error, or None when it has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_disk_fault(error: BaseException) -> bool:
    """Tell whether the disk, the file or its locks are at fault, not the statement."""
    if isinstance(error, (UnknownOutcomeError, OSError)):
        return True
    return primary_code(error) in _DISK


def translate(error: BaseException, path: str, what: str) -> JournalError:
    """Return the error for callers: what was being done, to which file, why, and the cure."""
    cause = error.__cause__ or error if isinstance(error, UnknownOutcomeError) else error
    translated = _describe(cause, path, what)
    translated.__cause__ = cause
    return translated


def _describe(cause: BaseException, path: str, what: str) -> JournalError:
    code = primary_code(cause)
    if code == sqlite3.SQLITE_FULL:
        return JournalFullError(
            f"{what} the journal {path} failed: the disk is full. Free some space; "
            "runs pause and go on by themselves"
        )
    if code in _DAMAGED:
        return JournalCorruptError(
            f"{what} the journal {path} failed: {cause}. The file is damaged or is not a "
            "journal: mend it with `durable repair`, or restore it from a backup"
        )
    if code == sqlite3.SQLITE_BUSY:
        return JournalError(
            f"{what} the journal {path} failed: another program holds a lock on it. "
            "Close programs that write to the file"
        )
    check = "Check the disk and the path"
    if code == sqlite3.SQLITE_READONLY:
        check += "; if its permissions let you write, its header is damaged: `durable repair`"
    return JournalError(f"{what} the journal {path} failed: {cause}. {check}")


def refusal(error: BaseException) -> InternalError:
    """Return the error for the one write whose statement failed."""
    if isinstance(error, InternalError):
        return error
    refused = InternalError(f"the journal refused a write: {type(error).__name__}: {error}")
    refused.__cause__ = error
    return refused
