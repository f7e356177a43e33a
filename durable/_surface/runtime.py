"""`Runtime`: a journal opened in an event loop, as its owner or as a client of the owner.

Owns the change-over when an owner dies: the client that finds the lock free becomes the
owner at once. Commands go to whatever engine is current; reading always happens here, from
the file. What being owner or client takes is in `place`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from durable._authoring.workflow import Workflow
from durable._base.clock import Clock, SystemClock
from durable._base.turnstile import Turnstile
from durable._engine.engine import Engine
from durable._engine.payloads import EnginePayloads
from durable._engine.ports import EnginePort
from durable._engine.remote import serve
from durable._journal.codec import Codec
from durable._journal.driver import DriverFactory, ThreadDriver
from durable._journal.filesystem import canonical_journal_path, check_filesystem
from durable._journal.journal import Journal
from durable._journal.keys import KEY_FILE_VARIABLE, Encryption
from durable._journal.lock import OwnerLock
from durable._journal.reader import Reader
from durable._replay.body import Body
from durable._surface import current, endings, mail
from durable._surface.api import begin, calls_of
from durable._surface.hook_info import HookInfo, find
from durable._surface.management import Managed
from durable._surface.options import (
    RESPONSE_SECONDS,
    Duration,
    check_codec,
    check_durability,
    check_encryption,
    engine_options,
)
from durable._surface.place import Place
from durable._surface.port import CurrentPort
from durable._surface.run import Run
from durable._surface.scoped import Scoped
from durable.errors import ForkedJournalError, RuntimeClosedError, RuntimeNotRunningError

if TYPE_CHECKING:  # of webhooks, which many programs do without
    from durable._surface.messages import WebhookRequest, WebhookResponse
    from durable._surface.signatures import Verifier

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("durable")

# Until the next try to become owner or client after one that failed, as on a full disk.
_RETRY_SECONDS, _RETRY_SECONDS_MAX = 1.0, 60.0


class Runtime(Scoped, Managed):
    """Runs workflows from one journal inside the running event loop.

    Args:
        path: the journal's file, made if it is missing; or a ``file:`` URI.
        durability: ``"full"`` (default): what was acknowledged survives power loss.
            ``"process"``: it survives the death of the process; a power loss may undo the
            last seconds, never more, and never corrupts.
        client: when another process owns the journal, work through it (default). False:
            raise `JournalLockedError` that names the owner.
        retention: how long finished runs are kept: seconds, a `timedelta` or text; default
            30 days; None or ``"forever"`` keeps them.
        drain_seconds: how long closing waits for running attempts. Default 5.
        grace: how long a cancelled run may clean up. Default 30 seconds.
        threads: how many sync steps run at once. Default 32.
        processes: how many worker processes steps with ``executor="process"`` may use.
            Default: the number of processors.
        codec: how values become bytes; default pickle with cloudpickle where needed.
        encryption: the keys with which all values are sealed; see `Encryption`. Default: none.
        idle_runs: how many waiting runs stay in memory. Default 1000.
        webhook_base_url: what the URLs of webhooks begin with, as the world sees the server
            that receives them. Default ``$DURABLE_WEBHOOK_BASE_URL`` or
            ``http://127.0.0.1:8787``, where `durable serve` listens. Recorded per webhook.
        allow_unsafe_filesystem: accept a network or virtual filesystem, at your risk.
        clock, driver: seams for tests and simulation.

    Example:
        >>> async def main() -> None:
        ...     async with Runtime("app.db"):
        ...         run = await start(fulfil, "A-17")
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "process"] = "full",
        client: bool = True,
        retention: Duration | Literal["forever"] | None = "30 days",
        drain_seconds: float = 5.0,
        grace: Duration = 30.0,
        threads: int = 32,
        processes: int | None = None,
        codec: Codec | None = None,
        encryption: Encryption | None = None,
        idle_runs: int = 1000,
        webhook_base_url: str | None = None,
        allow_unsafe_filesystem: bool = False,
        clock: Clock | None = None,
        driver: DriverFactory = ThreadDriver,
    ) -> None:
        check_durability(durability)
        check_codec(codec)
        check_encryption(encryption)
        self.path = canonical_journal_path(path)
        self.payloads = EnginePayloads(codec or Codec())
        self._encryption = encryption
        self._durability = durability
        self._client = client
        self._allow_unsafe = allow_unsafe_filesystem
        self._clock = clock or SystemClock()
        self._driver = driver
        self._options = engine_options(
            retention=retention, grace=grace, drain_seconds=drain_seconds, threads=threads,
            processes=processes, idle_runs=idle_runs, webhook_base_url=webhook_base_url,
        )  # fmt: skip
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._place: Place | None = None
        self._changing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._retry_seconds = _RETRY_SECONDS
        self._opened = False
        self._closed = False
        self._port = CurrentPort(self)
        self.turnstile = Turnstile()

    # --- opening and closing -----------------------------------------------------------

    async def open(self) -> None:
        """Open the journal in the running loop and recover; ``async with`` does this.

        Raises:
            JournalLockedError: another process owns it and `client` is False, or this
                process has it open already.
            UnsafeFilesystemError: it lies where SQLite's WAL is unsafe.
            JournalError: it cannot be opened.
        """
        current.refuse_in_body()
        if self._loop is not None:
            self._require_same_process()
            raise RuntimeNotRunningError("a Runtime is opened once: make a new one to open again")
        self._loop = asyncio.get_running_loop()
        # Here and not in __init__: a Runtime may be made before a fork and opened after it.
        self._pid = os.getpid()
        self._place = Place(self, self._driver, self._clock, self._answer, self._let_go)
        try:
            check_filesystem(self.path, allow_unsafe=self._allow_unsafe)
            await self._change_over()
        except BaseException:
            await self.close()
            raise
        self._opened = True
        endings.watch(self)
        current.opened(self)

    async def open_journal(
        self, drivers: DriverFactory, lock: OwnerLock, *, owner: bool
    ) -> Journal:
        """Open the journal for our place at it."""
        # In a thread: where the keys come from may be slow.
        given = self._encryption
        ring = None if given is None else await asyncio.to_thread(given.ring)
        return await Journal.open(
            self.path,
            clock=self._clock,
            codec=self.payloads.codec,
            ring=ring,
            durability=self._durability,
            driver_factory=drivers,
            owner=owner,
            still_owned=lock.intact if owner else None,
            went_down="ended" in lock.previous,
        )

    def make_engine(self, journal: Journal) -> Engine:
        """Return an engine for the journal that we own."""
        return Engine(journal, self.payloads, self._clock, self._options, self)

    async def close(self, *, drain: bool = True) -> None:
        """Wait for running attempts up to `drain_seconds`, then park the runs and close.

        Runs that are going on are continued when the journal is opened again. Twice is fine.
        With `drain` False running attempts get no more time, and run again then.
        """
        current.refuse_in_body()
        if self._loop is None or self._pid != os.getpid():
            return  # never opened, or by the process that we were forked from
        if self._closing is None:
            if self._engine is not None:
                self._engine.stop()  # before steps can meet a closed runtime
            self._closed = True
            current.closed(self, self._loop)
            endings.forget(self)
            self._closing = asyncio.get_running_loop().create_task(self._close(drain=drain))
        # Who gives up waiting does not stop the closing half way.
        await asyncio.shield(self._closing)

    async def _close(self, *, drain: bool) -> None:
        if self._changing is not None:
            self._changing.cancel()
            await asyncio.wait([self._changing])
        assert self._place is not None
        await self._place.leave(drain=drain)

    def abandon(self) -> None:
        """Let go without waiting, because the process or the loop ends; loses nothing."""
        self._closed = True
        if self._place is not None and self._pid == os.getpid():
            self._place.abandon()

    def _let_go(self) -> bool:
        """Free the lock for another opening in this process, if our loop is closed."""
        if self._loop is None or self._place is None or not self._loop.is_closed():
            return False
        self._closed = True
        self._place.let_go()
        endings.forget(self)
        return True

    def going_down(self, cause: str) -> None:
        """Leave the note that the process ends on request, not by a crash."""
        if self._place is not None:
            self._place.going_down(cause)

    # --- the current engine -----------------------------------------------------------------

    @property
    def _engine(self) -> Engine | None:
        return None if self._place is None else self._place.engine

    async def _answer(self, method: str, fields: dict[str, object]) -> dict[str, object]:
        if self._engine is None:
            raise RuntimeClosedError("the owner of the journal is still opening it")
        try:
            answer: dict[str, object] = await serve(self._engine)(method, fields)
            return answer
        except RuntimeClosedError:
            if not self._closed:
                raise
            # No answer: the connection is about to end, and the client then turns to the
            # next owner, or becomes it.
            never: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
            return await never

    def owner_lost(self, lost: asyncio.Future[str]) -> None:
        """Turn to the next owner, or become it."""
        if not lost.cancelled() and not self._closed:
            self._change_over()

    def _change_over(self) -> asyncio.Task[None]:
        if self._changing is None or self._changing.done():
            assert self._place is not None
            self._place.remote = None
            taking = self._place.take(client=self._client)
            self._changing = asyncio.get_running_loop().create_task(taking)
            self._changing.add_done_callback(self._changed)
        return self._changing

    def _changed(self, changing: asyncio.Task[None]) -> None:
        if changing.cancelled():
            return
        error = changing.exception()
        if error is None:
            self._retry_seconds = _RETRY_SECONDS
        elif self._opened and not self._closed:  # else `open` tells its caller
            assert self._loop is not None
            logger.warning("the journal %s has no owner for us: %s", self.path, error)
            self._clock.call_later(self._loop, self._retry_seconds, self._retry)
            self._retry_seconds = min(2 * self._retry_seconds, _RETRY_SECONDS_MAX)

    def _retry(self) -> None:
        if not self._closed and self._place is not None and self._place.port is None:
            self._change_over()

    async def port(self) -> EnginePort:
        """Return the port that commands go to; for handles of runs."""
        self._require_same_process()
        return self._port  # which asks for an open runtime with each command

    async def engine(self) -> EnginePort:
        """Return the engine that is current: our own, or the owner's."""
        self._require_open()
        assert self._place is not None
        while (port := self._place.port) is None:
            changing = self._change_over()
            await asyncio.wait([changing])
            self._require_open()
            changing.result()
        return port

    def lost(self, engine: EnginePort) -> None:
        """Note that a call to `engine` found its process gone."""
        if self._place is not None and engine is self._place.remote:
            self._change_over()

    def _require_open(self) -> None:
        self._require_same_process()
        if self._closed:
            raise RuntimeClosedError(
                f"the runtime of {self.path} is closed: open it again to go on"
            )
        if self._loop is None:
            raise RuntimeNotRunningError(
                f"the runtime of {self.path} is not open: use it in `async with`"
            )
        if self._loop is not asyncio.get_running_loop():
            current.refuse_in_body()
            raise RuntimeNotRunningError(
                f"the runtime of {self.path} belongs to another event loop: open one in this loop"
            )

    def _require_same_process(self) -> None:
        if self._loop is not None and self._pid != os.getpid():
            raise ForkedJournalError(
                f"the journal {self.path} was opened by process {self._pid} before a fork: "
                "open a Runtime of its own in the child"
            )

    @property
    def reader(self) -> Reader:
        """Answers questions from the journal."""
        self._require_open()
        if self._place is None or self._place.journal is None:
            raise RuntimeNotRunningError(f"the runtime of {self.path} is still being opened")
        return self._place.journal.reader

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop in which it is open."""
        if self._loop is None:
            raise RuntimeNotRunningError(f"the runtime of {self.path} is not open")
        return self._loop

    @property
    def is_open(self) -> bool:
        """Whether it has been opened and not closed."""
        return self._loop is not None and not self._closed

    @property
    def is_owner(self) -> bool:
        """Whether this runtime executes the journal's runs, as opposed to being a client."""
        return self._engine is not None

    @property
    def journal(self) -> Journal:
        """The journal, for inspection and measurements."""
        assert self._place is not None
        assert self._place.journal is not None
        return self._place.journal

    def live_body(self, run_id: str) -> Body | None:
        """Return the body of a run that is in memory here."""
        run = None if self._engine is None else self._engine.scheduler.get(run_id)
        return None if run is None else run.body

    # --- what users call ------------------------------------------------------------------------

    @overload
    async def start(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Run[R]: ...
    @overload
    async def start(self, workflow: str, /, *args: Any, **kwargs: Any) -> Run[Any]: ...
    async def start(self, workflow: Any, /, *args: Any, **kwargs: Any) -> Run[Any]:
        """Start a run on this runtime; see `durable.start`."""
        self._require_open()
        return (await begin(self, [(workflow, args, kwargs)]))[0]

    @overload
    async def start_many(
        self, workflow: Workflow[..., R], arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
    ) -> list[Run[R]]: ...
    @overload
    async def start_many(
        self, workflow: str, arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
    ) -> list[Run[Any]]: ...
    async def start_many(
        self, workflow: Any, arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
    ) -> list[Run[Any]]:
        """Start one run for each set of arguments; see `durable.start_many`."""
        self._require_open()
        return await begin(self, calls_of(workflow, arguments))

    def get_run(self, run_id: str) -> Run[Any]:
        """Return the handle of a run of this journal; lazy."""
        return Run(run_id, self)

    async def resume_hook(
        self, token: str | HookInfo, payload: object = None, *, dedupe_key: str | None = None
    ) -> Run[Any]:
        """Give a hook of this journal its next payload; see `durable.resume_hook`."""
        return await mail.resume(self, token, payload, dedupe_key)

    async def get_hook_by_token(self, token: str) -> HookInfo:
        """Return an open hook of this journal; see `durable.get_hook_by_token`."""
        return await find(self, token)

    async def resume_webhook(
        self,
        token: str,
        request: WebhookRequest,
        *,
        dedupe_key: str | None = None,
        verifiers: Mapping[str, Verifier] | None = None,
        response_timeout: float = RESPONSE_SECONDS,
    ) -> WebhookResponse:
        """Hand a request to a webhook of this journal; see `durable.resume_webhook`."""
        from durable._surface.webhooks import hand_in

        return await hand_in(
            self, token, request, dedupe_key=dedupe_key, verifiers=verifiers,
            response_timeout=response_timeout,
        )  # fmt: skip

    async def send(
        self,
        run: str | Run[Any],
        name: str,
        payload: object = None,
        *,
        dedupe_key: str | None = None,
    ) -> None:
        """Send a payload to a mailbox of a run of this journal; see `durable.send`."""
        await mail.deliver(self, run, name, payload, dedupe_key)

    def __repr__(self) -> str:
        return f"<Runtime {self.path}>"


def default_runtime(path: str) -> Runtime:
    """Return a runtime for where nothing is said but the environment; see `current`."""
    file = os.environ.get(KEY_FILE_VARIABLE)
    return Runtime(path, encryption=Encryption(file) if file else None)


current.set_factory(default_runtime)
