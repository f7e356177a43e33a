"""The ASGI application that receives webhooks.

Owns the order in which a request is judged: path, method, headers, whether the webhook
exists, length, body, signature; only then is it recorded, and only what is durable is
answered with success. Everything that leads nowhere gets the same 404.

A client that leaves before its body is complete has sent nothing. One that leaves after is
recorded all the same, for some senders never wait.

Writes no payload, header or token to a log; an exception of a verifier is logged by its
type and place alone, since its text may quote the payload.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from durable._surface.http_request import (
    METHODS,
    ClientGoneError,
    Limits,
    Receive,
    Refusal,
    Scope,
    Send,
    check_length,
    check_methods,
    not_found,
    read_body,
    read_headers,
    token_of,
    url_of,
)
from durable._surface.messages import WebhookRequest, WebhookResponse
from durable._surface.signatures import Verdict, Verifier
from durable.errors import (
    HookNotFoundError,
    JournalError,
    PayloadTooLargeError,
    RuntimeNotRunningError,
    WebhookVerifierError,
    WorkflowRunBlockedError,
)

logger = logging.getLogger("durable")

# Headers in which senders name a delivery, so that one that is sent again is told.
DELIVERY_HEADERS = (
    "Webhook-Id",
    "Svix-Id",
    "Idempotency-Key",
    "X-GitHub-Delivery",
    "X-Shopify-Webhook-Id",
)

# How a request's delivery is named: by these headers, or as this function says.
DeliveryId = Sequence[str] | Callable[[WebhookRequest], str | None]

_NAME_CHARACTERS_MAX = 200

_ALWAYS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Found(Protocol):
    """A webhook that is waiting for requests."""

    @property
    def verifier(self) -> str | None:
        """The name of the verifier that it asks for."""


F = TypeVar("F", bound=Found)


class Desk(Protocol[F]):
    """Where requests are handed in."""

    async def open(self) -> None:
        """Make ready to receive; called as the server starts."""

    async def close(self) -> None:
        """Undo `open`."""

    async def find(self, token: str) -> F:
        """Return the webhook of a token.

        Raises:
            HookNotFoundError: there is none, or it takes no requests any more.
        """

    async def receive(
        self, found: F, request: WebhookRequest, *, named: bool
    ) -> WebhookResponse | asyncio.Task[WebhookResponse]:
        """Record a request; return the answer, or what will have it.

        Args:
            named: the request's id is its sender's: the same delivery is recorded once.
        """


class WebhookApp:
    """See the module's docstring; made by `durable.asgi.webhooks`, whose options these are.

    Args:
        desk: where requests go.
        limits: what a request may ask of us.
    """

    def __init__(
        self,
        desk: Desk[Any],
        limits: Limits,
        *,
        methods: Iterable[str] = METHODS,
        verify: Verifier | None = None,
        verifiers: Mapping[str, Verifier] | None = None,
        delivery_id: DeliveryId = DELIVERY_HEADERS,
    ) -> None:
        self._desk = desk
        self._limits = limits.check()
        self._methods = frozenset(check_methods(methods))
        self._allow = ", ".join(sorted({*self._methods, "OPTIONS"}))
        self._verify = verify
        self._verifiers = dict(verifiers or {})
        self._delivery_id = delivery_id if callable(delivery_id) else _header_names(delivery_id)
        self._busy = 0
        for verifier in [*self._verifiers.values(), *([] if verify is None else [verify])]:
            if not callable(verifier):
                raise TypeError(
                    f"the verifier {verifier!r} is no function: give one from a WebhookRequest to "
                    "a bool, such as HmacVerifier.github(secret)"
                )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of an ASGI server.

        Raises:
            RuntimeError: it is of a kind that does not exist in ASGI 3.
        """
        kind = scope["type"]
        if kind == "http":
            await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await self._live(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise RuntimeError(f"durable's webhooks do not speak {kind!r}")

    # --- the server's life ---------------------------------------------------------------

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._desk.open()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._desk.close()
        except Exception as error:
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    # --- one request -------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        close = False
        try:
            response = await self._admit(scope, receive)
        except Refusal as refusal:
            response, close = refusal.response, refusal.close
        except ClientGoneError:
            return
        try:
            await _send(send, response, scope, close=close)
        except OSError:
            pass  # the client has left, and what is recorded is recorded

    async def _admit(self, scope: Scope, receive: Receive) -> WebhookResponse:
        if self._busy >= self._limits.requests_max:
            raise Refusal(503, "too many requests at once", close=True, retry_after="1")
        self._busy += 1
        try:
            return await self._answer(scope, receive)
        except HookNotFoundError:
            # Refused before its body is read, or ended since: it makes no difference.
            raise not_found() from None
        except PayloadTooLargeError:
            raise Refusal(413, "the body is too large") from None
        except (JournalError, RuntimeNotRunningError, WorkflowRunBlockedError) as error:
            logger.warning("a request to a webhook could not be recorded: %s", error)
            raise Refusal(503, "not now", retry_after="5") from None
        except (Refusal, ClientGoneError, asyncio.CancelledError):
            raise
        except Exception as error:
            _log_defect("a webhook could not be received", error)
            raise Refusal(500, "internal error", close=True) from None
        finally:
            self._busy -= 1

    async def _answer(self, scope: Scope, receive: Receive) -> WebhookResponse:
        token = token_of(scope)
        if token is None:
            raise not_found()
        method = str(scope["method"])
        if method == "OPTIONS":
            return WebhookResponse(status=204, headers={"allow": self._allow})
        if method not in self._methods:
            raise Refusal(405, "method not allowed", close=True, allow=self._allow)
        headers = read_headers(scope, self._limits)
        found = await self._desk.find(token)
        check_length(headers, self._limits)
        body = await read_body(receive, self._limits)
        request = WebhookRequest(method, url_of(scope, headers), headers, body)
        request, named = await self._named(found, request)
        answer = await self._record(found, request, named=named)
        if isinstance(answer, WebhookResponse):
            return answer
        return await _unless_gone(answer, receive)

    async def _record(
        self, found: Any, request: WebhookRequest, *, named: bool
    ) -> WebhookResponse | asyncio.Task[WebhookResponse]:
        try:
            async with asyncio.timeout(self._limits.timeout):
                return await self._desk.receive(found, request, named=named)
        except TimeoutError:
            # The disk is full, or busy: what cannot be recorded now may be so later.
            raise Refusal(503, "not now", retry_after="5") from None

    async def _named(self, found: Found, request: WebhookRequest) -> tuple[WebhookRequest, bool]:
        """Return the request under the name of its delivery, and whether it has one."""
        signed: str | None = None
        for verifier in self._verifiers_of(found):
            verdict = await _judge(verifier, request)
            if not verdict:
                raise Refusal(401, "the signature is missing or wrong")
            if isinstance(verdict, str):
                signed = signed or verdict
        name = self._name(request, signed)
        return (request, False) if name is None else (_renamed(request, name), True)

    def _verifiers_of(self, found: Found) -> list[Verifier]:
        chosen = [] if self._verify is None else [self._verify]
        if found.verifier is None:
            return chosen
        if found.verifier not in self._verifiers:
            logger.error("%s", WebhookVerifierError(found.verifier))
            raise Refusal(503, "not now", retry_after="60")
        return [*chosen, self._verifiers[found.verifier]]

    def _name(self, request: WebhookRequest, signed: str | None) -> str | None:
        if callable(self._delivery_id):
            return _called(self._delivery_id, request)
        if signed is not None:
            return signed  # not to be outdone by a header that whoever repeats it may add
        names = (request.header(name) for name in self._delivery_id)
        return next((name for name in names if name), None)


def _header_names(given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise TypeError(
            f"delivery_id is {given!r}: give a sequence of names of headers, or a function from "
            "a WebhookRequest to text or None"
        )
    return tuple(given)


def _called(name: Callable[[WebhookRequest], str | None], request: WebhookRequest) -> str | None:
    try:
        found = name(request)
    except Exception as error:
        # Most likely the body is not what the function expects.
        _log_defect("the delivery_id of a webhook could not be told", error)
        raise Refusal(400, "the delivery has no id") from None
    if found is not None and not isinstance(found, str):
        raise TypeError(f"delivery_id returned a {type(found).__name__}, not text or None")
    return found or None


async def _judge(verifier: Verifier, request: WebhookRequest) -> Verdict:
    verdict = verifier(request)
    return await verdict if inspect.isawaitable(verdict) else verdict


def _renamed(request: WebhookRequest, name: str) -> WebhookRequest:
    if len(name) > _NAME_CHARACTERS_MAX or not name.isprintable():
        name = "sha256:" + sha256(name.encode(errors="replace")).hexdigest()
    return replace(request, id=name)


async def _unless_gone(answer: asyncio.Task[WebhookResponse], receive: Receive) -> WebhookResponse:
    """Return the answer; leave with the client if that leaves first."""
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientGoneError
    finally:
        gone.cancel()
        answer.cancel()


async def _disconnected(receive: Receive) -> None:
    with suppress(Exception):  # a server that can tell no more will not send either
        while (await receive())["type"] != "http.disconnect":
            pass


async def _send(
    send: Send, response: WebhookResponse, scope: Scope, *, close: bool = False
) -> None:
    pairs = [(name.lower().encode(), v.encode("latin-1")) for name, v in response.headers.pairs]
    pairs += [pair for pair in _ALWAYS if pair[0].decode() not in response.headers]
    if response.status not in {204, 304}:
        pairs.append((b"content-length", str(len(response.body)).encode()))
    if close and str(scope.get("http_version", "1.1")).startswith("1"):
        pairs.append((b"connection", b"close"))
    body = b"" if scope["method"] == "HEAD" else response.body
    await send({"type": "http.response.start", "status": response.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _log_defect(what: str, error: Exception) -> None:
    places = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s: %s at\n%s", what, type(error).__name__, places)
