"""Names of runs: makes them, and checks those that users bring.

Owns the form of a run id: ``run_`` and 26 characters of Crockford's base 32 (no I, L,
O, U), of which the first 10 are the millisecond of creation and the other 16 are 80
random bits. So ids sort by age, can be read out on the telephone, and cannot be
guessed.

Does not promise uniqueness of ids that users choose: the journal decides that.
"""

from __future__ import annotations

import secrets

__all__ = ["new_run_id", "valid_run_id"]

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
    number = (wall_us // 1000 & _MS_MASK) << 80 | int.from_bytes(secrets.token_bytes(10), "big")
    return "run_" + "".join([_PAIRS[number >> shift & 1023] for shift in _PAIR_SHIFTS])


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
