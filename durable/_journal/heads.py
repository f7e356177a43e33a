"""The heads of payloads that need one: a first byte, a name, then the body.

Owns how code and transformed payloads are marked (`kind`, 1 byte n, n bytes of ASCII),
and the hook through which an application compresses all payloads, for example.

A transform sees whole payloads, first byte included: one that authenticates therefore
also protects how the payload will be read.
"""

from __future__ import annotations

from typing import Protocol

from durable.errors import PayloadDecodeError, SerializationError

__all__ = ["Transform", "check_transform", "open_seal", "seal", "split_head", "write_head"]

_NAME_MAX = 32


class Transform(Protocol):
    """A reversible change of the bytes of all payloads, such as compression.

    It cannot tell one row from another; to encrypt, use `Encryption`, which can.

    `tag` (1 to 32 ASCII characters) is stored with each payload. To change a key, change
    the tag and let `decode` tell old from new. Errors of `encode` refuse the value,
    errors of `decode` block the run; neither is fatal.

    Example:
        ``Codec(transform=Squeeze())``, where `Squeeze` has ``tag = "zlib-1"``,
        ``encode = staticmethod(zlib.compress)``, ``decode = staticmethod(zlib.decompress)``
    """

    @property
    def tag(self) -> str:
        """Names the transform in each payload, for example ``"aes-1"``."""

    def encode(self, data: bytes) -> bytes:
        """Make `data` what the journal stores."""

    def decode(self, data: bytes) -> bytes:
        """Undo `encode`."""


def write_head(kind: bytes, name: str) -> bytes:
    """The head that says `kind` and `name`."""
    raw = name.encode("ascii")
    return kind + bytes([len(raw)]) + raw


def split_head(payload: bytes) -> tuple[str, memoryview]:
    """The name in a payload's head, and the body after it.

    Raises:
        PayloadDecodeError: the payload ends before its head does.
    """
    if len(payload) < 2 or len(payload) < 2 + payload[1]:
        raise PayloadDecodeError("the payload ends inside its head: it was cut off")
    end = 2 + payload[1]
    return payload[2:end].decode("ascii", "replace"), memoryview(payload)[end:]


def seal(kind: bytes, transform: Transform, payload: bytes) -> bytes:
    """`payload` transformed, behind a head that names the transform.

    Raises:
        SerializationError: the transform failed.
    """
    try:
        return write_head(kind, transform.tag) + transform.encode(payload)
    except Exception as error:
        raise SerializationError(
            f"the transform {transform.tag!r} failed to encode a payload: {error!r}"
        ) from error


def open_seal(transform: Transform | None, payload: bytes) -> bytes:
    """The payload that was sealed.

    Raises:
        PayloadDecodeError: there is no transform, it is another one, or it failed.
    """
    name, body = split_head(payload)
    if transform is None or transform.tag != name:
        have = "none" if transform is None else repr(transform.tag)
        raise PayloadDecodeError(
            f"the payload was transformed by {name!r}, this codec has {have}; "
            "open the journal with the transform that it was written with"
        )
    try:
        return transform.decode(bytes(body))
    except Exception as error:
        raise PayloadDecodeError(
            f"the transform {name!r} failed to decode a payload: {error!r}; is it the same key?"
        ) from error


def check_transform(transform: Transform) -> None:
    """Refuse a tag that no head can hold.

    Raises:
        ValueError: not 1 to 32 ASCII characters.
    """
    if not 1 <= len(transform.tag) <= _NAME_MAX or not transform.tag.isascii():
        raise ValueError(f"a transform's tag has 1 to 32 ASCII characters, got {transform.tag!r}")
