"""What must hold of attributes after a crash, judged with plain `sqlite3`.

The row of a run, the index over it and its history are three tellings of one thing: at no
moment may they differ. What a step was told is recorded is in the history. The functions
return what is wrong, or None.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from tests.crash.ledger import Ledger

ATTR_SET, ATTR_NOTED = 40, 41


def disagreement(connection: sqlite3.Connection) -> str | None:
    """Tell where rows, index and histories differ about attributes."""
    rows = connection.execute("SELECT pk, created_at, attributes FROM runs").fetchall()
    held = {pk: json.loads(column or "{}") for pk, _, column in rows}
    indexed = set(connection.execute("SELECT run, key, value, created_at FROM attributes"))
    wanted = {(pk, *pair, at) for pk, at, _ in rows for pair in held[pk].items()}
    if indexed != wanted:
        return f"the index over attributes holds {indexed}, the rows {wanted}"
    query = "SELECT run, payload FROM events WHERE kind IN (?, ?) ORDER BY run, seq"
    last: dict[tuple[int, str], str | None] = {}
    for run, payload in connection.execute(query, (ATTR_SET, ATTR_NOTED)):
        last.update(((run, key), value) for key, value in json.loads(payload)["set"].items())
    for (run, key), value in last.items():
        if run in held and held[run].get(key) != value:
            return f"run {run} has set {key} to {value}, its row says {held[run]}"
    return None


def lost_tag(
    ledger: Ledger, payloads: Mapping[str, Sequence[tuple[int, bytes | None]]]
) -> str | None:
    """Tell which attribute a step was told is recorded, and is not.

    Args:
        payloads: kind and payload of each event, by run.
    """
    for run, key, value in ledger.of("tagged"):
        noted = [json.loads(p or b"{}")["set"] for k, p in payloads.get(run, ()) if k == ATTR_NOTED]
        if not any(change.get(key) == value for change in noted):
            return f"{run}: {key}={value} was acknowledged and is lost: {noted}"
    return None
