"""The checksum that travels with every event, from the writer to each reader.

SQLite finds almost no bit rot by itself, so that a flipped bit could silently change
a recorded decision. The checksum covers every column and the run's public id, so a row
moved to another place does not match either. It guards against accidents, not forgery.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from zlib import crc32

from durable._replay.events import Event

Fields = tuple[int, int, int, str, int, "int | None", "bytes | None"]
Stored = tuple[int, int, int, str, int, "int | None", "bytes | None", int]  # with its checksum

_pack = struct.Struct("<qqqqqq").pack
NO_DUE, _NO_PAYLOAD = -(2**62), -1


def checksum_of_run(run_id: str) -> int:
    """Return what the checksums of all events of a run begin with."""
    return crc32(run_id.encode())


def checksum(run: int, fields: Fields) -> int:
    """Return the CRC-32 of one event of the run that `checksum_of_run` gave `run` for.

    Args:
        run: see above.
        fields: those of `Event`, in its order.

    Raises:
        TypeError, ValueError: a column has a type that it cannot have.
    """
    seq, kind, ref, name, at, due, payload = fields
    size = _NO_PAYLOAD if payload is None else len(payload)
    try:
        head = _pack(seq, kind, ref, at, NO_DUE if due is None else due, size)
    except struct.error as error:
        raise ValueError(str(error)) from error
    return crc32(payload or b"", crc32(head + str.encode(name), run))


def matches(run: int, row: Stored) -> bool:
    """Tell whether the columns of a stored event match its checksum, which comes last."""
    return bool(intact(run, row[0], [row]))


def intact(run: int, place: int, rows: Iterable[Stored]) -> list[Event]:
    """Return the events of stored rows up to the first that is damaged or not in its place.

    Args:
        run: as for `checksum`.
        place: the number that the first of them must have.
        rows: the columns of events, each with its checksum behind them.
    """
    found: list[Event] = []
    append, pack, crc, make = found.append, _pack, crc32, tuple.__new__
    try:  # `checksum` for each row, without its frame: replay reads whole histories
        for row in rows:
            fields = seq, kind, ref, name, at, due, payload = row[:7]
            size = _NO_PAYLOAD if payload is None else len(payload)
            head = pack(seq, kind, ref, at, NO_DUE if due is None else due, size)
            if crc(payload or b"", crc(head + str.encode(name), run)) != row[7] or seq != place:
                break
            append(make(Event, fields))
            place += 1
    except (TypeError, ValueError, struct.error):
        pass  # a flipped bit may change a column's type, too
    return found
