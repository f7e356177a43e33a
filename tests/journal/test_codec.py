"""The codec: what comes back, what is never loaded, and transforms."""

from __future__ import annotations

import dataclasses
import enum
import functools
import pickle
import subprocess
import sys
import uuid
import zlib
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable._journal.codec import Codec
from durable.errors import PayloadDecodeError, SerializationError

ROOT = Path(__file__).resolve().parents[2]
CODEC = Codec()
JSON = Codec(format="json")

Point = namedtuple("Point", "x y")  # noqa: PYI024  # one of the types under test


class Colour(enum.Enum):
    """An importable enum."""

    RED = 1


@dataclasses.dataclass
class Order:
    """An importable dataclass."""

    number: int
    lines: list[str]
    conn: object = None


class Picky:
    """Pickles, but its state cannot be set again."""

    def __init__(self) -> None:
        self.x = 1

    def __setstate__(self, state: object) -> None:
        raise SystemExit("never let this out")


# --- what comes back ------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
hashable = st.recursive(
    scalars | st.binary() | st.datetimes(timezones=st.none() | st.just(UTC)) | st.uuids(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
plain = st.recursive(
    hashable | st.decimals(allow_nan=False) | st.timedeltas() | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(hashable, max_size=4)
    ),
    max_leaves=12,
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_plain_data_comes_back_equal_and_of_the_same_type(value: object) -> None:
    """Nested containers, dates, numbers, bytes."""
    back = CODEC.decode(CODEC.encode(value))
    assert back == value
    assert type(back) is type(value)


@given(json_values)
def test_json_values_come_back_equal(value: object) -> None:
    """Also lone surrogates and huge integers; repr tells 1 from 1.0 and True."""
    assert repr(JSON.decode(JSON.encode(value))) == repr(value)


@given(st.lists(plain, max_size=3), st.dictionaries(st.text(), plain, max_size=3))
def test_the_arguments_of_a_call_come_back(args: list[object], kwargs: dict[str, object]) -> None:
    """As a tuple and a dict."""
    call = (tuple(args), kwargs)
    assert CODEC.decode_call(CODEC.encode_call(*call)) == call


def test_the_arguments_of_a_call_come_back_from_json() -> None:
    """The tuple of positional arguments is the call's own, so it needs no tuple in JSON."""
    call = ((1, [2]), {"x": None})
    assert JSON.decode_call(JSON.encode_call(*call)) == call


@pytest.mark.parametrize("payload", [CODEC.encode(None), CODEC.encode([1]), CODEC.encode((1, 2))])
def test_a_payload_without_a_call_is_refused_as_a_call(payload: bytes) -> None:
    """Instead of a `TypeError` somewhere later."""
    with pytest.raises(PayloadDecodeError, match="not a call"):
        CODEC.decode_call(payload)


KEPT = [
    None,
    True,
    -0.0,
    10**4000,
    "\ud800",
    b"\x00",
    bytearray(b"x"),
    range(3),
    slice(1, 2),
    Ellipsis,
    NotImplemented,
    int,
    Order,
    len,
    Order(1, ["a"]),
    Colour.RED,
    Point(1, 2),
    OrderedDict(a=1),
    defaultdict(list, a=[1]),
    deque([1], maxlen=2),
    Decimal("1.10"),
    Fraction(1, 3),
    uuid.UUID(int=7),
    PurePosixPath("/tmp/x"),
    datetime(2024, 1, 1, tzinfo=UTC),
    timedelta(days=-1),
    functools.partial(int, "7"),
    SimpleNamespace(a=1),
]


@pytest.mark.parametrize("value", KEPT, ids=lambda value: type(value).__name__)
def test_importable_types_are_kept_by_reference(value: object) -> None:
    """Equal, of the same type, and without any code in the payload."""
    payload = CODEC.encode(value)
    back = CODEC.decode(payload)
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    assert payload[:1] in (b"\x80", b"N")


def _local_class() -> object:
    class Local:
        x = 7

    return Local()


def _closure() -> Callable[[int], int]:
    base = 40
    return lambda more: base + more


def test_lambdas_closures_and_local_classes_go_with_their_code() -> None:
    """The payload is marked, and stamped with Python and cloudpickle versions."""
    payload = CODEC.encode(_closure())
    stamp = f"cpython {sys.version_info[0]}.{sys.version_info[1]} cloudpickle 3."
    assert payload[:1] == b"c"
    assert stamp.encode() in payload[:60]
    add = CODEC.decode(payload)
    assert callable(add)
    assert add(2) == 42
    assert CODEC.decode(CODEC.encode(_local_class())).x == 7  # type: ignore[attr-defined]


def test_shared_and_cyclic_structure_is_kept() -> None:
    """One object in two places stays one object."""
    shared: list[object] = []
    shared.append(shared)
    first, second = CODEC.decode(CODEC.encode((shared, shared)))  # type: ignore[misc]
    assert first is second is first[0]


MAIN_PROGRAM = """
import sys
from durable._journal.codec import Codec
from durable._journal.failure import encode_failure, decode_failure

class Order:
    def __init__(self, n): self.n = n
class Declined(Exception):
    pass
def price(order): return order.n * 2

codec = Codec()
if sys.argv[1] == "write":
    payload = codec.encode(Order(21))
    mixed = codec.encode([Order(4), lambda order: price(order), Order])
    failure = encode_failure(Declined("no"), codec)
    assert payload[:1] == b"\\x80" and mixed[:1] == b"c"
    print(payload.hex(), mixed.hex(), failure.hex())
else:
    payload, mixed, failure = map(bytes.fromhex, sys.argv[2:])
    assert type(codec.decode(payload)) is Order and price(codec.decode(payload)) == 42
    order, function, cls = codec.decode(mixed)
    assert type(order) is cls is Order and function(order) == 8
    assert type(decode_failure(failure, codec).rebuild()) is Declined
    print("same classes")
"""


def test_classes_of_main_are_found_again_when_the_script_runs_again(tmp_path: Path) -> None:
    """They go by reference, also beside a lambda: `isinstance` and `except` hold."""
    script = tmp_path / "program.py"
    script.write_text(MAIN_PROGRAM)

    def run(*arguments: str) -> str:
        command = [sys.executable, str(script), *arguments]
        environment = {"PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert run("read", *run("write").split()) == "same classes\n"


# --- what is never loaded ---------------------------------------------------------------


@pytest.fixture(scope="module")
def looked_up() -> list[object]:
    """The names that unpickling has looked up; audit hooks stay for the process's life."""
    names: list[object] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "pickle.find_class":
            names.append(arguments)

    sys.addaudithook(hook)
    return names


@pytest.mark.parametrize(
    "stamp", ["cpython 3.99 cloudpickle 3.1.2", "pypy 3.11 cloudpickle 3.1.2", "", "\x00"]
)
def test_code_of_another_python_is_refused_before_anything_is_loaded(
    stamp: str, looked_up: list[object]
) -> None:
    """Foreign bytecode kills the interpreter, so nothing of it may be touched."""
    head, body = CODEC.encode(_closure()), b""
    body = head[2 + head[1] :]
    looked_up.clear()
    with pytest.raises(PayloadDecodeError, match="never loaded"):
        CODEC.decode(b"c" + bytes([len(stamp)]) + stamp.encode() + body)
    assert looked_up == []


def test_code_of_another_cloudpickle_is_refused() -> None:
    """Its helpers may have changed; a patch release is let through."""
    payload = CODEC.encode(_closure())
    start = payload.index(b"cloudpickle 3.")
    assert len(payload) > start
    forged = payload.replace(b"cloudpickle 3.", b"cloudpickle 9.", 1)
    with pytest.raises(PayloadDecodeError, match=r"cloudpickle 9\..*this is cloudpickle 3"):
        CODEC.decode(forged)


class Smuggler:
    """Pickles itself through cloudpickle, as some libraries' objects do."""

    def __reduce__(self) -> tuple[object, ...]:
        import cloudpickle

        return pickle.loads, (cloudpickle.dumps(_closure()),)


def test_code_inside_a_plain_pickle_is_stamped_too() -> None:
    """An object may bring code along although plain pickle accepts it."""
    assert CODEC.encode(Smuggler())[:1] == b"c"
    assert CODEC.encode("about cloudpickle")[:1] == b"\x80"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"?",
        b"\x80",
        b"\x80\x05garbage",
        b"c",
        b"c\xff",
        b"c\x05cpyth",
        b"x\x03aes...",
        b"j{",
        b"j\xff",
        b"\x80\x05\x8c\x07no_such\x94\x8c\x01X\x94\x93\x94.",
        CODEC.encode(Picky()),
    ],
)
def test_whatever_goes_wrong_in_decoding_is_one_error(payload: bytes) -> None:
    """Missing modules, cut bytes, foreign tags, a `SystemExit` in somebody's setstate."""
    with pytest.raises(PayloadDecodeError):
        CODEC.decode(payload)


@given(st.binary(max_size=40), st.sampled_from([b"", b"c", b"x", b"j", b"N"]))
def test_random_bytes_are_refused_or_decoded(body: bytes, tag: bytes) -> None:
    """No other exception gets out. (Pickles are left out: random ones may mean anything.)"""
    if (tag + body)[:1] == b"\x80":
        return
    try:
        CODEC.decode(tag + body)
    except PayloadDecodeError:
        pass


def test_a_missing_class_is_named_with_the_cure() -> None:
    """The message tells what to restore."""
    payload = CODEC.encode(Order(1, [])).replace(b"Order", b"Odder")
    with pytest.raises(PayloadDecodeError, match=r"Odder.*alias under its old name"):
        CODEC.decode(payload)


def test_class_of_another_program_is_told_from_one_that_was_renamed() -> None:
    """A class of `__main__` is gone whenever another program opens the journal."""
    with pytest.raises(PayloadDecodeError, match=r"Vanished.*program that was started then"):
        CODEC.decode(pickle.GLOBAL.join([b"\x80\x05", b"__main__\nVanished\n."]))


def test_a_json_codec_never_unpickles(looked_up: list[object]) -> None:
    """Whoever chose JSON for safety keeps it, also when a row was forged."""
    looked_up.clear()
    for payload in (CODEC.encode(Order(1, [])), CODEC.encode(_closure())):
        with pytest.raises(PayloadDecodeError, match="never unpickles"):
            JSON.decode(payload)
    assert looked_up == []
    assert CODEC.decode(JSON.encode({"a": 1})) == {"a": 1}


# --- transforms -----------------------------------------------------------------------


class Squeeze:
    """Compression as a transform."""

    tag = "zlib"

    def encode(self, data: bytes) -> bytes:
        return zlib.compress(data)

    def decode(self, data: bytes) -> bytes:
        return zlib.decompress(data)


class Broken(Squeeze):
    """Same tag, other key: it fails both ways."""

    def encode(self, data: bytes) -> bytes:
        raise OSError("no key")

    def decode(self, data: bytes) -> bytes:
        raise OSError("no key")


@given(plain)
def test_a_transform_is_undone(value: object) -> None:
    """For every kind of payload, None included."""
    codec = Codec(transform=Squeeze())
    payload = codec.encode(value)
    assert payload.startswith(b"x\x04zlib")
    assert codec.decode(payload) == value


def test_payloads_older_than_the_transform_remain_readable() -> None:
    """Compression can be switched on in an existing journal."""
    assert Codec(transform=Squeeze()).decode(CODEC.encode([1])) == [1]


def test_nothing_of_a_transformed_payload_is_left_in_the_clear() -> None:
    """Not even which kind of payload it is."""
    assert b"secret" not in Codec(transform=Squeeze()).encode("secret" * 100)


def test_a_missing_or_failing_transform_is_named() -> None:
    """Decoding blocks the run, encoding refuses the value; both say whose fault it is."""
    payload = Codec(transform=Squeeze()).encode(1)
    with pytest.raises(PayloadDecodeError, match="transformed by 'zlib', this codec has none"):
        CODEC.decode(payload)
    with pytest.raises(PayloadDecodeError, match="'zlib' failed"):
        Codec(transform=Broken()).decode(payload)
    with pytest.raises(SerializationError, match="'zlib' failed"):
        Codec(transform=Broken()).encode(1)


def test_options_out_of_range_are_refused() -> None:
    """At the construction of the codec."""
    for options in ({"format": "yaml"}, {"max_bytes": 10}):
        with pytest.raises(ValueError, match=r"use|small"):
            Codec(**options)  # type: ignore[arg-type]
    bad = Squeeze()
    bad.tag = "x" * 33
    with pytest.raises(ValueError, match="tag"):
        Codec(transform=bad)


@pytest.mark.parametrize("size", [0, 1, 3, 250, 59_980, 60_020, 65_500, 65_600, 200_000])
def test_payload_is_the_pickle_without_the_frame_of_a_short_one(size: int) -> None:
    """Frames help readers of files: 9 bytes of each small value would be nothing else."""
    for value in ("x" * size, ["x"] * size, {"a": b"y" * size, "b": (size,)}):
        payload = Codec().encode(value)
        assert Codec().decode(payload) == value
        whole = pickle.dumps(value, 5)
        assert len(payload) == len(whole) - (
            9 if whole[2:3] == b"\x95" and len(whole) < 60_000 else 0
        )


# --- exceptions inside values -------------------------------------------------------------


class OutOfStockError(Exception):
    """Its text, made once more of itself, would be another one."""

    def __init__(self, item: str, left: int = 0) -> None:
        super().__init__(f"only {left} {item}s left")
        self.left = left


class RefusedError(Exception):
    """Cannot be made of its message at all."""

    def __init__(self, *, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class UnreachableError(ConnectionError):
    """An `OSError` by descent, which has another way of pickling."""

    def __init__(self, *, host: str) -> None:
        super().__init__(f"no way to {host}")
        self.host = host


def _local_error() -> Exception:
    class LocalError(RefusedError):
        pass

    return LocalError(status=404)


@pytest.mark.parametrize(
    "error",
    [
        OutOfStockError("lamp"),
        RefusedError(status=503),
        UnreachableError(host="b.example"),
        _local_error(),
        KeyError("a", 1),
    ],
    ids=repr,
)
def test_exception_inside_a_value_comes_back_whatever_its_init_wants(error: Exception) -> None:
    """Type, text, arguments and attributes are those that were stored."""
    error.add_note("seen")
    back: Any = CODEC.decode(CODEC.encode({"results": [1, error, ExceptionGroup("all", [error])]}))
    one, group = back["results"][1], back["results"][2]
    for each in (one, group.exceptions[0]):
        assert type(each).__qualname__ == type(error).__qualname__
        assert (str(each), each.args, vars(each)) == (str(error), error.args, vars(error))


def test_values_with_classes_but_no_odd_exceptions_are_stored_as_pickle_has_them() -> None:
    """The second look at a value changes nothing of it."""
    value = [Order(1, ["a" * 70_000]), Colour.RED, ValueError("x"), OSError(2, "no", "file")]
    assert CODEC.encode(value) == pickle.dumps(value, 5)
