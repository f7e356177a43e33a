"""Previews: plain data as it is, the rest as inert stand-ins, and nothing ever runs."""

from __future__ import annotations

import copyreg
import os
import pickle
import sys
import uuid
from collections import OrderedDict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable._journal.codec import Codec
from durable._journal.preview import StandIn
from durable.errors import FatalError

CODEC = Codec()
LOG: list[object] = []

hashable = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.uuids()
plain = st.recursive(
    hashable
    | st.floats(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.frozensets(hashable, max_size=3)
        | st.sets(hashable, max_size=3)
    ),
    max_leaves=12,
)


class Order:
    """An importable class with attributes, inheritance from nothing, and no `__init__`."""

    def __init__(self, number: int) -> None:
        LOG.append(number)
        self.number = number
        self.parent: object = None

    @classmethod
    def of(cls, number: int) -> Order:
        """Another way to make one."""
        return cls(number)


class Zone(tzinfo):
    """An importable time zone."""


class Slotted:
    """An importable class with slots."""

    __slots__ = ("a", "b")


@pytest.fixture(scope="module")
def looked_up() -> list[object]:
    """Names that unpickling has looked up and modules imported by it."""
    names: list[object] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("pickle.find_class", "os.system", "exec", "compile"):
            names.append((event, arguments))

    sys.addaudithook(hook)
    return names


@given(plain)
def test_plain_data_is_shown_as_it_is(value: object) -> None:
    """Equal and of the same type, dates, decimals and UUIDs included."""
    shown = CODEC.preview(CODEC.encode(value))
    assert shown == value
    assert type(shown) is type(value)


@given(plain, st.integers(0, 5))
def test_pickles_of_every_protocol_are_shown(value: object, protocol: int) -> None:
    """The old opcodes too: whatever the bytes, a preview comes out."""
    payload = pickle.dumps(value, protocol)
    shown = CODEC.preview(b"\x80" + payload[1:] if payload[:1] == b"\x80" else payload)
    repr(shown)


@given(st.binary(max_size=60), st.sampled_from([b"\x80\x05", b"c\x00", b"j", b"x\x01a", b""]))
def test_random_bytes_never_raise(body: bytes, head: bytes) -> None:
    """Damaged payloads are named as such."""
    repr(CODEC.preview(head + body))


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=timezone(timedelta(hours=-3))),
        date(1, 1, 1),
        time(23, 59, 59, 999_999, tzinfo=UTC),
        bytearray(b"abc"),
        1 + 2j,
        uuid.UUID(int=2**128 - 1),
        Decimal("-Infinity"),
    ],
)
def test_known_values_are_shown_as_they_are(value: object) -> None:
    """They are built from checked parts by us, not by their pickle."""
    assert CODEC.preview(CODEC.encode(value)) == value


def _order() -> Order:
    order = Order(7)
    order.parent = Order
    return order


def _slotted() -> Slotted:
    slotted = Slotted()
    slotted.a, slotted.b = 1, [2]
    return slotted


NAME = Order.__module__


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (_order(), f"{NAME}.Order(number=7, parent=<{NAME}.Order>)"),
        (_slotted(), f"{NAME}.Slotted(a=1, b=[2])"),
        (len, "<len>"),
        (range(3), "range(0, 3, 1)"),
        (ValueError("no", 1), "ValueError('no', 1)"),
        (deque([1, 2]), "collections.deque([1, 2])"),
        (OrderedDict(a=1), "collections.OrderedDict({'a': 1})"),
        (Order.of, f"<{NAME}.Order.of>"),
        (
            datetime(2024, 1, 1, tzinfo=Zone()),
            f"datetime.datetime('2024-01-01T00:00:00', {NAME}.Zone())",
        ),
        ({1, _order}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_objects_are_shown_as_calls(value: object, text: str | None) -> None:
    """Name, arguments, attributes and items, without building the object."""
    made = len(LOG)
    shown = repr(CODEC.preview(CODEC.encode(value)))
    assert text is None or shown == text
    assert len(LOG) == made


def test_code_is_shown_as_code() -> None:
    """Nobody wants to read bytecode, and it belongs to whichever Python wrote it."""
    payload = CODEC.encode({"f": lambda: 1, "x": 2})
    assert repr(CODEC.preview(payload)) == "{'f': <code recorded by cloudpickle>, 'x': 2}"
    foreign = payload.replace(b"cpython 3.", b"cpython 9.", 1)
    assert repr(CODEC.preview(foreign)) == repr(CODEC.preview(payload))


class _Call:
    """A pickle that calls `function(*arguments)` when it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def _gadgets(canary: Path) -> list[bytes]:
    command = f"touch {canary}"
    return [
        pickle.dumps(_Call(os.system, command)),
        pickle.dumps([{"deep": (_Call(os.system, command),)}]),
        pickle.dumps(_Call(eval, f"__import__('os').system({command!r})")),
        pickle.dumps(_Call(getattr, _Call(__import__, "os"), "system")),
        pickle.dumps({_Call(os.system, command): 1}),
        f"cos\nsystem\n(S'{command}'\ntR.".encode(),
        f"(S'{command}'\nios\nsystem\n.".encode(),
        f"(cos\nsystem\nS'{command}'\no.".encode(),
        b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touchb.",
        b"\x80\x04cno_such_module\nX\n)\x81.",
        b"Pos.system\n.",
        b"\x80\x02\x82\x2a)R.",
    ]


def test_no_gadget_runs_and_no_name_is_looked_up(tmp_path: Path, looked_up: list[object]) -> None:
    """`os.system`, `eval`, `__import__`, missing modules, persistent ids: all stay text."""
    canary = tmp_path / "canary"
    payloads = _gadgets(canary)
    modules = set(sys.modules)
    CODEC.preview(CODEC.encode([1]))  # whatever the reader itself imports, it has now
    looked_up.clear()
    for payload in payloads:
        head = b"" if payload[:1] == b"\x80" else b"\x80\x00"
        repr(CODEC.preview(head + payload))
        repr(CODEC.preview(b"c\x01?" + payload))
    assert looked_up == []
    assert not canary.exists()
    assert "no_such_module" not in set(sys.modules) - modules


def test_the_gadgets_are_sharp(tmp_path: Path, looked_up: list[object]) -> None:
    """The same payload does run when it is really loaded: the test above tests something."""
    canary = tmp_path / "canary"
    looked_up.clear()
    pickle.loads(_gadgets(canary)[0])
    assert canary.exists()
    assert looked_up != []


def test_an_extension_code_is_not_resolved() -> None:
    """Not even one that this process has registered and used before."""
    copyreg.add_extension(NAME, "Order", 4242)
    try:
        payload = pickle.dumps(Order, protocol=2)
        assert pickle.loads(payload) is Order  # now in pickle's cache of extensions
        assert "4242" in repr(CODEC.preview(payload))
    finally:
        copyreg.remove_extension(NAME, "Order", 4242)


def test_a_sealed_payload_is_shown_with_its_transform_only() -> None:
    """Without the key: which transform, and how large."""

    class Backwards:
        tag = "backwards"

        def encode(self, data: bytes) -> bytes:
            return data[::-1]

        def decode(self, data: bytes) -> bytes:
            return data[::-1]

    sealed = Codec(transform=Backwards()).encode({"a": 1})
    assert Codec(transform=Backwards()).preview(sealed) == {"a": 1}
    assert repr(CODEC.preview(sealed)).startswith("<sealed by transform 'backwards'")


def test_json_is_shown_by_either_codec() -> None:
    """Bounded like pickles."""
    payload = Codec(format="json").encode({"a": [1, None, "x" * 10_000]})
    shown = CODEC.preview(payload)
    assert shown == Codec(format="json").preview(payload)
    assert len(repr(shown)) < 5_000
    assert repr(CODEC.preview(b"j" + b"[" * 100_000)) == "<unreadable payload, 100001 bytes>"


# --- bounds ---------------------------------------------------------------------------


def _doubled() -> object:
    value: object = "lol"
    for _ in range(60):
        value = (value, value)
    return value


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps(_doubled(), 5),
        pickle.dumps(_doubled(), 5)[:-1] + b"\x85\x91.",
        b"\x80\x05(" + pickle.dumps(_doubled(), 5)[2:-1] + b"\x91.",
        pickle.dumps(list(range(100_000)), 5),
        pickle.dumps("x" * 900_000, 5),
        pickle.dumps(b"x" * 30_000_000, 5),
        pickle.dumps([2**100_000] * 10, 5),
        b"\x80\x05Nr\xff\xff\xff\xff.",
        b"\x80\x05" + b"(" * 200_000 + b".",
        b"\x80\x05]\x94" + b"h\x00a" * 10_000 + b".",
    ],
    ids=["doubled", "bad", "in a set", "many", "text", "bytes", "ints", "memo", "marks", "cycle"],
)
def test_work_and_size_are_bounded(payload: bytes) -> None:
    """A billion laughs, a huge memo index, a cycle: a short text, soon."""
    assert len(repr(CODEC.preview(payload))) < 200_000


def test_what_was_left_out_is_said() -> None:
    """Cut text, cut lists, deep nesting and large numbers say so."""
    deep: list[object] = []
    for _ in range(50):
        deep = [deep]
    shown = CODEC.preview(CODEC.encode(["x" * 5000, b"y" * 5000, 1 << 5000, deep]))
    text = repr(shown)
    for hint in ("904 more characters", "bytes of 5,000 bytes", "int of 5,001 bits", "<...>"):
        assert hint in text
    many = CODEC.preview(CODEC.encode([0] * 20_000))
    assert isinstance(many, list)
    assert repr(many[-1]) == "<... 15001 more>"


@pytest.mark.parametrize(
    "payload",
    [b"j[" + b"[1]," * 200_000 + b"1]", b"\x80\x05(" + b"K\x01" * 200_000 + b"l."],
    ids=["json", "pickle"],
)
def test_a_preview_does_not_look_at_all_of_a_large_payload(payload: bytes) -> None:
    """Most of it will not be shown; a page of a listing previews many payloads."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        shown = CODEC.preview(payload)
    finally:
        sys.setprofile(None)
    assert calls < 700_000
    assert len(repr(shown)) < 100_000


def test_a_stand_in_tells_its_parts() -> None:
    """So that a program can show them in its own way."""
    shown = CODEC.preview(CODEC.encode(FatalError("no")))
    assert isinstance(shown, StandIn)
    assert (shown.name, shown.called) == ("durable.errors.FatalError", True)
    assert repr(shown.args) == "('no',)"
