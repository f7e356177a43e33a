"""Versions of the schema and the way from each to the next.

`user_version` of the file says which one it holds. Each migration runs in one
transaction together with its new version number; a crash leaves the old or the new
schema, nothing between. Before an existing journal is changed, a copy of it is made
beside it (``<journal>.bak-v<old>``, 0600). A released migration is never edited.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from durable._journal import sql
from durable._journal.files import sync_and_close, sync_directory
from durable.errors import JournalCorruptError, JournalError, JournalVersionError

APPLICATION_ID = 0x64757261  # "dura"


class Migration(NamedTuple):
    """One step: the version that it leads to, and the script that leads there."""

    version: int
    script: str


MIGRATIONS: tuple[Migration, ...] = (Migration(1, sql.read("schema.sql")),)
LATEST = MIGRATIONS[-1].version
_SCHEMA = sql.QUERIES["schema_objects"]


def version_of(conn: sqlite3.Connection, path: str, latest: int) -> int:
    """Return the schema version of the file (0 = empty), changing nothing.

    Raises:
        JournalVersionError: a newer `durable` wrote it.
        JournalError: it is the database of another program.
        JournalCorruptError: its schema cannot be read.
    """
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    try:
        (objects,) = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except UnicodeDecodeError as error:  # in what SQLite says about its malformed schema
        raise JournalCorruptError(
            f"the schema of {path} is damaged: restore the journal from a backup"
        ) from error
    is_ours = application == APPLICATION_ID
    if objects and (not is_ours or version < 1) and not schema_differs(conn)[0]:
        raise JournalCorruptError(
            f"the header of {path} is damaged, and its schema is that of a journal: restore it "
            "from a backup, or run `durable repair`"
        )
    if not is_ours and (objects or version or application):
        raise JournalError(
            f"{path} is an SQLite database of another program: choose another path for the journal"
        )
    if version > latest:
        raise JournalVersionError(
            f"the journal {path} has schema version {version}, and this durable knows up to "
            f"{latest}: install the newer durable, or restore {path}.bak-v{latest} if it exists"
        )
    return int(version)


def migrate(
    conn: sqlite3.Connection, path: str, found: int, migrations: Sequence[Migration]
) -> None:
    """Bring the schema from version `found` to the newest of `migrations`."""
    wanted = [step for step in migrations if step.version > found]
    if wanted and found:
        # Before anything of the file has a say in what the steps do.
        check_schema(conn, path, [step for step in migrations if step.version <= found])
        _back_up(conn, path, found)
    for step in wanted:
        _apply(conn, path, step)


def _apply(conn: sqlite3.Connection, path: str, step: Migration) -> None:
    conn.execute("BEGIN IMMEDIATE")
    try:
        for statement in sql.statements(step.script):
            conn.execute(statement)
        conn.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")
        conn.execute(f"PRAGMA user_version = {step.version:d}")
        conn.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):
            conn.execute("ROLLBACK")
        raise JournalError(
            f"migrating the journal {path} to schema version {step.version} failed: {error}. "
            "Nothing was changed; open it again after removing the cause"
        ) from error


def _back_up(conn: sqlite3.Connection, path: str, version: int) -> None:
    target = f"{path}.bak-v{version}"
    draft = target + ".part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
    conn.execute("VACUUM INTO ?", (draft,))
    sync_and_close(os.open(draft, os.O_RDWR | os.O_CLOEXEC))
    os.replace(draft, target)
    sync_directory(target)


@functools.cache
def _objects(scripts: Sequence[str]) -> frozenset[tuple[str | None, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as conn:
        for script in scripts:
            conn.executescript(script)
        return frozenset(conn.execute(_SCHEMA))


def schema_differs(
    conn: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS
) -> tuple[list[str], list[str]]:
    """Return what the schema lacks or has otherwise than it was made, and what it has more.

    Tables of the user's own are nobody's business; what hangs on one of ours is.
    """
    wanted = _objects(tuple(step.script for step in migrations))
    found = frozenset(conn.execute(_SCHEMA))
    names, ours = {each[1] for each in wanted}, {each[2] for each in wanted}
    more = [str(each[1]) for each in found - wanted if each[1] not in names and each[2] in ours]
    return sorted(str(each[1]) for each in wanted - found), sorted(more)


def others_tables(conn: sqlite3.Connection) -> list[str]:
    """Return the names of the tables in the file that are no part of a journal."""
    ours = {each[1] for each in _objects(tuple(step.script for step in MIGRATIONS))}
    names = (str(name) for kind, name, *_ in conn.execute(_SCHEMA) if kind == "table")
    return sorted(name for name in names if name not in ours and not name.startswith("sqlite_"))


def check_schema(conn: sqlite3.Connection, path: str, migrations: Sequence[Migration]) -> None:
    """Raise `JournalCorruptError` when the schema is not as the migrations have made it.

    A trigger more on a table of ours would let whoever can write the file have a say in what
    is written; tables of the user's own, with whatever belongs to them, are welcome.
    """
    changed, more = schema_differs(conn, migrations)
    if more:
        wanted = _objects(tuple(step.script for step in migrations))
        ours = {each[2] for each in wanted}
        found = [each for each in conn.execute(_SCHEMA) if each[0] == "trigger"]
        changed += [str(each[1]) for each in found if each[2] in ours and each not in wanted]
    if changed:
        raise JournalCorruptError(
            f"the schema of the journal {path} is not as it was made ({', '.join(changed)}): the "
            "disk or another program changed it; restore a backup, or `durable repair`"
        )


def check_integrity(conn: sqlite3.Connection, path: str, *, fully: bool = False) -> None:
    """Raise `JournalCorruptError` when SQLite finds damage in the file.

    Args:
        fully: hold indexes against their tables, too, which takes longer.
    """
    pragma = "integrity_check" if fully else "quick_check"
    (verdict,) = conn.execute(f"PRAGMA {pragma}(1)").fetchone()
    if verdict != "ok":
        raise JournalCorruptError(
            f"the journal {path} is damaged ({verdict}): restore it from a backup, or "
            "`durable repair` saves what can be read"
        )
