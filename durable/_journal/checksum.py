"""The checksum that travels with every event, from the writer to each reader.

SQLite finds almost no bit rot by itself, so that a flipped bit could silently change
a recorded decision. The checksum covers every column and the run's public id, so a row
moved to another place does not match either. It guards against accidents, not forgery.
"""

from __future__ import annotations

from zlib import crc32

Fields = tuple[int, int, int, str, int, "int | None", "bytes | None"]


def checksum(run_id: str, fields: Fields) -> int:
    """Return the CRC-32 of one event; `fields` are those of `Event`, in its order."""
    seq, kind, ref, name, at, due, payload = fields
    head = f"{run_id}|{seq}|{kind:d}|{ref}|{at}|{due}|{name}"
    return crc32(payload or b"", crc32(head.encode()))
