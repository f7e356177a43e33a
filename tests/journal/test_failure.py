"""Recorded exceptions: the original where it is sound, its texts always."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable._journal.codec import Codec
from durable._journal.failure import Failure, decode_failure, encode_failure
from durable.errors import (
    FatalError,
    PayloadDecodeError,
    RemoteError,
    RetryableError,
    StepFailedError,
)

CODEC = Codec()


def recorded(exc: BaseException, codec: Codec = CODEC) -> Failure:
    """`exc` through the journal and back."""
    return decode_failure(encode_failure(exc, codec), codec)


def raised(exc: BaseException, cause: BaseException | None = None) -> BaseException:
    """`exc` with a traceback through this function."""
    try:
        raise exc from cause
    except BaseException as error:
        return error


# --- exceptions that are sound ----------------------------------------------------------


class DeclinedError(Exception):
    """An importable exception with a state of its own."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 0


class Opaque:
    """Compares by identity, so a copy never equals it."""


class TwoArgumentsError(Exception):
    """`pickle` cannot load it: `__init__` wants two arguments."""

    def __init__(self, a: str, b: str) -> None:
        super().__init__(f"{a}{b}")
        self.parts = [a, b]


class KeywordOnlyError(Exception):
    """`pickle` cannot load it either, and one of its attributes cannot be pickled."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.lock = threading.Lock()


class WrapsError(Exception):
    """`pickle` loads it as "wrapped: wrapped: x"."""

    def __init__(self, message: str) -> None:
        super().__init__(f"wrapped: {message}")


SOUND = [
    ValueError("no"),
    TwoArgumentsError("a", "b"),
    KeywordOnlyError(code=3),
    WrapsError("x"),
    KeyError("k"),
    OSError(2, "No such file", "x"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    StopIteration(3),
    ValueError(float("nan")),
    ValueError(Opaque()),
    AssertionError(),
    FatalError("stop"),
    RetryableError("later", retry_after="1m"),
    StepFailedError("charge", 3, "m.E", "no", "tb"),
    ValueError("\ud800"),
]


@pytest.mark.parametrize("exc", SOUND, ids=lambda exc: type(exc).__name__)
def test_a_sound_exception_is_rebuilt(exc: Exception) -> None:
    """Same type and text; what it was is also there as text."""
    failure = recorded(raised(exc))
    back = failure.rebuild()
    assert type(back) is type(exc)
    assert back is not exc
    assert len(back.args) == len(exc.args)
    assert failure.message == str(exc) or isinstance(exc.args[0], Opaque)
    assert getattr(back, "parts", None) == getattr(exc, "parts", None)
    assert failure.error_type == f"{type(exc).__module__}.{type(exc).__qualname__}"


def test_attributes_notes_and_traceback_come_along() -> None:
    """Notes first, then one that shows where it happened."""
    exc = DeclinedError("no funds")
    exc.code = 51
    exc.add_note("card 4711")
    failure = recorded(raised(exc))
    back = failure.rebuild()
    assert isinstance(back, DeclinedError)
    assert back.code == 51
    assert failure.notes == ("card 4711",)
    first, last = back.__notes__
    assert first == "card 4711"
    assert last.startswith("Recorded traceback:")
    assert "in raised" in last
    assert "raise exc from cause" in failure.traceback_text
    assert back.durable_traceback == failure.traceback_text  # type: ignore[attr-defined]


def test_causes_are_rebuilt_or_stood_in_for() -> None:
    """pickle forgets `__cause__`; the envelope does not."""
    failure = recorded(raised(ValueError("outer"), raised(BadReduceError("a"), KeyError("k"))))
    back = failure.rebuild()
    assert isinstance(back, ValueError)
    middle = back.__cause__
    assert isinstance(middle, RemoteError)
    assert middle.error_type.endswith(".BadReduceError")
    assert isinstance(middle.__cause__, KeyError)
    assert "direct cause" in failure.traceback_text


def test_a_rebuilt_exception_recorded_again_does_not_pile_up_tracebacks() -> None:
    """A body that lets a step's exception through: its text holds the step's once."""
    exc: BaseException | None = raised(ValueError("x"))
    for _ in range(3):
        assert exc is not None
        exc = recorded(raised(exc)).rebuild()
    assert exc is not None
    (note,) = exc.__notes__
    assert note.startswith("Recorded traceback:")
    assert len(note) < 5000


def test_each_rebuild_gives_a_new_exception() -> None:
    """Two waiters that raise the same failure must not share a traceback."""
    failure = recorded(ValueError("x"))
    assert failure.rebuild() is not failure.rebuild()


def test_our_own_frames_are_left_out_of_the_traceback() -> None:
    """Readers see their code first."""

    def of_user() -> None:
        raise ValueError("x")

    try:
        contextlib.ExitStack().callback(of_user)
        of_user()
    except ValueError as error:
        text = recorded(error).traceback_text
    assert "of_user" in text
    assert "durable/_journal" not in text


# --- exceptions that are not ------------------------------------------------------------


class BadReduceError(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> str:
        raise RuntimeError("no pickle")


class BadStrError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class BadReprError(Exception):
    """Has no repr."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class ExitsOnLoadError(Exception):
    """Would end the process when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return _exit, ()


class OtherOnLoadError(Exception):
    """Loads as no exception at all."""

    def __reduce__(self) -> tuple[object, ...]:
        return dict, ()


class BadPropertiesError(Exception):
    """Even its cause and notes raise."""

    @property
    def __notes__(self) -> list[str]:
        raise RuntimeError("no notes")

    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise RuntimeError("no cause")


def _exit() -> None:
    raise SystemExit(3)


def _local_class() -> Exception:
    class LocalError(Exception):
        pass

    return LocalError("x")


def _holding_a_lambda() -> Exception:
    return ValueError(lambda: 1)


UNSOUND: list[Callable[[], BaseException]] = [
    lambda: BadReduceError("x"),
    lambda: BadStrError("x"),
    lambda: ExitsOnLoadError("x"),
    lambda: OtherOnLoadError("x"),
    lambda: BadPropertiesError("x"),
    _local_class,
    _holding_a_lambda,
]


@pytest.mark.parametrize("make", UNSOUND, ids=lambda make: type(make()).__name__)
def test_an_unsound_exception_is_recorded_and_not_rebuilt(make: Callable[[], Exception]) -> None:
    """The run that recorded it goes on with the texts; a local class never matches `except`."""
    exc = make()
    failure = recorded(raised(exc) if type(exc) is not BadPropertiesError else exc)
    assert failure.rebuild() is None
    assert failure.pickled is None
    assert failure.error_type.endswith(type(exc).__qualname__)
    remote = failure.remote()
    assert remote.error_type == failure.error_type
    assert remote.error_message == failure.message
    shown = f"Recorded traceback:\n{failure.traceback_text.rstrip()}"
    assert remote.__notes__[-1:] == ([shown] if failure.traceback_text else [])


class ConnectionLostError(FatalError):
    """One of ours, with attributes of its own."""


@pytest.mark.parametrize("kind", [ValueError, DeclinedError, ConnectionLostError, OSError])
def test_attributes_that_cannot_be_kept_do_not_cost_the_type(kind: type[Any]) -> None:
    """What can be kept is, so that `except` matches as it did in the step."""
    exc = kind("lost")
    exc.lock, exc.late, exc.code = threading.Lock(), ExitsOnLoadError("x"), 7
    back = recorded(raised(exc)).rebuild()
    assert type(back) is kind
    assert (str(back), back.code) == ("lost", 7)
    assert not hasattr(back, "lock")
    assert not hasattr(back, "late")


def test_messages_call_builtin_types_by_their_short_names() -> None:
    """The field has the whole name."""
    failure = recorded(_holding_a_lambda())
    assert failure.error_type == "builtins.ValueError"
    assert str(failure.remote()).startswith("ValueError: ")


def test_error_of_a_failed_step_shows_its_traceback() -> None:
    """As a note, when the original exception cannot be rebuilt."""
    error = StepFailedError("charge", 3, "builtins.ValueError", "no", "Traceback ...\n")
    assert str(error) == "step 'charge' failed after 3 attempt(s): ValueError: no"
    assert error.__notes__ == ["Recorded traceback:\nTraceback ..."]


@pytest.mark.parametrize(
    "exc", [asyncio.CancelledError("x"), KeyboardInterrupt(), SystemExit(1), GeneratorExit()]
)
def test_signals_are_recorded_but_never_rebuilt(exc: BaseException) -> None:
    """Raising one in a body would stop more than the body."""
    failure = recorded(raised(exc))
    assert failure.rebuild() is None
    assert failure.error_type.endswith(type(exc).__qualname__)
    forged = Failure("x", "", "", pickled=CODEC.encode(exc))
    assert forged.rebuild() is None


def test_cycles_of_causes_end() -> None:
    """Two exceptions that caused each other, and one that caused itself."""
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    back = recorded(first).rebuild()
    assert back is not None
    assert isinstance(back.__cause__, KeyError)
    assert back.__cause__.__cause__ is None
    alone = ValueError("alone")
    alone.__cause__ = alone
    assert recorded(alone).cause is None


def test_long_chains_and_wide_groups_are_bounded() -> None:
    """A thousand causes or members cost no more than 64 of them."""
    chain: BaseException | None = None
    for number in range(1000):
        chain = raised(ValueError(number), chain)
    assert chain is not None
    assert len(encode_failure(chain, CODEC)) < 200_000
    group = ExceptionGroup("wide", [ValueError(number) for number in range(1000)])
    failure = recorded(group)
    assert len(failure.group) == 64
    assert failure.group[-1].message == "937 more were not recorded"
    assert isinstance(failure.rebuild(), ExceptionGroup)


@pytest.mark.parametrize("limit", [1024, 64 * 1024])
def test_huge_messages_are_cut_in_the_middle(limit: int) -> None:
    """Both ends stay: where it began and what it was."""
    exc = ValueError("A" + "x" * 10_000_000 + "Z")
    exc.add_note("n" * 10_000_000)
    payload = encode_failure(raised(exc), CODEC, limit_text=limit)
    failure = decode_failure(payload, CODEC)
    assert len(payload) < 4 * limit
    assert failure.message[0] + failure.message[-1] == "AZ"
    assert "characters left out" in failure.message
    assert failure.pickled is None


def test_a_small_payload_limit_still_takes_the_texts() -> None:
    """Whatever `max_bytes` is: the outcome of a step must be recordable."""
    codec = Codec(max_bytes=4096)
    members: list[Exception] = [ValueError("é" * 100_000) for _ in range(100)]
    failure = recorded(ExceptionGroup("é" * 100_000, members), codec)
    assert failure.error_type == "builtins.ExceptionGroup"
    assert failure.message.startswith("é")


def test_odd_notes_are_read_as_far_as_they_go() -> None:
    """`__notes__` may be anything."""
    exc = ValueError("x")
    exc.__notes__ = ["ok", 3, BadStrError("x")]  # type: ignore[list-item]
    assert recorded(exc).notes[:2] == ("ok", "3")
    exc.__notes__ = 7  # type: ignore[assignment]
    assert recorded(exc).notes == ()


def test_an_exception_without_repr_is_rebuilt_all_the_same() -> None:
    """Only what the journal needs is asked of it."""
    assert type(recorded(raised(BadReprError("x"))).rebuild()) is BadReprError


# --- groups -----------------------------------------------------------------------------


class Batch(ExceptionGroup[Exception]):
    """An importable group type."""


def test_a_group_is_rebuilt_member_by_member() -> None:
    """A member that cannot be rebuilt costs neither the group nor its siblings."""
    members = [ValueError("a"), BadReduceError("b"), ExceptionGroup("in", [KeyError("d")])]
    members[0].add_note("note of a")
    members[0].__cause__ = OSError("why")
    back = recorded(raised(ExceptionGroup("out (1 sub-exception)", members))).rebuild()
    assert type(back) is ExceptionGroup
    assert back.message == "out (1 sub-exception)"
    value, remote, inner = back.exceptions
    assert type(value) is ValueError
    assert value.__notes__ == ["note of a"]
    assert type(value.__cause__) is OSError
    assert isinstance(remote, RemoteError)
    assert isinstance(inner, ExceptionGroup)
    assert type(inner.exceptions[0]) is KeyError


def test_a_group_of_its_own_type_keeps_its_type() -> None:
    """And the notes of its members, which pickle would keep, and their causes."""
    member = raised(ValueError("a"), KeyError("why"))
    assert isinstance(member, Exception)
    back = recorded(Batch("b", [member])).rebuild()
    assert type(back) is Batch
    assert type(back.exceptions[0].__cause__) is KeyError


def test_a_group_with_a_signal_is_not_rebuilt() -> None:
    """It would stop more than the body."""
    group = BaseExceptionGroup("mixed", [ValueError("a"), KeyboardInterrupt()])
    failure = recorded(group)
    assert failure.rebuild() is None
    assert [member.error_type for member in failure.group] == [
        "builtins.ValueError",
        "builtins.KeyboardInterrupt",
    ]


# --- codecs -----------------------------------------------------------------------------


def test_json_keeps_the_texts_only() -> None:
    """A JSON codec never unpickles, so there is nothing to rebuild from."""
    exc = raised(ValueError("x"), KeyError("k"))
    failure = recorded(exc, Codec(format="json"))
    assert failure.rebuild() is None
    assert failure.message == "x"
    assert isinstance(failure.remote().__cause__, RemoteError)


def test_a_class_that_went_missing_is_told_from_one_that_never_loaded() -> None:
    """`strict` raises where another process could have rebuilt it."""
    failure = recorded(DeclinedError("x"))
    assert failure.pickled is not None
    gone = Failure(
        "m.Gone", "x", "", pickled=failure.pickled.replace(b"DeclinedError", b"VanishedError")
    )
    assert gone.rebuild() is None
    with pytest.raises(PayloadDecodeError, match=r"m\.Gone.*alias"):
        gone.rebuild(strict=True)
    assert recorded(BadReduceError("x")).rebuild(strict=True) is None


@pytest.mark.parametrize("value", [None, 3, {}, {"type": "x"}, [1]])
def test_a_payload_that_holds_no_failure_is_refused(value: object) -> None:
    """Instead of a `KeyError` somewhere later."""
    with pytest.raises(PayloadDecodeError, match="no recorded exception"):
        decode_failure(CODEC.encode(value), CODEC)


def test_reading_a_failure_loads_nothing_of_the_exception() -> None:
    """Listing failed runs must not run their classes' code; rebuilding may."""
    payload = encode_failure(DeclinedError("x"), CODEC).replace(b"DeclinedError", b"VanishedError")
    assert decode_failure(payload, CODEC).message == "x"
    shown = CODEC.preview(payload)
    assert isinstance(shown, dict)
    assert shown["message"] == "x"


@given(st.lists(st.text() | st.integers() | st.binary(), max_size=3), st.lists(st.text()))
def test_any_arguments_and_notes_come_back(args: list[object], notes: list[str]) -> None:
    """And what comes back can be formatted by Python's own traceback."""
    exc = ValueError(*args)
    exc.__notes__ = list(notes)
    back = recorded(exc).rebuild()
    assert back is not None
    assert back.args == tuple(args)
    assert traceback.format_exception(back)
