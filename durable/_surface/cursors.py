"""Cursors: where a listing goes on, as a text that is of use for that listing alone.

Owns the format: a version, the position (creation time and key of the last run seen), a
fingerprint of the filters and the order, a checksum, as URL-safe text. A cursor is a
position and no snapshot: it stays good when runs are added, changed or deleted, for ever.
"""

from __future__ import annotations

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from zlib import crc32

from durable._journal.selection import Position, Selection
from durable.errors import InvalidCursorError

_VERSION = 1
_BODY = struct.Struct(">Bqq8s")
_CHECK = struct.Struct(">I")
CURSOR_CHARS_MAX = 64


def encode_cursor(position: Position, selection: Selection, order: str) -> str:
    """Return the cursor that goes on behind a position."""
    body = _BODY.pack(_VERSION, *position, _fingerprint(selection, order))
    return urlsafe_b64encode(body + _CHECK.pack(crc32(body))).rstrip(b"=").decode()


def decode_cursor(cursor: object, selection: Selection, order: str) -> Position:
    """Return the position of a cursor.

    Raises:
        InvalidCursorError: it is none, is damaged, or belongs to another listing.
    """
    if not isinstance(cursor, str) or not 0 < len(cursor) <= CURSOR_CHARS_MAX:
        raise _no_cursor(cursor)
    try:
        data = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise _no_cursor(cursor) from None
    body, check = data[: _BODY.size], data[_BODY.size :]
    if len(check) != _CHECK.size or check != _CHECK.pack(crc32(body)):
        raise _no_cursor(cursor)
    version, created_at, pk, fingerprint = _BODY.unpack(body)
    if version != _VERSION:
        raise InvalidCursorError(
            f"the cursor {cursor!r} has version {version}, and this durable knows {_VERSION}: "
            "begin the listing anew, without a cursor"
        )
    if fingerprint != _fingerprint(selection, order):
        raise InvalidCursorError(
            f"the cursor {cursor!r} belongs to a listing with other filters or another order: "
            "repeat those of the page that gave it, or begin anew, without a cursor"
        )
    return created_at, pk


def _fingerprint(selection: Selection, order: str) -> bytes:
    return sha256(repr((order, selection)).encode()).digest()[:8]


def _no_cursor(cursor: object) -> InvalidCursorError:
    shown = repr(cursor)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return InvalidCursorError(
        f"{shown} is no cursor: give `next_cursor` of the page before, or None to begin"
    )
