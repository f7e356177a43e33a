"""The row operations that the engine submits beside events and states, with their checksums.

Owns which values each of these statements of queries.sql takes, so that a row is never
written without its checksum. What the operations mean is their callers'; chunks make
their own (chunks.py).
"""

from __future__ import annotations

from durable._journal.records import RowOp
from durable._journal.row_checksums import attributes_sum, hook_sum, request_sum


def set_attributes(pk: int, column: str | None) -> RowOp:
    """Return what gives a run other attributes."""
    return RowOp("set_run_attributes", (column, attributes_sum(column, pk), pk))


def set_deadline(pk: int, at_us: int) -> RowOp:
    """Return what gives a run another deadline (UTC microseconds)."""
    return RowOp("set_deadline", (at_us, at_us, pk))


def claim_hook(token_hash: bytes, pk: int, seq: int) -> RowOp:
    """Return what gives a token to the hook `seq` of a run, unless another run has it."""
    return RowOp("claim_hook", (token_hash, pk, seq, hook_sum(token_hash, pk, seq)))


def keep_hook(token_hash: bytes, pk: int, of: int) -> RowOp:
    """Return what keeps a token of the run `of` for the run `pk`, which has yet to use it."""
    return RowOp("keep_hook", (pk, hook_sum(token_hash, pk, 0), token_hash, of))


def add_request(pk: int, kind: str, seq: int, payload: bytes | None) -> RowOp:
    """Return what leaves a request to the next owner; see schema.sql."""
    values = (pk, kind, seq, payload, request_sum(pk, kind, seq, payload))
    return RowOp("add_request", values)
