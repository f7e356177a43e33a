"""What a signal's handler raises is told from what the interrupted code raises itself."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durable._base.signals import is_from_signal


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def caught(fn: Callable[[], object]) -> BaseException:
    """Return what `fn` raises."""
    try:
        fn()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def _raise(kind: type[BaseException]) -> None:
    raise kind


def _interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def _interrupt_while_computing() -> None:
    for _ in range(1):
        sum(_send_once())


def _send_once() -> Iterator[int]:
    signal.raise_signal(signal.SIGINT)
    yield 1


def test_ctrl_c_is_a_signal_wherever_it_hits() -> None:
    """Also after it has passed through `finally`, `except` and other frames."""

    def passes_on() -> None:
        try:
            try:
                _interrupt_while_computing()
            finally:
                len("clean-up")
        except KeyboardInterrupt:
            raise

    for fn in (_interrupt, _interrupt_while_computing, passes_on):
        assert is_from_signal(caught(fn)), fn


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, ValueError])
def test_what_code_raises_by_itself_is_no_signal(kind: type[BaseException]) -> None:
    """Whatever its type; `sys.exit` is no statement and the same."""

    def again() -> None:
        try:
            _raise(kind)
        except kind as error:
            raise error from None

    assert not is_from_signal(caught(lambda: _raise(kind)))
    assert not is_from_signal(caught(again))
    assert not is_from_signal(caught(sys.exit))
    assert not is_from_signal(kind())


def test_programs_own_handlers_are_known_by_their_code() -> None:
    """Functions, methods and partial functions, for any signal."""

    class Program:
        def leave(self, number: int, frame: object) -> None:
            raise SystemExit(3)

    def leave(number: int, frame: object) -> None:
        sys.exit(3)

    handlers: list[Any] = [leave, Program().leave]
    for handler in handlers:
        signal.signal(signal.SIGTERM, handler)
        assert is_from_signal(caught(lambda: signal.raise_signal(signal.SIGTERM)))
    assert not is_from_signal(caught(lambda: _raise(SystemExit)))


def test_second_ctrl_c_under_asyncio_run_is_a_signal() -> None:
    """The first cancels the main task; the next is raised by asyncio's own handler."""
    seen = []

    async def main() -> None:
        try:
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            seen.append(is_from_signal(error))

    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        asyncio.run(main())
    assert seen == [True]


def test_no_signal_reaches_another_thread() -> None:
    """Handlers run in the main thread alone."""
    seen: list[bool] = []
    thread = threading.Thread(
        target=lambda: seen.append(is_from_signal(caught(lambda: _raise(KeyboardInterrupt))))
    )
    thread.start()
    thread.join()
    assert seen == [False]
