"""Reads one HTTP request from an ASGI server, within limits.

Owns the limits and the refusals: what is too much is refused before it is held in memory,
what is too slow is given up. A `Refusal` carries the response; it says what is wrong with
the request, and never whether a webhook of that token exists.

Servers differ in what they let through, so nothing is taken for granted: headers are any
bytes, the declared length is any text, the body may be longer than declared.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

from durable._surface.headers import Headers
from durable._surface.messages import WebhookResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WEBHOOK_PATH = "/.well-known/workflow/v1/webhook/"
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

# Litestar takes the slash of a mount away, and adds one at the end.
_TOKEN = re.compile("/?" + re.escape(WEBHOOK_PATH[1:]) + r"([A-Za-z0-9_-]{43})/?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_METHOD = re.compile(r"[A-Z]{1,32}")
_SAFE_IN_URL = "!$%&'()*+,-./:;=?@_~"


class Refusal(Exception):  # noqa: N818 - a response on its way, no error of ours
    """The request is answered with `response`; nothing was recorded."""

    def __init__(self, status: int, text: str, *, close: bool = False, **headers: str) -> None:
        super().__init__(text)
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.response = WebhookResponse(text + "\n", status, pairs)
        # The rest of the request is not read, so the connection cannot be used again.
        self.close = close


class ClientGoneError(Exception):
    """The client has closed the connection; there is nobody to answer."""


def not_found() -> Refusal:
    """Return the one answer for every path and every token that leads nowhere."""
    return Refusal(404, "not found", close=True)


@dataclass(frozen=True)
class Limits:
    """What a request may ask of us. Sizes in bytes, times in seconds."""

    body_max: int = 1024 * 1024
    headers_max: int = 100
    headers_bytes_max: int = 32 * 1024
    requests_max: int = 100
    timeout: float = 10.0

    def check(self) -> Limits:
        """Return self.

        Raises:
            ValueError: a limit is no number of its kind.
        """
        for name in ("body_max", "headers_max", "headers_bytes_max", "requests_max"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}: give a whole number from 1")
        check_seconds("timeout", self.timeout)
        return self


def check_seconds(name: str, value: object) -> float:
    """Return a number of seconds.

    Raises:
        ValueError: it is none, or not above 0.
    """
    fine = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fine or not 0 < cast(float, value) < math.inf:
        raise ValueError(f"{name} is {value!r}: give a number of seconds above 0")
    return float(cast(float, value))


def check_methods(methods: Iterable[str]) -> tuple[str, ...]:
    """Return the methods that are let through.

    Raises:
        ValueError: one of them is none, or stands for something else.
    """
    found = (methods,) if isinstance(methods, str) else tuple(methods)
    for method in found:
        if not isinstance(method, str) or not _METHOD.fullmatch(method):
            raise ValueError(f"{method!r} is no method: give names such as 'POST'")
        if method in {"OPTIONS", "CONNECT", "TRACE"}:
            raise ValueError(f"{method} never reaches a webhook: leave it out")
    if not found:
        raise ValueError("methods is empty: give at least one, such as 'POST'")
    return tuple(sorted(set(found)))


def token_of(scope: Scope) -> str | None:
    """Return the token that the path names; None for any other path."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    # Below a mount the path begins with the root, as the specification has it; some
    # frameworks take it off.
    if root and path.startswith(root + "/"):
        path = path[len(root) :]
    found = _TOKEN.fullmatch(path)
    return None if found is None else found[1]


def read_headers(scope: Scope, limits: Limits) -> Headers:
    """Return the headers.

    Raises:
        Refusal: they are too many, or too large together with the URL.
    """
    raw: list[tuple[bytes, bytes]] = list(scope["headers"])
    size = sum(len(name) + len(value) for name, value in raw)
    size += len(scope.get("query_string", b"")) + len(scope.get("raw_path") or b"")
    if len(raw) > limits.headers_max or size > limits.headers_bytes_max:
        raise Refusal(431, "too many or too large headers", close=True)
    # Any byte is a character of Latin-1, so nothing is lost and nothing fails.
    return Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)


def check_length(headers: Headers, limits: Limits) -> None:
    """Refuse a body that is declared too large, before any of it is read."""
    for length in headers.get_all("content-length"):
        if not _LENGTH.fullmatch(length):
            raise Refusal(400, "the content length is no number", close=True)
        if int(length) > limits.body_max:
            raise Refusal(413, "the body is too large", close=True)


async def read_body(receive: Receive, limits: Limits) -> bytes:
    """Return the body.

    Raises:
        Refusal: it is too large, or did not come in time.
        ClientGoneError: the client left half way.
    """
    try:
        async with asyncio.timeout(limits.timeout):
            return await _read_all(receive, limits.body_max)
    except TimeoutError:
        raise Refusal(408, "the body did not come in time", close=True) from None


async def _read_all(receive: Receive, size_max: int) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body += message.get("body") or b""
        if len(body) > size_max:
            raise Refusal(413, "the body is too large", close=True)
        more = message.get("more_body", False)
    return bytes(body)


def url_of(scope: Scope, headers: Headers) -> str:
    """Return the URL as the client asked for it."""
    server = scope.get("server") or ("", None)
    host = headers.get("host") or (server[0] if server[1] is None else f"{server[0]}:{server[1]}")
    # What a URL may not hold is escaped; what the client has escaped stays as it is.
    path = quote(scope.get("raw_path") or str(scope["path"]), safe=_SAFE_IN_URL)
    query = quote(scope.get("query_string", b""), safe=_SAFE_IN_URL)
    url = f"{scope.get('scheme', 'http')}://{host}{path}"
    return f"{url}?{query}" if query else url
