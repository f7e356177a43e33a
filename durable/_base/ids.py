"""Names of runs: makes them, and checks those that users bring.

Owns the form of a run id: ``run_`` and 26 characters of Crockford's base 32 (no I, L,
O, U), of which the first 10 are the millisecond of creation and the other 16 are 80
random bits. So ids sort by age, can be read out on the telephone, and cannot be
guessed.

Does not promise uniqueness of ids that users choose: the journal decides that.
"""

from __future__ import annotations

import base64
import secrets

__all__ = ["new_run_id", "valid_run_id"]

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FROM_RFC4648 = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _CROCKFORD)
_MS_MASK = (1 << 48) - 1
_TIME_SHIFTS = range(45, -1, -5)
_LENGTH_MAX = 256


def new_run_id(wall_us: int) -> str:
    """A fresh run id.

    Args:
        wall_us: the present, in UTC microseconds.

    Example:
        ``new_run_id(clock.wall_us())`` gives ``"run_01HK153X00B3T5J4QZ8V6W2YRD"``.
    """
    ms = wall_us // 1000 & _MS_MASK
    time_part = "".join([_CROCKFORD[ms >> shift & 31] for shift in _TIME_SHIFTS])
    random_part = base64.b32encode(secrets.token_bytes(10)).decode("ascii")
    return f"run_{time_part}{random_part.translate(_FROM_RFC4648)}"


def valid_run_id(text: str) -> str:
    """The id itself, if it can name a run: 1 to 256 printable characters.

    Raises:
        ValueError: anything else; the message names the cause.
    """
    if not isinstance(text, str):
        raise ValueError(f"a run id is a string, got {text!r:.80} ({type(text).__name__})")
    if not text:
        raise ValueError("a run id has at least one character; leave it out to get a fresh one")
    if len(text) > _LENGTH_MAX:
        raise ValueError(
            f"the run id {text[:40]!r}... has {len(text)} characters; at most {_LENGTH_MAX} go"
        )
    if not text.isprintable():
        position = next(i for i, char in enumerate(text) if not char.isprintable())
        raise ValueError(
            f"the run id {text[:80]!r} has the unprintable character {text[position]!r} at "
            f"position {position}; use letters, digits and punctuation"
        )
    return text
