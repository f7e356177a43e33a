"""The program that runs in a worker process: calls come in, outcomes go out.

`durable._engine.processes` starts it by its path. It is a plain script that imports
nothing of `durable` at first, so that it starts fast and needs no import path before the
parent's has arrived. Its invariants:

- the pipes it was started with are its own: what a step prints goes to stderr, what a
  step reads from stdin is empty, and a process forked by a step does not hold them;
- it ends when its parent does: in the middle of a call it kills its whole process group,
  so that an interrupted step does not go on behind the back of its next attempt;
- whatever a step raises is an outcome, SystemExit included.

A message is 8 bytes of length (little-endian) and a pickle: first the parent's
`sys.path`; then per call ``(function, args, kwargs)``. A call is answered by one byte as
soon as it has come in (after that it may have had effects), and later by one of
``("value", value)``, ``("unsent", reason)`` for a value that cannot be pickled, ``("raised",
exception, traceback text)`` and, for an exception that does not survive pickling,
``("lost", type name, message, traceback text)``.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import pickle
import signal
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import Any

TAKEN = b"+"  # the byte that says: from now on the call may have effects

_HEADER_BYTES = 8


def main() -> None:
    """Serve calls until the parent closes the pipe or dies."""
    inbox, outbox = _take_over_pipes()
    sys.path[:] = pickle.loads(receive(inbox))
    calls: SimpleQueue[bytes | None] = SimpleQueue()
    busy = threading.Event()
    pipes = (inbox, outbox)
    threading.Thread(target=_listen, args=(*pipes, calls, busy), daemon=True).start()
    while (call := calls.get()) is not None:
        answer = _answer(call)
        sys.stdout.flush()
        busy.clear()
        try:
            send(outbox, answer)
        except OSError:
            return  # nobody is left to hear it


def _take_over_pipes() -> tuple[int, int]:
    inbox, outbox = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.register_at_fork(after_in_child=lambda: _close(inbox, outbox))
    return inbox, outbox


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _listen(
    inbox: int, outbox: int, calls: SimpleQueue[bytes | None], busy: threading.Event
) -> None:
    while True:
        try:
            call = receive(inbox)
            os.write(outbox, TAKEN)
        except (EOFError, OSError):
            break
        busy.set()
        calls.put(call)
    if busy.is_set():
        os.killpg(0, signal.SIGKILL)  # the parent started this process as leader of a group
    calls.put(None)


def receive(fd: int) -> bytes:
    """Read one message; EOFError when the other side is gone."""
    return read(fd, int.from_bytes(read(fd, _HEADER_BYTES), "little"))


def read(fd: int, size: int) -> bytes:
    """Read exactly so many bytes; EOFError when the other side is gone."""
    parts = bytearray()
    while len(parts) < size:
        part = os.read(fd, min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError("the pipe was closed from the other side")
        parts += part
    return bytes(parts)


def send(fd: int, message: bytes) -> None:
    """Write one message; OSError when the other side is gone."""
    rest = memoryview(len(message).to_bytes(_HEADER_BYTES, "little") + message)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _answer(call: bytes) -> bytes:
    try:
        fn, args, kwargs = pickle.loads(call)
        value = fn(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except BaseException as error:
        return _failure(error)
    try:
        return _dumps(("value", value))
    except BaseException as error:  # the value's own code may raise anything
        return pickle.dumps(("unsent", f"{type(error).__name__}: {_text(error)}"))


def _failure(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    for prepare in (None, _drop_unsound):
        try:
            if prepare is not None:
                prepare(error)
            data = _dumps(("raised", error, text))
            pickle.loads(data)  # exceptions often pickle into what cannot be loaded
        except Exception:
            continue
        return data
    kind = type(error)
    return pickle.dumps(("lost", f"{kind.__module__}.{kind.__qualname__}", _text(error), text))


def _drop_unsound(error: BaseException) -> None:
    """Take away the attributes that cannot be sent, such as a lock."""
    for name, value in list(vars(error).items()):
        try:
            pickle.loads(_dumps((value,)))
        except Exception:
            delattr(error, name)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as unprintable:
        return f"<its message cannot be formed: {type(unprintable).__name__}>"


def _dumps(answer: tuple[Any, ...]) -> bytes:
    import cloudpickle

    from durable._journal.exceptions import reduce_error

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Sends exceptions so that they can be loaded, whatever their `__init__` wants."""

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, BaseException):
                return reduce_error(obj)
            return super().reducer_override(obj)

    with io.BytesIO() as file:
        Pickler(file).dump(answer)
        return file.getvalue()


if __name__ == "__main__":
    main()
