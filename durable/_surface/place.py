"""A runtime's place at its journal: the owner, with an engine, or a client of the owner.

Owns the owner lock, the journal, the engine and the control socket of one runtime, and the
order in which they come and go: the lock first and last, so that nobody else executes
from the journal meanwhile. When to take a place, or another one, is up to the runtime.

Invariant: the lock is not freed while a function may still run on a connection of ours,
also where the event loop was closed without us.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from durable._base.clock import Clock
from durable._engine.engine import Engine
from durable._engine.remote import RemoteEngine
from durable._journal.control import ControlServer, Handler
from durable._journal.control_client import ControlClient, OwnerLostError, own_or_connect
from durable._journal.driver import Driver, DriverFactory
from durable._journal.journal import Journal
from durable._journal.lock import OwnerInfo, OwnerLock
from durable._journal.sockets import socket_path_of
from durable._surface.port import to_the_end
from durable.errors import JournalLockedError

logger = logging.getLogger("durable")

# How long an owner may be silent at first, as while it opens a large journal, unremarked.
SILENCE_SECONDS = 3.0
# How long another opening waits for what the writer of a closed loop is doing.
LET_GO_SECONDS = 5.0


class Tenant(Protocol):
    """The runtime that takes the place."""

    path: str

    async def open_journal(
        self, drivers: DriverFactory, lock: OwnerLock, *, owner: bool
    ) -> Journal:
        """Open the journal."""

    def make_engine(self, journal: Journal) -> Engine:
        """Return the engine for a journal that we own, not open yet."""

    def owner_lost(self, lost: asyncio.Future[str]) -> None:
        """Take note that the owner whose client we are is gone."""


class Place:
    """See the module's docstring.

    Args:
        tenant: the runtime.
        driver: makes the drivers of its journal.
        answer: performs what clients ask of us.
        let_go: see `OwnerLock`.

    Attributes:
        engine, server: while we are the owner.
        remote: while we are a client.
        journal: in both cases; a client's is for reading.
    """

    def __init__(
        self,
        tenant: Tenant,
        driver: DriverFactory,
        clock: Clock,
        answer: Handler,
        let_go: Callable[[], bool],
    ) -> None:
        self.lock = OwnerLock(tenant.path, let_go)
        self.journal: Journal | None = None
        self.engine: Engine | None = None
        self.server: ControlServer | None = None
        self.remote: RemoteEngine | None = None
        self._tenant = tenant
        self._driver = driver
        self._clock = clock
        self._answer = answer
        self._drivers: WeakSet[Driver] = WeakSet()

    @property
    def port(self) -> Engine | RemoteEngine | None:
        """Where commands go now; None while no place is taken."""
        return self.engine or self.remote

    async def take(self, *, client: bool) -> None:
        """Become the journal's owner or, if that may be, a client of its owner."""
        info: OwnerInfo = {"since": self._clock.wall_us(), "command": " ".join(sys.argv)[:300]}
        while True:
            connection = None
            if client:
                connection = await own_or_connect(self.lock, info)
            elif not self.lock.acquire(info):
                raise self.lock.locked_error()
            if connection is None:
                await to_the_end(self._own())
                return
            if await self._follow(connection):
                return

    async def _own(self) -> None:
        server = self.server = ControlServer(socket_path_of(self._tenant.path), self._answer)
        reading, journal = self.journal, None
        try:
            self.lock.publish({"socket": server.bind()})
            journal = await self._open_journal(owner=True)
            # Until here a client that takes over goes on reading as before.
            self.journal = journal
            self.engine = self._tenant.make_engine(journal)
            await self.engine.open()
            await server.start()
        except BaseException:
            await self._disown(server, journal, reading)
            raise
        if reading is not None:
            await reading.close()

    async def _disown(
        self, server: ControlServer, journal: Journal | None, reading: Journal | None
    ) -> None:
        """Undo an opening that failed half way; the lock goes last."""
        engine, self.engine, self.server, self.journal = self.engine, None, None, reading
        if engine is not None:
            await engine.close()
        elif journal is not None:
            await journal.close()
        await server.close(self.lock.release)

    async def _follow(self, connection: ControlClient) -> bool:
        """Work through the owner; False when it was lost before it served us."""
        remote = RemoteEngine(connection)
        loop = asyncio.get_running_loop()
        silence = self._clock.call_later(loop, SILENCE_SECONDS, self._owner_is_silent)
        try:
            await remote.hello()  # it may still be opening the journal, or making it
            if self.journal is None:
                self.journal = await self._open_journal(owner=False)
        except OwnerLostError:
            return False
        except BaseException:
            await connection.close()
            raise
        finally:
            silence.cancel()
        self.remote = remote
        connection.lost.add_done_callback(self._tenant.owner_lost)
        return True

    def _owner_is_silent(self) -> None:
        holder = self.lock.holder() or {}
        logger.warning(
            "the owner of the journal %s, process %s (%s), does not answer: waiting until it has "
            "opened the journal, or ends. If its event loop was stopped or closed, end it",
            self._tenant.path, holder.get("pid"), holder.get("command"),
        )  # fmt: skip

    async def _open_journal(self, *, owner: bool) -> Journal:
        return await self._tenant.open_journal(self._make_driver, self.lock, owner=owner)

    def _make_driver(self, uri: str, read_only: bool) -> Driver:
        driver = self._driver(uri, read_only)
        self._drivers.add(driver)
        return driver

    async def leave(self, *, drain: bool) -> None:
        """Close everything, in order; also what is left where that fails."""
        try:
            await self._leave(drain=drain)
        except BaseException:
            self.abandon()
            raise
        finally:
            self.lock.release()

    async def _leave(self, *, drain: bool) -> None:
        if self.server is not None:
            self.server.retire()
        if self.engine is not None:
            await self.engine.close(drain=drain)
        if self.server is not None:
            await self.server.close(self.lock.release)
        if self.remote is not None:
            await self.remote.client.close()
        if self.journal is not None:
            await self.journal.close()

    def abandon(self) -> None:
        """Let go without waiting; the lock stays with the process."""
        if self.engine is not None:
            self.engine.abandon()

    def let_go(self) -> None:
        """Abandon a place whose loop is closed, and free the lock.

        Raises:
            JournalLockedError: what the writer was doing takes too long.
        """
        self.abandon()
        for driver in list(self._drivers):
            driver.abandon()
            if not driver.wait_stopped(LET_GO_SECONDS):
                path = self._tenant.path
                raise JournalLockedError(
                    path, os.getpid(),
                    f"the journal {path} was open in an event loop that is closed, and its last "
                    f"write takes over {LET_GO_SECONDS:g} s: see to the disk and try again",
                )  # fmt: skip
        self.going_down("its event loop was closed")
        if self.server is not None:
            self.server.abandon()
        self.lock.release(forget=False)

    def going_down(self, cause: str) -> None:
        """Leave the note that the owner ends on request, not by a crash."""
        if self.lock.held:
            self.lock.publish({"ended": cause})
