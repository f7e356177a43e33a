"""Small JSON columns of a run's row: its attributes, why it is blocked, what it was made from.

They are JSON text, so that any SQLite tool can read and query them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple, cast

# The kind of a run that waits for nothing but `resume`.
PAUSED = "paused"


class Blocked(NamedTuple):
    """Why a run cannot go on. `missing` names code whose registration would free it.

    `seq` is the last event that its body has seen: what was recorded since, while the run
    was parked, is still to reach it. None: nothing was.
    """

    kind: str
    reason: str
    missing: str | None = None
    seq: int | None = None


class Origin(NamedTuple):
    """What a run was made from: `how` is continued, rerun or forked.

    `seed` is the run whose random numbers it draws, if not its own.
    """

    how: str
    run_id: str
    seed: str | None = None


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


def encode_origin(origin: Origin) -> str:
    """Return an origin as a column."""
    return json.dumps(origin._asdict(), ensure_ascii=False)


def seed_of(column: str | None) -> str | None:
    """Return whose random numbers a run draws, None for its own."""
    origin = decode_origin(column)
    return None if origin is None else origin.seed


def decode_origin(column: str | None) -> Origin | None:
    """Return the origin of a column, None for a run that was simply started."""
    return None if column is None else Origin(**json.loads(column))
