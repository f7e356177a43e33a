"""What the codec refuses to store: the path to the culprit, the cause, the cure."""

from __future__ import annotations

import enum
import functools
import io
import logging
import socket
import sqlite3
import sys
import threading
import weakref
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from durable._journal.codec import Codec
from durable.errors import PayloadTooLargeError, SerializationError

CODEC = Codec()
JSON = Codec(format="json")

Point = namedtuple("Point", "x y")  # noqa: PYI024  # one of the types under test


class Colour(enum.Enum):
    """An importable enum."""

    RED = 1


@dataclass
class Order:
    """An importable dataclass."""

    number: int
    lines: list[str]
    conn: object = None


async def _coroutine() -> None:
    """Never awaited, so closed by the test."""


def _unstorable() -> dict[str, object]:
    return {
        "lock": threading.Lock(),
        "socket": socket.socket(),
        "connection": sqlite3.connect(":memory:"),
        "generator": (n for n in ()),
        "coroutine": _coroutine(),
        "text file": open(__file__, encoding="utf-8"),
        "binary file": open(__file__, "rb"),
        "text buffer": io.TextIOWrapper(io.BytesIO(b"secret")),
        "memoryview": memoryview(b"x"),
        "weakref": weakref.ref(Order),
        "frame": sys._getframe(),
        "local": threading.local(),
    }


LIVE = (
    "lock, socket, connection, generator, coroutine, text file, binary file, text buffer, "
    "memoryview, weakref, frame, local"
)


@pytest.mark.parametrize("name", LIVE.split(", "))
@pytest.mark.parametrize("codec", [CODEC, JSON], ids=["pickle", "json"])
def test_live_objects_are_refused_with_path_and_type(name: str, codec: Codec) -> None:
    """Also open files, whose contents cloudpickle would store without a word."""
    zoo = _unstorable()
    try:
        with pytest.raises(SerializationError) as caught:
            codec.encode_call((1, {"a": [0, zoo[name]]}), {})
    finally:
        for value in zoo.values():
            closing = getattr(value, "close", None)
            if callable(closing):
                closing()
    assert caught.value.path == 'args[1]["a"][1]'
    assert type(zoo[name]).__name__ in str(caught.value)


def test_the_path_leads_into_the_live_object_where_it_can() -> None:
    """A thread is refused for the lock in it."""
    with pytest.raises(SerializationError) as caught:
        CODEC.encode_call((threading.Thread(),), {})
    assert caught.value.path.startswith("args[0]._")


LOCK = threading.Lock()


def _closure_over(value: object) -> Callable[[], object]:
    return lambda: value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "value"),
        ([0, (1, LOCK)], "value[1][1]"),
        ({"conn": LOCK}, 'value["conn"]'),
        ({7: {"a b": LOCK}}, 'value[7]["a b"]'),
        pytest.param({LOCK: 1}, f"value (key {LOCK!r})", id="-key"),  # the repr is an address
        (Order(1, [], conn=LOCK), "value.conn"),
        (SimpleNamespace(deep=[LOCK]), "value.deep[0]"),
        (deque([1, LOCK]), "value[1]"),
        (functools.partial(len, LOCK), "value.args[0]"),
        (ValueError("x", LOCK), "value.args[1]"),
        (LOCK.acquire, "value.__self__"),
        (_closure_over([LOCK]), "value (closure variable value)[0]"),
        ([lambda: 1, LOCK], "value[1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_path_leads_to_the_culprit(value: object, path: str) -> None:
    """Through containers, attributes, partials, exceptions, methods and closures."""
    with pytest.raises(SerializationError) as caught:
        CODEC.encode(value)
    error = caught.value
    repr_of_lock = path.startswith("value (key")
    assert error.path == path or (repr_of_lock and error.path.startswith("value (key <"))
    assert str(error).startswith(f"{error.path} cannot be stored: it is a ")
    assert "inside the step" in str(error)


def test_the_path_survives_a_value_that_fights_the_search() -> None:
    """A part whose own code raises is where the search ends."""

    class Hostile:
        def __reduce_ex__(self, protocol: object) -> str:
            raise RuntimeError("no")

        def __getstate__(self) -> object:
            raise RuntimeError("no state either")

        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    with pytest.raises(SerializationError) as caught:
        CODEC.encode({"x": Hostile()})
    assert caught.value.path == 'value["x"]'


def test_keyword_arguments_are_named() -> None:
    """As the caller wrote them."""
    with pytest.raises(SerializationError) as caught:
        CODEC.encode_call((), {"db": {"conn": LOCK}})
    assert caught.value.path == 'kwargs["db"]["conn"]'


def test_a_cyclic_value_with_a_culprit_is_searched_once() -> None:
    """The search ends."""
    value: list[object] = [LOCK]
    value.insert(0, value)
    with pytest.raises(SerializationError) as caught:
        CODEC.encode(value)
    assert caught.value.path == "value[1]"


@pytest.mark.parametrize("codec", [CODEC, JSON], ids=["pickle", "json"])
def test_a_value_nested_too_deeply_is_refused_as_such(codec: Codec) -> None:
    """Named by the argument, with the depth as the cause; the interpreter lives."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="nested too deeply") as caught:
        codec.encode_call((1, deep), {})
    assert caught.value.path.startswith("args")
    while deep:  # taken apart level by level: freeing it at once would nest as deep
        deep = deep.pop()  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "path", "what"),
    [
        ((1, 2), "value", "tuple"),
        ([{"a": {1, 2}}], 'value[0]["a"]', "set"),
        ({"n": float("nan")}, 'value["n"]', "nan"),
        ({1: 2}, "value", "int key 1"),
        ({None: 2}, "value", "NoneType key None"),
        ([b""], "value[0]", "bytes"),
        ([Colour.RED], "value[0]", "Colour"),
        ([Point(1, 2)], "value[0]", "Point"),
        (OrderedDict(), "value", "OrderedDict"),
        (10**5000, "value", "int"),
        (datetime(2024, 1, 1, tzinfo=UTC), "value", "datetime"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_json_refuses_what_it_would_change(value: object, path: str, what: str) -> None:
    """A tuple must not come back as a list; the path and the type are named."""
    with pytest.raises(SerializationError, match="JSON") as caught:
        JSON.encode(value)
    assert caught.value.path == path
    assert what in str(caught.value)


def test_json_refuses_a_value_that_contains_itself() -> None:
    """With the cause, not with a `ValueError` of json."""
    value: list[object] = []
    value.append(value)
    with pytest.raises(SerializationError, match="contains itself"):
        JSON.encode(value)


def test_large_payloads_are_warned_about_once_and_refused_at_the_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The argument that weighs most is named."""
    codec = Codec(warn_bytes=1000, max_bytes=5000)
    with caplog.at_level(logging.WARNING, "durable"):
        codec.encode(b"x" * 900)
        assert caplog.records == []
        codec.encode_call((1, b"x" * 2000), {})
        codec.encode(b"x" * 2000)
    (record,) = caplog.records
    assert record.name == "durable"
    assert "args[1] takes 2,0" in record.getMessage()
    with pytest.raises(PayloadTooLargeError, match="5,000") as caught:
        codec.encode_call((1,), {"blob": b"x" * 6000, "y": 2})
    assert caught.value.path == 'kwargs["blob"]'
    assert isinstance(caught.value, SerializationError)


def test_the_default_limits_are_256_kb_and_16_mb(caplog: pytest.LogCaptureFixture) -> None:
    """Below: silence. Between: a warning. Above: refused."""
    codec = Codec()
    codec.encode(bytes(255 * 1024))
    assert caplog.records == []
    codec.encode(bytes(257 * 1024))
    assert len(caplog.records) == 1
    with pytest.raises(PayloadTooLargeError):
        codec.encode(bytes(17 * 1024 * 1024))
