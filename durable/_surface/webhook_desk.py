"""`webhooks`: the ASGI application in front of a runtime.

Owns which runtime that is and who opens it: one that is handed over closed is opened and
closed with the server; any other one is left as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from durable._surface.current import Access, current_runtime
from durable._surface.http_request import METHODS, Limits, check_seconds
from durable._surface.messages import WebhookRequest, WebhookResponse
from durable._surface.options import RESPONSE_SECONDS
from durable._surface.runtime import Runtime
from durable._surface.signatures import Verifier
from durable._surface.webhook_app import DELIVERY_HEADERS, DeliveryId, WebhookApp
from durable._surface.webhooks import (
    FoundWebhook,
    find_webhook,
    receive_request,
)


class RuntimeDesk:
    """Hands requests to a runtime; see the module's docstring.

    Args:
        runtime: None for the one that is current where a request comes.
        response_seconds: how long a manual answer is waited for.
    """

    def __init__(self, runtime: Runtime | None, response_seconds: float) -> None:
        self._runtime = runtime
        self._response_seconds = response_seconds
        self._is_ours = False

    async def open(self) -> None:
        """Open the runtime, if nobody has."""
        if self._runtime is None:
            await current_runtime()
        elif not self._runtime.is_open:
            await self._runtime.open()
            self._is_ours = True

    async def close(self) -> None:
        """Close the runtime, if it was opened here."""
        if self._is_ours and self._runtime is not None:
            await self._runtime.close()

    async def find(self, token: str) -> FoundWebhook:
        """Return the webhook of a token; see `find_webhook`."""
        access: Access = self._runtime or await current_runtime()
        return await find_webhook(access, token)

    async def receive(
        self, found: FoundWebhook, request: WebhookRequest, *, named: bool
    ) -> WebhookResponse | asyncio.Task[WebhookResponse]:
        """Record a request; see `receive_request`."""
        key = request.id if named else None
        return await receive_request(
            found, request, key=key, response_seconds=self._response_seconds
        )


def webhooks(
    runtime: Runtime | None = None,
    *,
    verify: Verifier | None = None,
    verifiers: Mapping[str, Verifier] | None = None,
    methods: Iterable[str] = METHODS,
    delivery_id: DeliveryId = DELIVERY_HEADERS,
    body_max: int = Limits.body_max,
    headers_max: int = Limits.headers_max,
    headers_bytes_max: int = Limits.headers_bytes_max,
    requests_max: int = Limits.requests_max,
    timeout: float = Limits.timeout,
    response_timeout: float = RESPONSE_SECONDS,
) -> WebhookApp:
    """Return an ASGI application that receives the requests of webhooks.

    It serves ``/.well-known/workflow/v1/webhook/{token}``, alone or mounted in Starlette,
    FastAPI, Litestar and the like, also below a prefix, and answers everything else with 404.

    Args:
        runtime: where the runs are. One that is not open is opened and closed with the
            server, if the application runs alone. Default: the one that is open in the
            server's event loop, else the default one.
        verify: checks every request: a function from a `WebhookRequest` to a bool, also an
            async one, such as `HmacVerifier`. A request that does not pass gets 401.
        verifiers: by name, for webhooks that ask for one; see `create_webhook`.
        methods: HTTP methods that reach webhooks. Default: all that carry requests.
        delivery_id: headers in which senders name a delivery; the first one that is there
            counts. Or a function from a `WebhookRequest` to text or None. A delivery that a
            webhook has got before is not recorded again, and is answered in the same way.
        body_max: size of a body in bytes; 413 beyond it. Default 1 MiB.
        headers_max: number of headers; 431 beyond it. Default 100.
        headers_bytes_max: size of URL and headers in bytes; 431 beyond it. Default 32 KiB.
        requests_max: how many are under way at once; 503 beyond it. Default 100.
        timeout: seconds in which a body must have come, with 408 after it; and in which it
            must have been recorded, with 503 after it. Default 10.
        response_timeout: seconds until a manual answer is given up; 504 then. Default 30.

    Raises:
        TypeError, ValueError: an argument is not usable.

    A request is answered with success once it is recorded durably. While it cannot be
    recorded (disk full, run blocked, runtime closed) the answer is 503. Servers write URLs
    into their access logs, and these hold the tokens: switch the log off for this path.

    Example:
        >>> app = webhooks(Runtime("app.db"), verify=HmacVerifier.github("s3cret"))
    """
    if runtime is not None and not isinstance(runtime, Runtime):
        raise TypeError(f"webhooks() needs a Runtime, got {type(runtime).__name__}")
    limits = Limits(body_max, headers_max, headers_bytes_max, requests_max, timeout)
    return WebhookApp(
        RuntimeDesk(runtime, check_seconds("response_timeout", response_timeout)),
        limits,
        methods=methods,
        verify=verify,
        verifiers=verifiers,
        delivery_id=delivery_id,
    )
