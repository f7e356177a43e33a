"""What a body asks of the world around it: values as bytes, and the name of a step.

Owns no behaviour (the engine and the authoring room implement these), and knows which
values may cross by reference.
"""

from __future__ import annotations

from typing import Any, Protocol

# Values of exactly these types cannot be changed, so by-value needs no copy.
SCALARS = frozenset({int, str, bool, float, bytes, type(None)})


class Payloads(Protocol):
    """How values become bytes and back; given to the body, so that it stays free of I/O."""

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Encode the arguments of a step."""

    def encode(self, value: object, root: str = ...) -> bytes:
        """Encode the result of the run."""

    def decode(self, payload: bytes) -> object:
        """Decode the result of a step."""

    def encode_error(self, error: BaseException) -> bytes:
        """Encode the exception that ended the run."""

    def decode_error(self, payload: bytes, step: str, attempts: int) -> BaseException:
        """Return the exception that a failed step raises in the body."""


class Named(Protocol):
    """A step, as far as replay knows it."""

    name: str
