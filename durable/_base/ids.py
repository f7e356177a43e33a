"""Names of runs and hooks: makes them, and checks those that users bring.

Owns the form of a run id: ``run_`` and 26 characters of Crockford's base 32 (no I, L,
O, U), of which the first 10 are the millisecond of creation and the other 16 are 80
random bits. So ids sort by age, can be read out on the telephone, and cannot be
guessed.

A hook's token is 256 random bits in 43 letters, unless the user brings an own one; the
journal finds hooks by the hash of their tokens.

Does not promise uniqueness of ids that users choose: the journal decides that.
"""

from __future__ import annotations

import os
import secrets
from hashlib import sha256

__all__ = [
    "new_run_id",
    "new_token",
    "next_run_id",
    "token_hash",
    "valid_run_id",
    "valid_text",
]

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]  # two digits at a time
_MS_MASK = (1 << 48) - 1
_PAIR_SHIFTS = range(120, -1, -10)
_LENGTH_MAX = 256


def new_run_id(wall_us: int) -> str:
    """A fresh run id.

    Args:
        wall_us: the present, in UTC microseconds.

    Example:
        ``new_run_id(clock.wall_us())`` gives ``"run_01HK153X00B3T5J4QZ8V6W2YRD"``.
    """
    number = (wall_us // 1000 & _MS_MASK) << 80 | int.from_bytes(os.urandom(10), "big")
    return "run_" + "".join([_PAIRS[number >> shift & 1023] for shift in _PAIR_SHIFTS])


def new_token() -> str:
    """Return a fresh hook token, which nobody can guess."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """Return that by which the journal finds the hook of a token."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def next_run_id(run_id: str, wall_us: int) -> str:
    """The id of the run that continues `run_id`: the same each time that it is asked for.

    Args:
        run_id: of the run that ends.
        wall_us: when it does, in UTC microseconds.
    """
    drawn = sha256(f"continues {run_id}".encode()).digest()[:10]
    number = (wall_us // 1000 & _MS_MASK) << 80 | int.from_bytes(drawn, "big")
    return "run_" + "".join([_PAIRS[number >> shift & 1023] for shift in _PAIR_SHIFTS])


def valid_run_id(text: str) -> str:
    """The id itself, if it can name a run: 1 to 256 printable characters.

    Raises:
        ValueError: anything else; the message names the cause.
    """
    return valid_text(text, "run id", "leave it out to get a fresh one")


def valid_text(text: str, what: str, cure: str = "give it a name") -> str:
    """The text itself, if it can name something: 1 to 256 printable characters.

    Args:
        what: what it names, for messages, such as ``"hook token"``.
        cure: what to do instead of giving an empty one.

    Raises:
        ValueError: anything else; the message names the cause.
    """
    if not isinstance(text, str):
        raise ValueError(f"a {what} is a string, got {text!r:.80} ({type(text).__name__})")
    if not text:
        raise ValueError(f"a {what} has at least one character; {cure}")
    if len(text) > _LENGTH_MAX:
        raise ValueError(
            f"the {what} {text[:40]!r}... has {len(text)} characters; at most {_LENGTH_MAX} go"
        )
    if not text.isprintable():
        position = next(i for i, char in enumerate(text) if not char.isprintable())
        raise ValueError(
            f"the {what} {text[:80]!r} has the unprintable character {text[position]!r} at "
            f"position {position}; use letters, digits and punctuation"
        )
    return text
