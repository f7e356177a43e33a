"""Payloads: what the decoder and the preview make of damaged and hostile bytes.

The decoder may raise `PayloadDecodeError`, or return a value. It believes what it is given,
since every payload was held against its checksum before; so here a class is found only
among those that the valid payloads name, and the memory of the process has an end.

The preview never raises, and never finds, imports or runs anything, whatever it is given.
"""

from __future__ import annotations

import codecs
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from pickle import dumps
from pickletools import opcodes
from typing import Any
from uuid import UUID

from durable import Codec, WebhookRequest
from durable._journal.failure import encode_failure, preview_failure
from durable.errors import PayloadDecodeError, StepFailedError
from tests.campaign.programme import FoundError
from tests.fuzz import mutations
from tests.fuzz.target import Judge, Make, Target
from tests.fuzz.watch import acts

_ROOM_BYTES = 1 << 30  # of address space above what is in use
_CODEC, _JSON_CODEC = Codec(), Codec(format="json")
_HOSTILE = ("os system", "builtins eval", "posix system", "subprocess Popen", "shutil rmtree")


def _loop() -> list[Any]:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    return cycle


_VALUES: tuple[Any, ...] = (
    None, 0, -1, 2**70, 1.5, "", "text", "\ud800", b"", b"bytes" * 20, True, [], {}, (),
    [1, "2", 3.0],
    {"order": "A-17", "cents": 4200, "lines": [{"sku": "x", "n": 1}] * 5}, {1, 2}, frozenset("ab"),
    ((1, 2), {"key": "value"}), datetime(2024, 2, 29, 12, tzinfo=UTC), date(2024, 1, 1),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-5))), timedelta(days=1), Decimal("1.10"),
    UUID(int=7), complex(1, 2), bytearray(b"x"), range(3), _loop(), ValueError("no", 1), Path("/x"),
    WebhookRequest("POST", "http://x/", {"A": "b"}, b"{}"), list(range(300)), "x" * 1000,
)  # fmt: skip
VALID = (
    [_CODEC.encode(value) for value in _VALUES]
    + [_JSON_CODEC.encode(v) for v in (None, 1, "x", [1, {"a": [None, 2.5]}], {"k": "v" * 50})]
    + [_CODEC.encode(lambda: 1)]
)  # fmt: skip
FAILURES = [
    encode_failure(e, _CODEC) for e in (ValueError("x"), StepFailedError("s", 1, "E", "why", ""))
]
_KNOWN = frozenset(
    "builtins datetime decimal uuid collections pathlib copyreg _codecs durable "
    "cloudpickle types".split()
)


# --- inputs ---------------------------------------------------------------------------------


def payload(draw: random.Random) -> bytes:
    """Return a payload that is valid, damaged, hostile or noise."""
    kind = draw.random()
    if kind < 0.6:
        return mutations.spoil_bytes(draw, draw.choice(VALID), VALID)
    if kind < 0.85:
        return grammar(draw)
    if kind < 0.95:
        return draw.choice((b"\x80\x05", b"j", b"c", b"x", b"N", b"")) + mutations.noise(draw)
    return draw.choice(VALID)


def grammar(draw: random.Random) -> bytes:
    """Return opcodes of a pickle in any order, each with an argument of its form."""
    body = b"".join(_opcode(draw) for _ in range(draw.randrange(1, 60)))
    return b"\x80\x05" + body + b"."


def _opcode(draw: random.Random) -> bytes:
    found = draw.choice(opcodes)
    code = found.code.encode("latin-1")
    if found.arg is None:
        return code
    if found.name in {"GLOBAL", "INST"}:
        return code + draw.choice(_HOSTILE).replace(" ", "\n").encode() + b"\n"
    if found.arg.n > 0:
        return code + (mutations.number(draw) % (1 << 8 * found.arg.n)).to_bytes(
            found.arg.n, "little"
        )
    if found.arg.n == -1:  # up to a newline
        return code + draw.choice((b"1", b"-7L", b"'text'", b"0", b"x")) + b"\n"
    data = draw.choice(
        (b"os", b"system", b"touch x", b"builtins", b"eval", mutations.noise(draw, 9))
    )
    width = {-2: 1, -3: 4, -4: 4, -5: 8}[found.arg.n]
    stated = len(data) if draw.random() < 0.9 else mutations.number(draw) % (1 << 8 * width)
    return code + stated.to_bytes(width, "little") + data


# --- judging --------------------------------------------------------------------------------


def _judge_decoded(given: bytes) -> None:
    for codec in (_CODEC, _JSON_CODEC):
        with acts(is_unknown) as done, _little_room():
            try:
                codec.decode(given)
                codec.decode_call(given)
            except PayloadDecodeError:
                pass
        if codec is _JSON_CODEC and done:
            raise FoundError("broken", f"a JSON codec did {done}")


def is_unknown(event: str, arguments: tuple[Any, ...]) -> bool:
    """Tell whether an act is none that valid payloads ask for."""
    if event != "pickle.find_class":
        return event != "import"
    module, name = arguments
    known = module.partition(".")[0] in _KNOWN
    return not known or name in {
        "eval",
        "exec",
        "compile",
        "open",
        "input",
        "breakpoint",
        "__import__",
    }


@contextmanager
def _little_room() -> Iterator[None]:
    """Let a pickle that reserves a gigabyte fail, as it would where there is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ROOM_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _judge_preview(given: bytes) -> None:
    for codec in (_CODEC, _JSON_CODEC):
        with acts() as done:
            shown = repr(codec.preview(given))
            repr(preview_failure(given, codec))
        if done:
            raise FoundError("broken", f"a preview did {done}")
    if len(shown) > 8 << 20:
        raise FoundError("broken", f"a preview of {len(shown):,} characters")


@contextmanager
def _decoder(place: Path) -> Iterator[tuple[Make, Judge]]:
    yield payload, _judge_decoded


@contextmanager
def _preview(place: Path) -> Iterator[tuple[Make, Judge]]:
    def make(draw: random.Random) -> bytes:
        if draw.random() < 0.1:
            return mutations.spoil_bytes(draw, draw.choice(FAILURES), VALID)
        return payload(draw) if draw.random() < 0.97 else b"\x80\x05" + _tower(draw)

    for encoding in ("raw_unicode_escape", "unicode_escape", "latin-1", "ascii"):
        codecs.lookup(encoding)  # which Python imports when the first text needs it
    _CODEC.preview(dumps(1, 5))  # and what the preview imports for itself
    preview_failure(FAILURES[0], _CODEC)
    yield make, _judge_preview


def _tower(draw: random.Random) -> bytes:
    """Return few bytes that stand for a great many: each level holds the one below twice."""
    levels = draw.choice((10, 30, 100, 5000))
    level = draw.choice((b"2\x86", b"](2e", b"}(2Ku0u", b"\x85", b"]a"))
    return b"]" + level * levels + b"."


DECODER = Target("decoder", 400, _decoder)
PREVIEW = Target("preview", 300, _preview, seconds_max=0.4)  # of four previews
