"""What webhooks receive and answer: `WebhookRequest` and `WebhookResponse`.

Owns these values, the form in which they are recorded, and the rules for a response: what
may be written into a header, and what stands for a response ("ok", 204, a dict).

The recorded form is plain data (None, bool, int, str, list, dict), so that every codec can
hold it, an older journal can be read after these classes have changed, and displaying it
loads nothing. A body that is UTF-8 is recorded as text, which keeps it readable; any
other one in base64. Both come back byte for byte.

Neither a token nor a payload is ever part of a `repr`.
"""

from __future__ import annotations

import codecs
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import Any

from durable._surface.answering import answer
from durable._surface.headers import HeaderPairs, Headers
from durable.errors import WrongContextError

# How deep the arrays and objects of a request's JSON may nest.
JSON_DEPTH_MAX = 100
# Responses wait in memory for a delivery that is repeated, so they stay small.
RESPONSE_BYTES_MAX = 1024 * 1024
RESPONSE_HEADERS_MAX = 64

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# The server's own: they tell where a message ends, and a wrong one lets two be confused.
_SERVERS = frozenset(
    "connection content-length keep-alive te trailer transfer-encoding upgrade".split()
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# Deletes all but brackets, and makes one kind of them.
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
# Python calls these charsets too; they are escapes, and some take quadratic time.
_NO_CHARSETS = frozenset(
    "idna punycode raw-unicode-escape raw_unicode_escape undefined unicode-escape "
    "unicode_escape utf-7".split()
)
_WITHOUT_BODY = frozenset({204, 205, 304})


@dataclass(frozen=True, repr=False)
class WebhookRequest:
    """A request that a webhook received. Plain data, delivered to the body by value.

    Made by hand in tests and for `resume_webhook`: headers may be a mapping or pairs, the body
    text (as UTF-8), and the id may be left out.

    Attributes:
        method: such as ``"POST"``.
        url: as the client asked for it. Its host is what the client says it is.
        headers: `Headers`; duplicates are kept.
        body: the bytes as they were sent: never decompressed.
        id: names the delivery. The same delivery sent again has the same one, if its sender
            gives ids (see `durable.asgi.webhooks`); else it is random.

    Example:
        >>> request = WebhookRequest("POST", "https://example.org/", body=b'{"paid": true}')
        >>> request.json()["paid"]
        True
    """

    method: str
    url: str
    headers: Headers
    body: bytes
    id: str
    # Ours: under which its sender waits for `respond_with`; "" where the webhook answers by
    # itself; None for a request that came to no webhook, as in a test.
    answer_key: str | None = field(compare=False)

    def __init__(
        self,
        method: str,
        url: str,
        headers: HeaderPairs = (),
        body: bytes | str = b"",
        id: str | None = None,
        *,
        answer_key: str | None = None,
    ) -> None:
        given = {
            "method": method,
            "url": url,
            "headers": headers if isinstance(headers, Headers) else Headers(headers),
            "body": _bytes(body),
            "id": token_urlsafe(16) if id is None else id,
            "answer_key": answer_key,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def header(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of a header, in any case of letters, or `default`.

        Example:
            ``request.header("content-type", "text/plain")``
        """
        return self.headers.get(name, default)

    def text(self) -> str:
        """Return the body as text, in the charset that the request names, else UTF-8.

        Bytes that are none of it become U+FFFD.

        Example:
            ``WebhookRequest("POST", "", body="grüße".encode()).text() == "grüße"``
        """
        return self.body.decode(_charset(self.headers.get("content-type", "")), "replace")

    def json(self) -> Any:
        """Return the value of the body, which is JSON.

        Raises:
            ValueError: it is not JSON, or nests deeper than 100 arrays and objects.

        Example:
            ``order = request.json()["order"]``
        """
        value = None
        try:
            value = json.loads(self.body)
        except RecursionError:
            deep = True
        else:
            # Not where the stack happens to end: a replay must find the same.
            deep = _is_deep(self.body)
        if not deep:
            return value
        raise ValueError(f"the body nests deeper than {JSON_DEPTH_MAX} arrays and objects")

    async def respond_with(self, response: object) -> bool:
        """Answer the sender, who waits: for a webhook with ``respond_with="manual"``.

        Args:
            response: a `WebhookResponse`; a status such as 204; text; bytes; or a dict or
                list, which is sent as JSON.

        Returns:
            Whether the sender was waiting and gets it. False when it has gone, has been told
            that it took too long, or has got an answer before: then nothing is sent, but if
            it repeats this delivery soon, it gets the answer that was given first.

        Raises:
            TypeError, ValueError: no such response can be sent.
            WrongContextError: the webhook answers by itself; or this is neither an async
                step nor the workflow body.

        An answer is for a connection and is not recorded: after a crash it is gone, and the
        step that gave it runs again. A request that came to no webhook is waited for by
        nobody, so that a step can be tested with one.

        Example:
            >>> @step
            ... async def accept(request: WebhookRequest) -> None:
            ...     await request.respond_with({"accepted": request.json()["id"]})
        """
        data = WebhookResponse.of(response).to_data()
        if self.answer_key is None:
            return False
        if not self.answer_key:
            raise WrongContextError(
                "this webhook has answered by itself: create it with "
                'create_webhook(respond_with="manual") to answer its requests'
            )
        return await answer(self.answer_key, data)

    def to_data(self) -> dict[str, Any]:
        """Return the form in which the request is recorded: plain data."""
        pairs = [list(pair) for pair in self.headers.pairs]
        given = {"id": self.id, "method": self.method, "url": self.url, "headers": pairs}
        return given | _body_data(self.body)

    @classmethod
    def from_data(cls, data: Mapping[str, Any], answer_key: str | None = None) -> WebhookRequest:
        """Return the request that `to_data` has written down."""
        headers = Headers((name, value) for name, value in data["headers"])
        body = _data_body(data)
        return cls(
            data["method"], data["url"], headers, body, data["id"], answer_key=answer_key
        )  # fmt: skip

    def __repr__(self) -> str:
        # The URL holds the token, and the query may hold anything.
        names = ", ".join(self.headers)
        return f"<WebhookRequest {self.method} {len(self.body)} bytes, headers: {names}>"


@dataclass(frozen=True, repr=False)
class WebhookResponse:
    """What a webhook answers.

    Args:
        body: bytes or text (sent as UTF-8). Default empty, at most 1 MiB.
        status: 200 to 599. Default 200.
        headers: as a mapping or as pairs. The content type defaults to plain text for
            text, else to bytes; the content length is the server's.

    Raises:
        ValueError, TypeError: no such response can be sent; nothing was recorded.

    Example:
        ``WebhookResponse("thank you", 201, {"x-order": "A-17"})``
    """

    body: bytes = b""
    status: int = 200
    headers: Headers = field(default_factory=Headers)

    def __init__(
        self, body: bytes | str = b"", status: int = 200, headers: HeaderPairs = ()
    ) -> None:
        if not isinstance(body, (bytes, bytearray, memoryview, str)):
            raise TypeError(
                f"the body is {body!r}: give bytes or text, or use WebhookResponse.json"
            )
        content = body.encode() if isinstance(body, str) else bytes(body)
        pairs = Headers(headers)
        if content and "content-type" not in pairs:
            kind = "text/plain; charset=utf-8"
            kind = kind if isinstance(body, str) else "application/octet-stream"
            pairs = Headers([*pairs.pairs, ("content-type", kind)])
        _check_response(content, status, pairs)
        object.__setattr__(self, "body", content)
        object.__setattr__(self, "status", status)
        object.__setattr__(self, "headers", pairs)

    @classmethod
    def json(cls, value: object, status: int = 200, headers: HeaderPairs = ()) -> WebhookResponse:
        """Return a response whose body is `value` as JSON.

        Example:
            ``WebhookResponse.json({"ok": True})``
        """
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        pairs = Headers(headers)
        if "content-type" not in pairs:
            pairs = Headers([*pairs.pairs, ("content-type", "application/json")])
        return cls(text.encode(), status, pairs)

    @classmethod
    def of(cls, given: object) -> WebhookResponse:
        """Return the response that `given` stands for.

        Args:
            given: a `WebhookResponse`; a status such as 204; text; bytes; or a dict or list,
                which is sent as JSON.

        Raises:
            TypeError, ValueError: it stands for none.
        """
        if isinstance(given, WebhookResponse):
            return given
        if isinstance(given, int) and not isinstance(given, bool):
            return cls(status=given)
        if isinstance(given, (str, bytes)):
            return cls(given)
        if isinstance(given, (dict, list)):
            return cls.json(given)
        raise TypeError(
            f"{given!r} is no response: give a WebhookResponse, a status, text, bytes, or a dict "
            "or list for JSON"
        )

    def to_data(self) -> dict[str, Any]:
        """Return the form in which the response is recorded: plain data."""
        pairs = [list(pair) for pair in self.headers.pairs]
        return {"status": self.status, "headers": pairs} | _body_data(self.body)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> WebhookResponse:
        """Return the response that `to_data` has written down."""
        headers = Headers((name, value) for name, value in data["headers"])
        return cls(_data_body(data), data["status"], headers)

    def __repr__(self) -> str:
        return f"<WebhookResponse {self.status} {len(self.body)} bytes>"


def _bytes(body: object) -> bytes:
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise TypeError(
        f"the body is a {type(body).__name__}: give bytes or text (json.dumps makes text, "
        "WebhookResponse.json a response)"
    )


def _check_response(body: bytes, status: int, headers: Headers) -> None:
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"the status is {status!r}: give a whole number from 200 to 599")
    if body and status in _WITHOUT_BODY:
        raise ValueError(f"a response of status {status} has no body: leave it out")
    if len(body) > RESPONSE_BYTES_MAX:
        raise ValueError(
            f"the body has {len(body):,} bytes, the limit is {RESPONSE_BYTES_MAX:,}: answer with "
            "a link to it"
        )
    if len(headers.pairs) > RESPONSE_HEADERS_MAX:
        raise ValueError(f"a response has at most {RESPONSE_HEADERS_MAX} headers")
    for name, value in headers.pairs:
        _check_header(name, value)


def _check_header(name: str, value: str) -> None:
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"the header {name!r} must have a name and a value of type str")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header: use letters, digits and hyphens")
    if name.lower() in _SERVERS:
        raise ValueError(f"the header {name!r} is written by the server: leave it out")
    if not _VALUE.fullmatch(value):
        # A line break would begin another header, or another response.
        raise ValueError(f"the value of the header {name!r} holds characters that none may hold")


def _body_data(body: bytes) -> dict[str, str]:
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": b64encode(body).decode()}


def _data_body(data: Mapping[str, Any]) -> bytes:
    text = data.get("text")
    return b64decode(data.get("base64", "")) if text is None else text.encode()


def _charset(content_type: str) -> str:
    found = _CHARSET.search(content_type)
    try:
        name = codecs.lookup(found[1]).name if found else "utf-8"
        b" ".decode(name, "replace")  # there are codecs that are not for text
    except (LookupError, ValueError):
        return "utf-8"
    return "utf-8" if name in _NO_CHARSETS else name


def _is_deep(body: bytes) -> bool:
    """Tell whether JSON nests too deeply; in few passes at the speed of C, as it may be large."""
    if body.count(b"[") + body.count(b"{") <= JSON_DEPTH_MAX:
        return False
    brackets = _STRING.sub(b"", body).translate(_BRACKETS, _OTHERS)
    for _ in range(JSON_DEPTH_MAX):
        brackets = brackets.replace(b"[]", b"")  # the innermost ones
    return bool(brackets)
