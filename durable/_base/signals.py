"""Tells an exception that a signal brought from one that the code itself has raised.

The handler of a signal runs in the main thread, between any two instructions of whatever
code happens to run there. What it raises (Ctrl-C, or the `SystemExit` of a program's own
handler of SIGTERM) asks the program to end, and the code that it hit did nothing wrong.
``raise KeyboardInterrupt`` in a step, in a body or in a value's `__reduce__` is that
code's own failure, and must not end the host's event loop.
"""

from __future__ import annotations

import opcode
import signal
import threading
from collections.abc import Iterator
from functools import partial
from types import CodeType, TracebackType

_RAISE = opcode.opmap["RAISE_VARARGS"]


def is_from_signal(error: BaseException) -> bool:
    """Tell whether the handler of a signal has raised `error`, and not the code that it hit."""
    if threading.current_thread() is not threading.main_thread():
        return False
    places = list(_places(error.__traceback__))
    if any(code in _handlers() for code, _ in places):
        return True
    if not isinstance(error, KeyboardInterrupt) or not places:
        return False
    code, offset = places[-1]
    # Python's own handler leaves no frame: the exception begins at some other instruction.
    return code.co_code[offset] != _RAISE


def _places(trace: TracebackType | None) -> Iterator[tuple[CodeType, int]]:
    while trace is not None:
        yield trace.tb_frame.f_code, trace.tb_lasti
        trace = trace.tb_next


def _handlers() -> set[CodeType]:
    """Return the code of the handlers that are written in Python, such as `asyncio.run`'s."""
    found = set()
    for number in signal.valid_signals():
        handler: object = signal.getsignal(number)
        while isinstance(handler, partial):
            handler = handler.func
        code = getattr(getattr(handler, "__func__", handler), "__code__", None)
        if isinstance(code, CodeType):
            found.add(code)
    return found
