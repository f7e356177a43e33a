"""Which runtime `start` and `get_run` use when none is named.

Inside a step: the one that runs the step, if that is in this process. Else the one opened
last in the running loop.
With none open, a default one is opened at ``$DURABLE_JOURNAL`` or ``./durable.db``, with the
keys of ``$DURABLE_KEY_FILE`` if that is set, and closed together with its loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from typing import Protocol
from weakref import WeakKeyDictionary

from durable._authoring.context import current_attempt, current_body
from durable._base.turnstile import Turnstile
from durable._engine.payloads import EnginePayloads
from durable._engine.ports import EnginePort
from durable._journal.reader import Reader
from durable._replay.body import Body
from durable.errors import ForkedJournalError, RuntimeNotRunningError, WrongContextError

DEFAULT_PATH = "durable.db"


class Access(Protocol):
    """A runtime, as far as handles of runs need it."""

    payloads: EnginePayloads
    turnstile: Turnstile

    @property
    def reader(self) -> Reader:
        """Answers questions from the journal."""

    @property
    def is_owner(self) -> bool:
        """Whether commands are performed in this process."""

    def live_body(self, run_id: str) -> Body | None:
        """Return the body of a run that is in memory here."""

    async def port(self) -> EnginePort:
        """Return an engine that takes commands, wherever it is."""

    async def open(self) -> None:
        """Open the journal."""

    async def close(self, *, drain: bool = True) -> None:
        """Close it; without `drain`, running attempts get no more time."""


_open: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Access]] = WeakKeyDictionary()
_defaults: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Future[Access]] = (
    WeakKeyDictionary()
)
_closers: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = (
    WeakKeyDictionary()
)
_factory: list[Callable[[str], Access]] = []
_opener: list[int] = []  # the process that opened a runtime last


def set_factory(factory: Callable[[str], Access]) -> None:
    """Tell how a default runtime is made; called once by the module that defines it."""
    _factory[:] = [factory]


def journal_path() -> str:
    """Return where the journal lies when nothing is said about it."""
    return os.environ.get("DURABLE_JOURNAL") or DEFAULT_PATH


def all_open() -> list[Access]:
    """Return the runtimes that are open in the running loop."""
    return list(_open.get(asyncio.get_running_loop(), ()))


def refuse_in_body() -> None:
    """Raise in a workflow body, where a runtime is not touched.

    Raises:
        WrongContextError: this is a body.
    """
    if current_body() is not None:
        raise WrongContextError(
            "a workflow body does not touch a Runtime, which belongs to the program's event loop: "
            "use `start`, `get_run`, `send` and the like of `durable`, which are recorded"
        )


def opened(runtime: Access) -> None:
    """Note that a runtime is open in the running loop."""
    _open.setdefault(asyncio.get_running_loop(), []).append(runtime)
    _opener[:] = [os.getpid()]


def closed(runtime: Access, loop: asyncio.AbstractEventLoop) -> None:
    """Note that a runtime is not open any more."""
    if runtime in _open.get(loop, ()):
        _open[loop].remove(runtime)


async def current_runtime() -> Access:
    """Return the runtime to use here, opening the default one if there is none.

    Raises:
        RuntimeNotRunningError: the step runs in a worker process, where none was opened.
        ForkedJournalError: this coroutine was begun by the process that we were forked from.
    """
    attempt = current_attempt.get()
    if attempt is not None and attempt.runtime is not None:
        return attempt.runtime  # type: ignore[return-value]  # only runtimes are put there
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        # asyncio has no loop running in a child that goes on with its parent's coroutine.
        if not _opener or _opener[0] == os.getpid():
            raise
        raise ForkedJournalError(
            f"process {_opener[0]} opened its journal before a fork: open a Runtime of its own "
            "in the child, in a new event loop"
        ) from None
    runtimes = _open.get(loop)
    if runtimes:
        return runtimes[-1]
    if attempt is not None:
        raise RuntimeNotRunningError(
            f'step {attempt.metadata.name} runs with executor="process", and no runtime is open in '
            "its worker process: open one there, which is a client of this journal's owner, or use "
            "an async step, or start and ask runs in the body"
        )
    opening = _defaults.get(loop)
    if opening is None or (opening.done() and not runtimes):
        opening = _defaults[loop] = asyncio.ensure_future(_open_default(loop))
    return await asyncio.shield(opening)


async def _open_default(loop: asyncio.AbstractEventLoop) -> Access:
    if not _factory:
        raise RuntimeNotRunningError("no runtime is open, and none can be made here")
    runtime = _factory[0](journal_path())
    await runtime.open()
    # asyncio.run and its kin close every asynchronous generator before they close the
    # loop: the one way to be told in time.
    closer = _closers[loop] = _close_at_end(runtime, loop)
    await anext(closer)
    return runtime


async def _close_at_end(
    runtime: Access, loop: asyncio.AbstractEventLoop
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await runtime.close(drain=False)  # the loop ends, and is not kept waiting
        # They refer to their own key, so the loop would never be freed.
        for known in (_defaults, _closers):
            known.pop(loop, None)
