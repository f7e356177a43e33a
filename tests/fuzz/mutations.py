"""Inputs that nobody meant: valid ones with something wrong with them, and plain noise.

Owns the ways in which bytes, texts and JSON data are spoiled. Random bytes alone are turned
away at the door; a valid input with one thing changed gets as far as the code does.

Everything is drawn from the generator that is given, so a seed gives the same inputs again.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

EDGES = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 31, 32, 63, 64, 65, 127, 128, 129, 255, 256)
BIG_EDGES = (
    -1, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1,
    -(2**31), -(2**62), -(2**63), 2**63, -(2**63) - 1, 2**64, 10**30, -(10**30),
)  # fmt: skip
# Each has broken some program: SQL, LIKE, shells, formats, JSON, HTML, paths, Unicode.
TEXTS = (
    "", " ", "\0", "a\0b", "%", "_", "%%", "a%", "\\", "\\%", "'", '"', "';--", "' OR '1'='1",
    "x'); DROP TABLE runs;--", "?1", ":name", "$name", "@name", "{}", "{0.__class__}", "%s%n",
    "`id`", "$(id)", "../../etc/passwd", "..\\..", "/", "//", "-", "--", "--db", "-h", "@file",
    "\n", "\r\n", "a\nb", "\t", "\x1b[31m", "\x7f", "\x80", "\xa0", "\u00e9", "e\u0301",
    "\u202e", "\u200b", "\ufeff", "\ufffd", "\uffff", "\ud800", "\udfff", "\udc80", "\ud83d\ude00",
    "\U0001f600", "\U0010ffff", "\u0660", "\u00b5s", "\u03bcs", "\u0131", "\u212a", "\u1e9e",
    "null", "true", "NaN", "Infinity", "-0", "1e400", "0x10", "1_000", "[]", "[[", "{", '"', "[1,",
    "<script>", "&amp;", "run_", "$reserved", "cancel", "running", "blocked", "A" * 300,
    "\u00e9" * 257,
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, -0.0, 1e308, float("inf"), float("nan"), "", "x", [], {}, [[]],
    {"": None}, {"a": {"b": []}}, [None] * 50, "\ud800", "\0", *BIG_EDGES,
)  # fmt: skip


def noise(draw: random.Random, size_max: int = 300) -> bytes:
    """Return random bytes, short ones more often than long ones."""
    return draw.randbytes(int(size_max * draw.random() ** 2))


def number(draw: random.Random) -> int:
    """Return an integer at which something may happen."""
    return draw.choice((*EDGES, *BIG_EDGES)) + draw.choice((0, 0, 0, -1, 1))


def text(draw: random.Random, *likely: str) -> str:
    """Return a text: one of those likely, spoiled or not, or anything."""
    kind = draw.random()
    if kind < 0.45 and likely:
        return spoil_text(draw, draw.choice(likely))
    if kind < 0.6 and likely:
        return draw.choice(likely)
    if kind < 0.9:
        return draw.choice(TEXTS)
    return "".join(chr(draw.randrange(0x110000)) for _ in range(draw.randrange(12)))


def spoil_text(draw: random.Random, value: str) -> str:
    """Return a text with a few things wrong with it."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        place = draw.randint(0, len(value))
        end = min(len(value), place + draw.choice((0, 1, 1, 2, 5)))
        new = draw.choice(
            ("", draw.choice(TEXTS), chr(draw.randrange(0x250)), value[place:end] * 2)
        )
        value = draw.choice((value.upper(), value.swapcase(), value[::-1], value)) or value
        value = value[:place] + new + value[end:]
    return value


def spoil_bytes(draw: random.Random, value: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes with a few things wrong with them; `others` are there to be spliced in."""
    for _ in range(draw.choice((1, 1, 1, 1, 2, 3, 6))):
        value = draw.choice(_SPOILERS)(draw, value)
    if others and draw.random() < 0.15:
        other = draw.choice(others)
        value = value[: draw.randint(0, len(value))] + other[draw.randint(0, len(other)) :]
    return value


def _flip(draw: random.Random, value: bytes) -> bytes:
    if not value:
        return value
    place = draw.randrange(len(value))
    return value[:place] + bytes([value[place] ^ 1 << draw.randrange(8)]) + value[place + 1 :]


def _cut(draw: random.Random, value: bytes) -> bytes:
    place = draw.randint(0, len(value))
    return draw.choice((value[:place], value[place:], value[:place] + value[place + 4 :]))


def _insert(draw: random.Random, value: bytes) -> bytes:
    place = draw.randint(0, len(value))
    return value[:place] + noise(draw, 20) + value[place:]


def _double(draw: random.Random, value: bytes) -> bytes:
    start = draw.randint(0, len(value))
    end = min(len(value), start + draw.choice((1, 4, 16, 64)))
    return value[:end] + value[start:end] * draw.choice((1, 2, 30)) + value[end:]


def _number(draw: random.Random, value: bytes) -> bytes:
    size = draw.choice((1, 2, 4, 8))
    place = draw.randint(0, max(0, len(value) - size))
    written = (number(draw) % (1 << 8 * size)).to_bytes(size, draw.choice(("big", "little")))
    return value[:place] + written + value[place + size :]


def _swap(draw: random.Random, value: bytes) -> bytes:
    a, b, c = sorted(draw.randint(0, len(value)) for _ in range(3))
    return value[:a] + value[b:c] + value[a:b] + value[c:]


_SPOILERS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _flip, _cut, _insert, _double, _number, _number, _swap,
)  # fmt: skip


def spoil_data(draw: random.Random, value: Any, odd: Sequence[Any] = ODD_VALUES) -> Any:
    """Return a copy of JSON data in which a few parts were changed, lost, doubled or added."""
    root = [copy.deepcopy(value)]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        _spoil_part(draw, root, odd)
    return root[0]


def _spoil_part(draw: random.Random, root: list[Any], odd: Sequence[Any]) -> None:
    places = list(_places(root))
    holder, key = draw.choice(places)
    part = holder[key]
    match draw.randrange(6):
        case 0 if holder is not root:
            del holder[key]
        case 1 if isinstance(part, str):
            holder[key] = spoil_text(draw, part)
        case 2 if isinstance(part, int):
            holder[key] = draw.choice((part + 1, part - 1, -part, number(draw)))
        case 3:
            other_holder, other_key = draw.choice(places)
            holder[key] = copy.deepcopy(other_holder[other_key])
        case 4 if isinstance(part, list) and part:
            part.insert(draw.randrange(len(part)), copy.deepcopy(draw.choice(part)))
        case 4 if isinstance(part, dict):
            part[text(draw)] = draw.choice(odd)
        case _:
            holder[key] = copy.deepcopy(draw.choice(odd))


def _places(holder: Any) -> list[tuple[Any, Any]]:
    """Return every place in the data, as the container and the key."""
    found: list[tuple[Any, Any]] = []
    waiting = [holder]
    while waiting:
        part = waiting.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part))
        for key in keys:
            found.append((part, key))
            if isinstance(part[key], dict | list):
                waiting.append(part[key])
    return found
