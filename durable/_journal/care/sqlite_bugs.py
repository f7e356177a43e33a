"""Which SQLite this is, and what is known to be wrong with it.

Owns the list of bugs that matter to a journal, for `durable doctor`. A version alone says
little: distributions patch theirs, so the words are "may have".
"""

from __future__ import annotations

import sqlite3

Version = tuple[int, int, int]

# https://sqlite.org/wal.html, "the WAL-reset bug"
_WAL_RESET_FROM, _WAL_RESET_UNTIL = (3, 7, 0), (3, 51, 3)
_WAL_RESET_BACKPORTS = ((3, 44, 6), (3, 50, 7))


def has_wal_reset_bug(version: Version = sqlite3.sqlite_version_info) -> bool:
    """Tell whether this version may damage a database when a -wal is begun anew.

    It takes two connections, one of which commits while the other one empties the -wal.
    """
    if not _WAL_RESET_FROM <= version < _WAL_RESET_UNTIL:
        return False
    return not any(version[:2] == fix[:2] and version >= fix for fix in _WAL_RESET_BACKPORTS)


def about_sqlite(version: Version = sqlite3.sqlite_version_info) -> str:
    """Return what is to be known about the SQLite in use, in one sentence."""
    name = ".".join(map(str, version))
    if not has_wal_reset_bug(version):
        return f"SQLite {name}, no known bug that concerns a journal"
    return (
        f"SQLite {name} may have the WAL-reset bug (3.7.0 to 3.51.2; fixed in 3.51.3, 3.50.7 and "
        "3.44.6). It takes two connections that write; a journal has one, and all others only "
        "read, so it cannot happen as long as no other program writes to the file"
    )
