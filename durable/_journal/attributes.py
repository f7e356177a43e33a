"""Small JSON columns of a run's row: its attributes and the reason it is blocked.

They are JSON text, so that any SQLite tool can read and query them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple, cast


class Blocked(NamedTuple):
    """Why a run cannot go on. `missing` names code whose registration would free it."""

    kind: str
    reason: str
    missing: str | None = None


def encode_attributes(pairs: Iterable[tuple[str, str]]) -> str | None:
    """Return attributes as a column, None for none."""
    attributes = dict(pairs)
    return json.dumps(attributes, ensure_ascii=False) if attributes else None


def decode_attributes(column: str | None) -> dict[str, str]:
    """Return the attributes of a column."""
    return {} if column is None else cast("dict[str, str]", json.loads(column))


def encode_blocked(blocked: Blocked) -> str:
    """Return a reason as a column."""
    return json.dumps(blocked._asdict(), ensure_ascii=False)


def decode_blocked(column: str | None) -> Blocked:
    """Return the reason of a column."""
    return (
        Blocked("unknown", "no reason was recorded")
        if column is None
        else Blocked(**json.loads(column))
    )
