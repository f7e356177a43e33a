"""What the command line may do with a journal that other programs run.

Owns two ways in. `Bystander` reads the file and nothing else, so it works beside an owner
and without one. `commanding` gives a command to the owner over its control socket; when
no process has the journal open, it takes the owner's lock for the moment of one write.

Invariants: neither executes a run, and neither loads code from the journal. After the
moment of a write the journal is left as it was found: one that a crash left behind still
counts as such, so the next owner notes the interrupted attempts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from durable._authoring.workflow import KEEP_FOR_EVER
from durable._base.clock import Clock, SystemClock
from durable._base.turnstile import Turnstile
from durable._engine.births import rows_of
from durable._engine.management import Shelf
from durable._engine.pause import pausing, resuming
from durable._engine.payloads import EnginePayloads
from durable._engine.ports import Created, EnginePort, RunSpec
from durable._engine.remote import RemoteEngine
from durable._engine.requests import CANCEL, WAKE
from durable._engine.rewind import Fork, claims_of, fork_run, retry_write
from durable._journal.attributes import PAUSED, decode_blocked
from durable._journal.codec import Codec
from durable._journal.control_client import OwnerLostError, own_or_connect
from durable._journal.files import JournalFiles
from durable._journal.filesystem import canonical_journal_path, check_filesystem
from durable._journal.journal import Journal
from durable._journal.keys import Encryption, KeyRing
from durable._journal.lock import OwnerLock
from durable._journal.reader import Reader
from durable._journal.records import (
    BLOCKED,
    CANCELLED,
    FINISHED,
    RUNNING,
    RowOp,
    RunEvent,
    RunRow,
    RunState,
    Write,
)
from durable._journal.row_ops import add_request
from durable._journal.swapping import is_there
from durable._replay.body import Body
from durable._replay.events import Event, EventKind
from durable._replay.rewound import effective
from durable._surface.scoped import Scoped
from durable.errors import (
    JournalError,
    RunExistsError,
    RuntimeNotRunningError,
    WorkflowRunNotFoundError,
)

T = TypeVar("T")
logger = logging.getLogger("durable")

_TRIES = 5  # of a command whose owner went away while it was being given


class Bystander(Scoped):
    """A journal opened for reading only; handles of runs can be asked through it.

    Args:
        path: the journal's file; it must exist.
        encryption: the keys of a journal that is sealed. Without them its values stay so.

    Raises on opening: `JournalError` when there is no journal or it cannot be read.

    Example:
        ``async with Bystander("app.db") as access: await Run("order-17", access).events()``
    """

    def __init__(self, path: str | os.PathLike[str], encryption: Encryption | None = None) -> None:
        self.path = canonical_journal_path(path)
        self._encryption = encryption
        self.payloads = EnginePayloads(Codec())
        self.turnstile = Turnstile()
        self._journal: Journal | None = None

    async def open(self) -> None:
        """Open the file for reading."""
        ring = await _ring(self._encryption)
        self._journal = await Journal.open(self.path, clock=SystemClock(), ring=ring, owner=False)

    async def close(self, *, drain: bool = True) -> None:
        """Close the file; nothing runs here that could be waited for."""
        journal, self._journal = self._journal, None
        if journal is not None:
            await journal.close()

    @property
    def reader(self) -> Reader:
        """Answers questions from the journal."""
        return self.journal.reader

    @property
    def journal(self) -> Journal:
        """The journal, opened for reading."""
        if self._journal is None:
            raise RuntimeNotRunningError(f"{self.path} is not open: use it in `async with`")
        return self._journal

    @property
    def is_owner(self) -> bool:
        """Return False: commands are for others."""
        return False

    def live_body(self, run_id: str) -> Body | None:
        """Return None: no run is in memory here."""
        return None

    async def port(self) -> EnginePort:
        """Refuse commands."""
        raise RuntimeNotRunningError(f"{self.path} is open for reading only")


class CommandPort(Protocol):
    """The commands about existing runs; the methods are those of `EnginePort`."""

    async def cancel(self, run_id: str, reason: str | None) -> bool | None:
        """Record a request to cancel; False if it is carried out at the next opening."""

    async def wake_up(self, run_id: str, waits: Sequence[int] | None) -> int | None:
        """End pending sleeps; return how many, None if that is done at the next opening."""

    async def resume(self, run_id: str) -> None:
        """Let a blocked run try again."""

    async def ask(self, what: str, **fields: Any) -> Any:
        """Retry or pause a run, give it a payload, delete or import one; see `EnginePort`."""

    async def create(self, specs: Sequence[RunSpec]) -> list[Created]:
        """Record runs."""


async def command(
    path: str | os.PathLike[str],
    give: Callable[[CommandPort], Awaitable[T]],
    *,
    create: bool = False,
    encryption: Encryption | None = None,
    patience: float = 5.0,
) -> T:
    """Give one command to a journal, again if its owner goes away meanwhile; see `commanding`.

    Whoever waits at a terminal is told, after `patience` seconds, for which process.
    """
    notice = asyncio.get_running_loop().call_later(patience, _tell_of_waiting, path)
    try:
        return await _repeated(path, give, create, encryption)
    finally:
        notice.cancel()


async def _repeated(
    path: str | os.PathLike[str],
    give: Callable[[CommandPort], Awaitable[T]],
    create: bool,
    encryption: Encryption | None,
) -> T:
    for _ in range(_TRIES):
        try:
            async with commanding(path, create=create, encryption=encryption) as port:
                return await give(port)
        except OwnerLostError:
            continue  # the next owner, or nobody, is given the same
    raise JournalError(f"the owners of {path} come and go: repeat the command")


def _tell_of_waiting(path: str | os.PathLike[str]) -> None:
    holder = OwnerLock(canonical_journal_path(path)).holder() or {}
    if holder.get("pid", os.getpid()) != os.getpid():
        logger.warning(
            "waiting for process %s (%s), which has the journal open, and is busy or stopped; "
            "Ctrl-C gives up, but what was asked may be done all the same",
            holder["pid"],
            holder.get("command", "unknown command"),
        )


@asynccontextmanager
async def commanding(
    path: str | os.PathLike[str],
    *,
    create: bool = False,
    encryption: Encryption | None = None,
) -> AsyncIterator[CommandPort]:
    """Give the way to command the runs of a journal, whether or not it has an owner.

    Args:
        path: the journal's file.
        create: make it if it does not exist.
        encryption: the keys of a journal that is sealed, for what is written without an owner.

    Raises:
        JournalError: there is no journal, or it cannot be opened.
    """
    path = canonical_journal_path(path)
    check_filesystem(path)
    if not create and not is_there(JournalFiles(path)):
        raise JournalError(f"there is no journal at {path}: check the path")
    lock, clock = OwnerLock(path), SystemClock()
    words = " ".join(sys.argv[:2])[:300]  # what follows may be a payload or a token
    client = await own_or_connect(lock, {"since": clock.wall_us(), "command": words})
    if client is not None:
        try:
            yield RemoteEngine(client)
        finally:
            await client.close()
        return
    try:
        journal = await Journal.open(path, clock=clock, ring=await _ring(encryption))
        try:
            yield Unowned(journal, clock)
        finally:
            await journal.close(clean=journal.clean)
    finally:
        lock.release()


class Unowned:
    """Commands written into a journal that no process executes; see `CommandPort`.

    What needs the run's own code (to cancel or wake a body that has begun) is left as a
    request to the next owner: what the body does about it must be recorded together with
    the command.

    Args:
        journal: opened as owner.
    """

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    async def cancel(self, run_id: str, reason: str | None) -> bool:
        """Cancel a run that has not begun or is blocked; ask for it if it has begun.

        A run without a retention of its own is then kept: the runtime's is not known here.
        """
        row = await self._row(run_id)
        payload = None if reason is None else reason.encode()
        if row.status in FINISHED:
            return True
        is_paused = row.status == BLOCKED and decode_blocked(row.blocked).kind == PAUSED
        if (is_paused or row.status != BLOCKED) and row.started_at is not None:
            await self._ask_for(CANCEL, row, payload)
            return False
        seq = await self._journal.reader.last_seq(row.pk)  # the last event may be damaged
        at = max(self._clock.wall_us(), row.created_at)
        event = Event(seq + 1, EventKind.RUN_CANCELLED, 0, "", at, None, payload)
        state = RunState(CANCELLED, row.started_at, at, None, _expiry(row, at), None, row.pk)
        freed = [RowOp("release_hooks", (row.pk,))]
        events = [RunEvent(row.pk, run_id, event)]
        await self._record(Write(done=_ignore, events=events, states=[state], ops=freed))
        return True

    async def wake_up(self, run_id: str, waits: Sequence[int] | None) -> int | None:
        """Return 0 for a run that cannot be sleeping; ask for it for the others."""
        row = await self._row(run_id)
        if row.status != RUNNING:
            return 0
        await self._ask_for(WAKE, row, None)
        return None

    async def resume(self, run_id: str) -> None:
        """Let a blocked run try again at the next opening; see `EnginePort`."""
        row = await self._row(run_id)
        if row.status == BLOCKED:
            await self._record(resuming(row, await self._last_seq(row), self._clock.wall_us()))

    async def ask(self, what: str, **fields: Any) -> Any:
        """Change rows alone; what needs the code of a run, such as a payload, is refused."""
        shelf = Shelf(
            self._journal, self._clock, _not_in_memory, _expiry, _nothing,
            one_at_a_time=asyncio.Lock(),
        )  # fmt: skip
        if what == "import_run":
            return await shelf.import_run(**fields)
        if what == "retry":
            return await self._retry(**fields)
        if what == "pause":
            return await self._pause(**fields)
        if what == "fork":
            return await self._fork(**fields)
        if what != "delete_run":
            raise RuntimeNotRunningError(
                f"no process has the journal {self._journal.path} open: {what} reaches a run only "
                "while a program that has its code is running; start that program and repeat the "
                "command"
            )
        await shelf.delete_run(**fields)
        await self._journal.empty_trash()

    async def _retry(self, run_id: str, request: str) -> None:
        row = await self._row(run_id)
        history = await self._journal.reader.history(row.pk, run_id)
        write = retry_write(row, history, request, self._clock.wall_us())
        if write is not None:
            payloads, view = EnginePayloads(Codec()), effective([*history, write.events[0].event])
            write.ops = [*write.ops, *await claims_of(self._journal, payloads, row, view)]
            await self._record(write)

    async def _fork(
        self, run_id: str, new_id: str, at: int | str | None, results: list[list[Any]]
    ) -> None:
        asked = Fork(await self._row(run_id), new_id, at, [(key, each) for key, each in results])
        await fork_run(self._journal, EnginePayloads(Codec()), asked, self._clock.wall_us())

    async def _pause(self, run_id: str, reason: str | None) -> None:
        row = await self._row(run_id)
        await self._record(pausing(row, reason, await self._last_seq(row)))

    async def create(self, specs: Sequence[RunSpec]) -> list[Created]:
        """Record runs that begin at the next opening; a repeated request finds its own run.

        Raises:
            RunExistsError: the id is taken by another run.
        """
        now = self._clock.wall_us()
        born = [rows_of(spec, self._journal.next_pk(), now) for spec in specs]
        write = Write(
            done=_ignore,
            runs=[row for row, _ in born],
            events=[RunEvent(row.pk, row.run_id, event) for row, event in born],
        )
        await self._record(write)
        for spec in specs:
            existing = write.existing.get(spec.run_id)
            if existing is not None and existing.origin != spec.made_from:
                raise RunExistsError(spec.run_id)
        return [Created(spec.run_id, write.existing.get(spec.run_id)) for spec in specs]

    async def _last_seq(self, row: RunRow) -> int:
        return await self._journal.reader.last_seq(row.pk)

    async def _row(self, run_id: str) -> RunRow:
        row = await self._journal.reader.run_by_id(run_id)
        if row is None:
            raise WorkflowRunNotFoundError(run_id)
        return row

    async def _record(self, write: Write) -> None:
        # Once it fails it is refused: a command is told so, and does not wait for the disk.
        write.vital = False
        await self._journal.perform(write)

    async def _ask_for(self, kind: str, row: RunRow, payload: bytes | None) -> None:
        seq = await self._journal.reader.last_seq(row.pk)
        request = add_request(row.pk, kind, seq, payload)
        await self._journal.perform(Write(done=_ignore, ops=[request], vital=True))


async def _ring(encryption: Encryption | None) -> KeyRing | None:
    return None if encryption is None else await asyncio.to_thread(encryption.ring)


def _expiry(row: RunRow, at: int) -> int | None:
    kept = row.retention_us
    return None if kept is None or kept == KEEP_FOR_EVER else at + kept


def _not_in_memory(run_id: str) -> None:
    """Tell that no run is executed here."""


def _nothing() -> None:
    """Sweep nothing: the next owner does."""


def _ignore(error: BaseException | None) -> None:
    """Do nothing: `perform` tells the outcome."""
