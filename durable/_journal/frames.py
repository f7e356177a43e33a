"""The wire format of the control socket: frames of JSON and raw bytes, and errors in them.

Owns the layout: 4 bytes length of what follows, 4 bytes length of the JSON, the JSON, then
the bytes values end to end (in the JSON each stands as its offset and size, never as
text). A frame is a dict of plain data; tuples arrive as lists.

Invariants: nothing from the wire is ever unpickled or looked up anywhere but among the
public classes of `durable.errors`; a frame over the limit is refused before it is
buffered; whatever is malformed is a `FrameError`, on which a connection must be dropped.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping

from durable import errors
from durable.errors import DurableError, InternalError, PayloadTooLargeError

FRAME_BYTES_MAX = 64 * 1024 * 1024

_LENGTHS = struct.Struct(">II")  # of all that follows the first number; of the JSON
_LENGTH_BYTES = 4
_TEXT_CHARS_MAX = 64 * 1024
_BYTES, _DICT = "$bytes", "$dict"


class FrameError(Exception):
    """The peer sent something that is not a frame of this protocol."""


def encode_frame(frame: Mapping[str, object], *, limit: int = FRAME_BYTES_MAX) -> list[bytes]:
    """The parts of a frame, to be written in this order and without others in between.

    Raises:
        PayloadTooLargeError: the frame is over `limit` bytes.
        TypeError: a value is not plain data (None, bool, int, float, str, bytes, list,
            tuple, dict with str keys).
    """
    blobs = _Blobs()
    text = json.dumps(_pack(frame, blobs), separators=(",", ":")).encode("ascii")
    size = _LENGTH_BYTES + len(text) + blobs.size
    if size > limit:
        raise PayloadTooLargeError(
            f"a message of {size} bytes is over the limit of {limit} bytes between processes: "
            "send less at once"
        )
    return [_LENGTHS.pack(size, len(text)), text, *blobs.parts]


class Sender:
    """Writes the frames of one connection, each whole and in order."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._turn = asyncio.Lock()  # so that at most one frame waits for a slow peer

    async def send(self, parts: list[bytes]) -> None:
        """Write a frame, and wait while the peer is slow to read.

        Raises:
            OSError: the connection is closed; the frame may have been lost.
        """
        async with self._turn:
            if not self.send_now(parts):
                raise ConnectionResetError("the connection is closed")
            await self._writer.drain()

    def send_now(self, parts: list[bytes]) -> bool:
        """Write a small frame without waiting; False when the connection is closed."""
        if self._writer.transport.is_closing():  # on uvloop such a write would raise
            return False
        self._writer.writelines(parts)
        return True


async def read_frame(
    reader: asyncio.StreamReader, *, limit: int = FRAME_BYTES_MAX
) -> dict[str, object] | None:
    """The next frame, or None when the peer has gone, if need be in the middle of one.

    Raises:
        FrameError: malformed or over `limit` bytes; the stream is of no use any more.
    """
    try:
        (size,) = struct.unpack(">I", await reader.readexactly(_LENGTH_BYTES))
        if not _LENGTH_BYTES <= size <= limit:
            raise FrameError(f"a frame of {size} bytes, the limit is {limit}")
        body = await reader.readexactly(size)
    except asyncio.IncompleteReadError:
        return None
    return decode_body(body)


def decode_body(body: bytes) -> dict[str, object]:
    """The frame in what follows a frame's first length.

    Raises:
        FrameError: malformed.
    """
    if len(body) < _LENGTH_BYTES:
        raise FrameError(f"a frame body of {len(body)} bytes")
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "big")
    if end > len(body):
        raise FrameError("the JSON of a frame is longer than the frame")
    try:
        frame = _unpack(json.loads(body[_LENGTH_BYTES:end]), memoryview(body)[end:])
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the JSON of a frame cannot be read: {error}") from error
    if not isinstance(frame, dict):
        raise FrameError(f"a frame that is a {type(frame).__name__}, not a dict")
    return frame


class _Blobs:
    """The bytes values of one frame, in order."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, value: bytes) -> list[int]:
        offset = self.size
        self.parts.append(value)
        self.size += len(value)
        return [offset, len(value)]


def _pack(value: object, blobs: _Blobs) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return {_BYTES: blobs.add(bytes(value))}
    if isinstance(value, list | tuple):
        return [_pack(item, blobs) for item in value]
    if isinstance(value, Mapping):
        return _pack_mapping(value, blobs)
    raise TypeError(f"{value!r} of type {type(value).__name__} is not plain data")


def _pack_mapping(value: Mapping[object, object], blobs: _Blobs) -> object:
    packed: dict[str, object] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{key!r} of type {type(key).__name__} is not a str key")
        packed[key] = _pack(item, blobs)
    # A dict of the caller that looks like one of our marks is marked itself.
    return {_DICT: list(packed.items())} if _BYTES in packed or _DICT in packed else packed


def _unpack(value: object, blobs: memoryview) -> object:
    if isinstance(value, list):
        return [_unpack(item, blobs) for item in value]
    if not isinstance(value, dict):
        return value
    if _BYTES in value:
        return _cut(value[_BYTES], blobs)
    if _DICT in value:
        return {key: _unpack(item, blobs) for key, item in _pairs(value[_DICT])}
    return {key: _unpack(item, blobs) for key, item in value.items()}


def _cut(place: object, blobs: memoryview) -> bytes:
    match place:
        case [int(offset), int(size)] if offset >= 0 and 0 <= size <= len(blobs) - offset:
            return bytes(blobs[offset : offset + size])
    raise ValueError(f"bytes at {place!r} of {len(blobs)}")


def _pairs(items: object) -> list[tuple[str, object]]:
    pairs = []
    for item in items if isinstance(items, list) else [items]:
        match item:
            case [str(key), value]:
                pairs.append((key, value))
            case _:
                raise ValueError(f"{item!r} is not a pair")
    return pairs


# --- errors -------------------------------------------------------------------------


def encode_error(error: BaseException) -> dict[str, object]:
    """An error as plain data: its class by name, its arguments and its attributes.

    An error from outside `durable.errors` has no business here and becomes an
    `InternalError` that names it.
    """
    if not isinstance(error, DurableError) or _error_class(type(error).__name__) is None:
        error = InternalError(f"{type(error).__name__} in the owner's process: {error}")
    return {
        "class": type(error).__name__,
        "args": [_plain(value) for value in error.args],
        "fields": {name: _plain(value) for name, value in vars(error).items()},
    }


def decode_error(data: object) -> DurableError:
    """The error that `encode_error` described; anything else gives an `InternalError`."""
    match data:
        case {"class": str(name), "args": list(args), "fields": dict(fields)}:
            kind = _error_class(name)
            if kind is None:
                return InternalError(f"the owner reports an unknown error {name}: {args}")
            return _build(kind, args, fields)
    return InternalError(f"the owner reports an error in a form unknown here: {data!r:.200}")


def _build(kind: type[DurableError], args: list[object], fields: dict[str, object]) -> DurableError:
    # Without __init__, whose arguments differ from class to class.
    error = kind.__new__(kind)
    error.args = tuple(args)
    for name, value in fields.items():
        if name == "__notes__" or not name.startswith("__"):
            vars(error)[name] = value
    return error


def _error_class(name: str) -> type[DurableError] | None:
    kind = None if name.startswith("_") else vars(errors).get(name)
    return kind if isinstance(kind, type) and issubclass(kind, DurableError) else None


def _plain(value: object) -> object:
    """The value if it can cross, else its text; long texts are cut."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return [item[:_TEXT_CHARS_MAX] for item in value]
    return str(value)[:_TEXT_CHARS_MAX]
