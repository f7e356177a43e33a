"""`durable serve`: a server for webhooks, with the runs behind them.

Owns what is served (a module's workflows, a `Runtime`, or an ASGI application with a runtime
beside it), the address, and the order of beginning and ending: the runtime is open before
the first request is taken, and is closed after the last one is answered.

uvicorn does the rest and is an extra: ``pip install 'durable[web]'``. It writes no access
log here, because its lines would hold the tokens.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from durable._journal.keys import KEY_FILE_VARIABLE
from durable._surface.api import new_event_loop
from durable._surface.current import all_open, journal_path
from durable._surface.http_request import Receive, Scope, Send
from durable._surface.options import BASE_URL_VARIABLE
from durable._surface.runtime import Runtime, default_runtime
from durable._surface.webhook_desk import webhooks
from durable.errors import DurableError

# How long requests may go on once the server is told to end.
GRACE_SECONDS = 5

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Message = MutableMapping[str, Any]


class ServeError(DurableError):
    """There is nothing to serve, or no way to."""


def serve(
    target: str,
    *,
    host: str,
    port: int,
    journal: str | None,
    base_url: str | None,
    key_file: str | None = None,
) -> int:
    """Serve until a signal ends it; return the exit code.

    Args:
        target: a module, or ``module:name`` of a `Runtime` or an ASGI application in it.
        host, port: where to listen; port 0 for any free one.
        journal: the journal's file; default ``$DURABLE_JOURNAL`` or ``durable.db``.
        base_url: what the URLs of webhooks begin with; default the server's own address.
        key_file: the keys of the journal; default ``$DURABLE_KEY_FILE`` or none.

    Raises:
        ServeError: uvicorn is not installed, or the target cannot be served.
        OSError: the address cannot be had. DurableError: the journal cannot be opened.
    """
    _require_uvicorn()
    with _listen(host, port) as listening:
        address = _address(listening)
        if base_url is not None:
            os.environ[BASE_URL_VARIABLE] = base_url
        os.environ.setdefault(BASE_URL_VARIABLE, address)
        if journal is not None:
            os.environ["DURABLE_JOURNAL"] = journal
        if key_file is not None:
            os.environ[KEY_FILE_VARIABLE] = key_file
        _run(Served(load(target)), listening, address)
    return 0


def _require_uvicorn() -> None:
    if importlib.util.find_spec("uvicorn") is None:
        raise ServeError(
            "durable serve needs uvicorn, which is not installed: pip install 'durable[web]'"
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at {host}, port {port}: {error}") from None


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    # Nobody can be reached at "any address"; from this machine it is at home.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# --- what is served ---------------------------------------------------------------------------


def load(target: str) -> Asgi:
    """Return the ASGI application that `target` names.

    A module by itself is imported for its workflows, which run from the journal at
    ``$DURABLE_JOURNAL`` or ``durable.db``.

    Raises:
        ServeError: there is no such module or name, or it is nothing that can be served.
    """
    module_name, _, name = target.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` has it
    module = _import(module_name)
    if not name:
        return webhooks(default_runtime(journal_path()))
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Runtime):
        return webhooks(found)
    if found is None or not callable(found):
        raise ServeError(
            f"{target} is {found!r}: name a Runtime or an ASGI application, or the module alone"
        )
    return cast(Asgi, found)


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks something itself
    except (TypeError, ValueError):
        pass  # "", ".shop"
    raise ServeError(
        f"there is no module {name!r}: give its name as in an import statement, in the folder "
        "that holds it"
    )


class Served:
    """An application, with a runtime open while it is served.

    If the application has opened none by the end of its start, one is opened here: so that
    runs go on as soon as the server is up, and not only once a request asks for them.
    """

    def __init__(self, app: Asgi) -> None:
        self._app = app
        self._live: _Lifespan | None = None

    @property
    def failure(self) -> str | None:
        """Why the application, or its runtime, could not be started."""
        return None if self._live is None else self._live.failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass requests on; see to the runtime at the beginning and the end."""
        if scope["type"] != "lifespan":
            return await self._app(scope, receive, send)
        live = self._live = _Lifespan(receive, send)
        try:
            await self._app(scope, live.receive, live.send)
        except Exception:
            if live.heard:
                raise
        if not live.heard:  # an application that knows nothing of a beginning and an end
            await live.by_itself()


class _Lifespan:
    """Stands between an application and its server, where both speak of beginning and end."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.heard = False
        self.failure: str | None = None
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        self.heard = True
        # What we have refused to begin, the server will not end.
        return await self._receive() if self.failure is None else {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            message = await self._begin(message)
        elif kind == "lifespan.startup.failed":
            self.failure = str(message.get("message", ""))
        elif self.failure is not None:
            return
        else:
            await self._end()
        await self._send(message)

    async def by_itself(self) -> None:
        await self._receive()
        await self.send({"type": "lifespan.startup.complete"})
        if self.failure is None:
            await self._receive()
            await self.send({"type": "lifespan.shutdown.complete"})

    async def _begin(self, message: Message) -> Message:
        try:
            if not all_open():
                await default_runtime(journal_path()).open()
        except (DurableError, OSError) as error:
            self.failure = str(error)
            return {"type": "lifespan.startup.failed", "message": self.failure}
        return message

    async def _end(self) -> None:
        # Also those that nobody has opened by hand: the signal that ends the server ends the
        # process before its loop would close them.
        for runtime in all_open():
            await runtime.close()


# --- the server -------------------------------------------------------------------------------


def _run(app: Served, listening: socket.socket, address: str) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(f"durable serves {address}", flush=True)

    config = uvicorn.Config(
        app,
        http="h11",  # which limits what headers may take in memory
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            runner.run(Server(config).serve(sockets=[listening]))
        except SystemExit:  # in place of a start, which is told below
            if app.failure is None:
                raise
    if app.failure is not None:
        raise ServeError(app.failure)
