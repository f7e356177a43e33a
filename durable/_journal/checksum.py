"""The checksum that travels with every event, from the writer to each reader.

SQLite finds almost no bit rot by itself, so that a flipped bit could silently change
a recorded decision. The checksum covers every column and the run's public id, so a row
moved to another place does not match either. It guards against accidents, not forgery.
"""

from __future__ import annotations

from zlib import crc32


def checksum(
    run_id: str,
    seq: int,
    kind: int,
    ref: int,
    name: str,
    at: int,
    due: int | None,
    payload: bytes | None,
) -> int:
    """Return the CRC-32 of one event; `kind` should be a plain int, for speed."""
    head = f"{run_id}|{seq}|{kind}|{ref}|{at}|{due}|{name}"
    return crc32(payload or b"", crc32(head.encode()))
