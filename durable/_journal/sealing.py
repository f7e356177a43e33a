"""How a journal comes to be sealed, and how writes are.

Owns the rows of `meta` that say so: `sealed` ("encrypt" or "sign"), `seal_keys` (the ids of
the keys that have been used, oldest first), `seal_id` (the journal's id, which the seals are
made with) and `resealing`, which is there while a journal gets its first seals. Any of the
first three tells that it is sealed, since one of them may be damaged. They are for those who
have no key: who has one trusts the rows themselves, and refuses any that is not sealed.

A write is sealed once, when it is submitted. What a repeated COMMIT writes, and what is
looked up after an ambiguous one, are therefore the same bytes.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence

from durable._journal.database import read_meta, transact
from durable._journal.keys import KeyRing, require_cryptography
from durable._journal.records import Request, RowOp, RunEvent, Write
from durable._journal.row_checksums import meta_sum
from durable._journal.row_ops import add_request
from durable._journal.seals import Seals, is_sealed, no_key, place_of_request
from durable._journal.sql import QUERIES
from durable._replay.events import Event
from durable.errors import InternalError, JournalCorruptError, JournalError

_log = logging.getLogger("durable")

ENCRYPT, SIGN = "encrypt", "sign"
_SET_META, _COUNT_RUNS = QUERIES["set_meta"], QUERIES["count_runs"]


def seals_of(
    conn: sqlite3.Connection, path: str, ring: KeyRing | None, *, owner: bool
) -> Seals | None:
    """Return the seals of a journal, None for one that has none.

    Args:
        conn: the owner's connection, or a reader's.
        path: for messages.
        ring: the keys that were given, None for none.
        owner: mark the journal as sealed, if keys were given and it is empty.

    Raises:
        JournalError: it holds runs that are not sealed, or is just being sealed.
    """
    meta = read_meta(conn, path)
    mode, ring = mode_of(meta), ring or KeyRing(optional=True)
    if "resealing" in meta:
        raise JournalError(
            f"the journal {path} is being given another seal, or that was interrupted: let "
            "`durable rekey` finish it"
        )
    is_fresh = mode is None and owner and not conn.execute(_COUNT_RUNS).fetchone()[0]
    if mode is None and ring.optional and not (is_fresh and ring.keys):
        return None
    if mode is None and not owner:
        raise JournalError(
            f"the journal {path} is not sealed, and keys were given: its owner has none"
        )
    if mode is None and not is_fresh:
        raise JournalError(
            f"the journal {path} holds runs that are not sealed: seal them with `durable rekey "
            "--from-plain`, or use another journal"
        )
    if ring.optional:
        ring = KeyRing(ring.keys.values(), hide=mode != SIGN, optional=True)
        if ring.keys and ring.hide:
            require_cryptography()
    if owner and ring.newest is not None:
        transact(conn, lambda: note_key(conn, path, ring))
    elif owner:
        _log.warning(
            "the journal %s is sealed (keys: %s) and no key was given: its values cannot be read, "
            "and nothing can be started", path, meta.get("seal_keys"),
        )  # fmt: skip
    return Seals(ring, seal_id(meta))


def mode_of(meta: Mapping[str, object]) -> object:
    """Return how a journal is sealed, None if it is not."""
    known = {"sealed", "seal_keys", "seal_id"} & meta.keys()
    return meta.get("sealed", ENCRYPT) if known else None


def seal_id(meta: Mapping[str, object]) -> str:
    """Return the id with which the seals of a journal are made."""
    return str(meta.get("seal_id") or meta["journal_id"])


def note_key(conn: sqlite3.Connection, path: str, ring: KeyRing) -> None:
    """Record that the journal is sealed, and with which key from now on."""
    meta = read_meta(conn, path)
    assert ring.newest is not None
    known = str(meta.get("seal_keys", "")).split()
    used = [key for key in known if key != ring.newest.id] + [ring.newest.id]
    news = {"sealed": ENCRYPT if ring.hide else SIGN, "seal_keys": " ".join(used)}
    news["seal_id"] = seal_id(meta)
    changed = [(key, value) for key, value in news.items() if meta.get(key) != value]
    conn.executemany(_SET_META, [(*pair, meta_sum(*pair)) for pair in changed])


def seal_write(seals: Seals, write: Write) -> None:
    """Seal all payloads of a write that is about to be submitted.

    Raises:
        JournalError: no key is at hand. PayloadDecodeError: something in it is sealed with a
            key that is not at hand. Nothing is changed then.
    """
    events = [
        RunEvent(pk, run_id, seals.seal_event(run_id, event)) for pk, run_id, event in write.events
    ]
    turn = write.turn
    if turn is not None:
        pk, run_id, plain = turn
        turn = (pk, run_id, [seals.seal_event(run_id, event) for event in plain])
    ops = [_sealed_op(seals, op) for op in write.ops]
    write.events, write.turn, write.ops = events, turn, ops


def _sealed_op(seals: Seals, op: RowOp) -> RowOp:
    if op.query == "add_request" and op.values[3] is not None:
        run, kind, seq, reason, _ = op.values
        assert isinstance(run, int)
        assert isinstance(kind, str)
        assert isinstance(seq, int)
        assert isinstance(reason, bytes)
        return add_request(run, kind, seq, seals.seal(place_of_request(run, kind), reason))
    if op.query == "insert_chunk":
        payload = op.values[6]
        if not isinstance(payload, bytes) or not is_sealed(payload):
            raise InternalError("a chunk was to be written without a seal")
    return op


def open_requests(seals: Seals, requests: Sequence[Request]) -> list[Request]:
    """Return requests with their reasons opened; one that cannot be opened has none.

    Requests are made by those who have no key, too.
    """
    return [_opened(seals, request) for request in requests]


def _opened(seals: Seals, request: Request) -> Request:
    if not is_sealed(request.payload):
        return request
    place = place_of_request(request.run, request.kind)
    try:
        reason = seals.open(place, request.payload)
    except JournalCorruptError:
        reason = None
    return request._replace(payload=None if is_sealed(reason) else reason)


def require_open(history: Sequence[Event]) -> None:
    """Raise a PayloadDecodeError if the key of an event is not at hand."""
    if (payload := still_sealed(history)) is not None:
        raise no_key(payload)


def still_sealed(history: Sequence[Event]) -> bytes | None:
    """Return the first payload of a history whose key is not at hand, None if all are open."""
    return next((e.payload for e in history if is_sealed(e.payload)), None)
