"""What the tests of webhooks share: a real server, raw sockets, and a desk for requests.

The server is uvicorn in the test's own loop, on a port that the system chooses. `Desk`
stands for the runtime where the subject is HTTP alone: it keeps what it receives.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from durable import WebhookRequest, WebhookResponse
from durable._surface.http_request import WEBHOOK_PATH, Limits
from durable._surface.webhook_app import WebhookApp
from durable.errors import HookNotFoundError

WAIT = 30.0  # seconds until a test gives up
TOKEN = "A" * 43
PATH = WEBHOOK_PATH + TOKEN


@dataclass
class Webhook:
    """A webhook that a desk knows."""

    verifier: str | None = None


@dataclass
class Desk:
    """Keeps the requests it receives, and raises or answers what it is told to."""

    webhooks: dict[str, Webhook] = field(default_factory=lambda: {TOKEN: Webhook()})
    received: list[WebhookRequest] = field(default_factory=list)
    named: list[bool] = field(default_factory=list)
    answer: Any = field(default_factory=lambda: WebhookResponse(status=202))
    trouble: Exception | None = None
    life: list[str] = field(default_factory=list)
    failure: Exception | None = None
    hold: asyncio.Event | None = None

    async def open(self) -> None:
        """Note that the server starts."""
        self.life.append("open")
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        """Note that the server ends."""
        self.life.append("close")

    async def find(self, token: str) -> Webhook:
        """Return the webhook of a token."""
        if token not in self.webhooks:
            raise HookNotFoundError(token)
        return self.webhooks[token]

    async def receive(self, found: Any, request: WebhookRequest, *, named: bool) -> Any:
        """Keep a request."""
        if self.hold is not None:
            await self.hold.wait()
        if self.trouble is not None:
            raise self.trouble
        self.received.append(request)
        self.named.append(named)
        return self.answer() if callable(self.answer) else self.answer


def app_for(desk: Desk, **options: Any) -> WebhookApp:
    """Return the application for a desk; options are those of `Limits` and of the app."""
    known = set(Limits.__dataclass_fields__)
    limits = Limits(**{name: options.pop(name) for name in known & options.keys()})
    return WebhookApp(desk, limits, **options)


@dataclass
class Site:
    """An application that is being served."""

    port: int
    client: httpx.AsyncClient

    async def raw(self, *parts: bytes, read: bool = True) -> bytes:
        """Send bytes as they are, each part once the one before has left; return the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            if not read:
                return b""
            return await asyncio.wait_for(reader.read(), WAIT)
        except ConnectionError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def serving(app: Any, *, lifespan: str = "on") -> AsyncIterator[Site]:
    """Serve an application on a port of its own, until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            app, http="h11", ws="none", lifespan=lifespan, log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        # Without the handlers of signals, which belong to the test's process.
        serving = asyncio.create_task(server._serve([listening]))
        try:
            while not server.started and not serving.done():
                await asyncio.sleep(0)
            base = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=base, timeout=WAIT, verify=False) as client:
                yield Site(port, client)
        finally:
            server.should_exit = True
            await serving


def status_of(answer: bytes) -> int:
    """Return the status of a raw response."""
    return int(answer.split(b" ", 2)[1])


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a raw POST request with the headers given and no others but `Host`."""
    lines = [f"POST {path} HTTP/1.1", "Host: example.org", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
