"""Loads the named statements and the scripts of the .sql files in this folder and below it.

SQL lives in .sql files only, so that it can be read, formatted and checked as SQL.
A name that does not exist fails at import of the module that asks for it. Nothing
here runs a statement.
"""

from __future__ import annotations

import os
import re
import sqlite3

_NAME = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


def read(file: str) -> str:
    """Return the text of a .sql file, named by its path from this folder."""
    loader = __spec__.loader  # as `pkgutil.get_data`, which imports far more than that
    assert loader is not None
    data = loader.get_data(os.path.join(os.path.dirname(__file__), file))  # type: ignore[attr-defined]
    return str(data, "utf-8")


def parse(text: str) -> dict[str, str]:
    """Split the text of a queries file into its named statements."""
    pieces = _NAME.split(text)[1:]
    return {name: _compact(body) for name, body in zip(pieces[::2], pieces[1::2], strict=True)}


def statements(script: str) -> list[str]:
    """Split a script into single statements, so that they can share one transaction."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    if _compact(pending):
        raise ValueError(f"the SQL script ends inside a statement: {pending.strip()[:80]!r}")
    return found


def for_rows(insert: str, count: int) -> str:
    """Return an INSERT of one row as an INSERT of `count` rows."""
    head, values = insert.removesuffix(";").split("VALUES")
    return f"{head}VALUES {', '.join([values.strip()] * count)}"


def _compact(body: str) -> str:
    lines = (line for line in body.splitlines() if not line.startswith("--"))
    return " ".join(" ".join(lines).split())


QUERIES = parse(read("queries.sql"))
