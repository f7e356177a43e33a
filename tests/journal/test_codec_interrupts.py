"""Values whose own code raises what ends programs: an error of the value, not of the program."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from durable._journal.codec import Codec
from durable._journal.failure import decode_failure, encode_failure
from durable.errors import PayloadDecodeError, SerializationError

CODEC = Codec()
ENDS = [KeyboardInterrupt, SystemExit, GeneratorExit]


@pytest.fixture(autouse=True)
def _default_handler() -> Iterator[None]:
    """As in a program without `asyncio.run`, such as a notebook."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Saves:
    """Raises when it is stored."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        raise self.kind("while saving")


class Loads:
    """Raises when it is loaded."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise state["kind"]("while loading")


class Hit:
    """Is being stored, or loaded, when somebody presses Ctrl-C."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __getstate__(self) -> dict[str, str]:
        if self.when == "saving":
            signal.raise_signal(signal.SIGINT)
        return {"when": self.when}

    def __setstate__(self, state: dict[str, str]) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("kind", ENDS)
def test_value_that_raises_while_it_is_stored_is_refused_by_its_path(
    kind: type[BaseException],
) -> None:
    """With what it raised as the cause."""
    with pytest.raises(SerializationError) as refused:
        CODEC.encode_call((1, {"conn": [Saves(kind)]}), {})
    assert refused.value.path == 'args[1]["conn"][0]'
    assert f"{kind.__name__}: while saving" in str(refused.value)
    assert isinstance(refused.value.__cause__, kind)


@pytest.mark.parametrize("kind", ENDS)
def test_value_that_raises_while_it_is_loaded_cannot_be_decoded(kind: type[BaseException]) -> None:
    """With what it raised as the cause."""
    with pytest.raises(PayloadDecodeError, match=f"{kind.__name__}: while loading") as refused:
        CODEC.decode(CODEC.encode([Loads(kind)]))
    assert isinstance(refused.value.__cause__, kind)


def test_ctrl_c_while_a_value_is_stored_or_loaded_is_the_programs() -> None:
    """The value did nothing wrong."""
    with pytest.raises(KeyboardInterrupt):
        CODEC.encode(Hit("saving"))
    payload = CODEC.encode(Hit("loading"))
    with pytest.raises(KeyboardInterrupt):
        CODEC.decode(payload)


class OddError(Exception):
    """Raises wherever it is asked."""

    def __init__(self, kind: type[BaseException], where: str) -> None:
        super().__init__(where)
        self.kind = kind
        self.where = where

    def __str__(self) -> str:
        if self.where == "str":
            raise self.kind("while shown")
        return "odd"

    def __reduce__(self) -> Any:
        if self.where == "reduce":
            raise self.kind("while saving")
        return super().__reduce__()

    def __getattribute__(self, name: str) -> Any:
        if name == "__notes__" and object.__getattribute__(self, "where") == "notes":
            raise object.__getattribute__(self, "kind")("while noted")
        return super().__getattribute__(name)


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("where", ["str", "reduce", "notes"])
def test_exception_that_raises_is_recorded_all_the_same(
    kind: type[BaseException], where: str
) -> None:
    """At least by its type."""
    failure = decode_failure(encode_failure(OddError(kind, where), CODEC), CODEC)
    assert failure.error_type.endswith("OddError")
