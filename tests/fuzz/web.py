"""HTTP: whatever a server lets through, the webhook application answers as documented.

An answer is one of the documented ones and well formed, never 500. What was answered with
success reaches the body of the run, once and in order; nothing else does.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from durable import WebhookRequest, create_webhook, step, workflow
from durable._surface.webhook_app import DELIVERY_HEADERS
from durable.asgi import HmacVerifier, WebhookApp, webhooks
from tests.campaign.programme import FoundError
from tests.fuzz import mutations
from tests.fuzz.aside import open_runtime
from tests.fuzz.target import Judge, Make, Target

ROOT = "/.well-known/workflow/v1/webhook/"
DOCUMENTED = {200, 202, 204, 400, 401, 404, 405, 408, 413, 431}
BODY_MAX = 20_000
_SECRET = "a secret of these tests"
_HEADERS = (
    "content-type", "content-length", "host", "webhook-id", "webhook-timestamp",
    "webhook-signature", "x-hub-signature-256", "x-github-delivery", "idempotency-key",
    "stripe-signature", "x-slack-signature", "x-slack-request-timestamp", "transfer-encoding",
    "content-encoding", "cookie", "authorization", "expect", "",
)  # fmt: skip
_METHODS = (
    "GET",
    "PUT",
    "HEAD",
    "OPTIONS",
    "CONNECT",
    "post",
    "TRACE",
    "PRI",
    "",
    "P\u00d6ST",
    "\0",
)
_VALUES = (
    "application/json", "text/plain; charset=utf-8", "text/plain; charset=idna", "gzip", "0", "17",
    "text/x; charset=rot13", "text/x; charset=undefined", 'text/x; charset="utf-16"', "chunked",
    "text/x; charset=zip", "text/x; charset=unicode_escape", "sha256=00", "v1,AAAA", "t=1,v1=00",
    "t=1704067200,v1=abc,v1=def", "v0=00", "1704067200", "99999999999999", "example.org:80",
    "18446744073709551616", "-1", "1e3", "application/json; charset", "; ; =", "a" * 400,
)  # fmt: skip

seen: dict[str, list[str]] = {}
_urls: dict[str, str] = {}


@step(name="fuzz.published")
async def published(name: str, url: str) -> None:
    _urls[name] = url


@workflow(name="fuzz.taking")
async def taking(name: str, verify: str | None) -> int:
    async with create_webhook(verify=verify) as webhook:
        await published(name, webhook.url)
        async for request in webhook:
            seen[name].append(request.id)
    return 0


class Given(NamedTuple):
    """One request, as a server would hand it over."""

    scope: dict[str, Any]
    messages: list[dict[str, Any]]


# --- inputs ---------------------------------------------------------------------------------


def request(draw: random.Random) -> Given:
    """Return a request: mostly right, with something odd about it."""
    body = _body(draw)
    name = draw.choice(("free", "github", "standard", "stripe", "slack"))
    token = _urls[name].rpartition("/")[2]
    path = ROOT + token if draw.random() < 0.8 else mutations.spoil_text(draw, ROOT + token)
    root = draw.choice(("", "", "", "/app", "/", mutations.text(draw)))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": draw.choice(("1.0", "1.1", "2", "3", "")),
        "method": "POST" if draw.random() < 0.7 else draw.choice(_METHODS),
        "scheme": draw.choice(("http", "https", "")),
        "path": root + path if draw.random() < 0.3 else path,
        "root_path": root,
        "raw_path": draw.choice((None, b"", path.encode(errors="replace"), mutations.noise(draw))),
        "query_string": draw.choice((b"", b"a=1", mutations.noise(draw))),
        "headers": _headers(draw, name, body),
        "server": draw.choice((None, ("localhost", 80), ("/run/x.sock", None))),
        "client": draw.choice((None, ("127.0.0.1", 1))),
    }  # fmt: skip
    return Given(scope, _messages(draw, body))


def _body(draw: random.Random) -> bytes:
    kind = draw.random()
    if kind < 0.4:
        data = mutations.spoil_data(draw, {"id": 7, "paid": True, "lines": [{"n": 1}, {"n": 2}]})
        with suppress(ValueError):
            return json.dumps(data, ensure_ascii=draw.random() < 0.5).encode(
                "utf-8", "surrogatepass"
            )
    if kind < 0.55:
        depth = draw.choice((10, 99, 100, 101, 900, 9000))
        return draw.choice((b"[", b'{"a":', b'["')) * depth + draw.choice((b"", b"]" * depth))
    if kind < 0.65:
        return b"1" * draw.choice((4299, 4300, 4301, BODY_MAX - 1, BODY_MAX, BODY_MAX + 1))
    return mutations.spoil_bytes(draw, b'{"text": "\xc3\xa9\\ud800", "n": 1e999, "x": NaN}')


def _headers(draw: random.Random, name: str, body: bytes) -> list[tuple[bytes, bytes]]:
    pairs: list[tuple[str, str]] = [("host", "example.org")]
    if draw.random() < 0.5:
        pairs.append(("content-length", str(len(body))))
    if draw.random() < 0.5:
        pairs += _signature(draw, name, body)
    for _ in range(draw.choice((0, 1, 2, 5, 101))):
        value = draw.choice(_VALUES) if draw.random() < 0.7 else mutations.text(draw, *_VALUES)
        pairs.append((draw.choice(_HEADERS), value))
    raw = [(k.encode("latin-1"), v.encode("utf-8", "replace")) for k, v in pairs]
    if draw.random() < 0.1:
        raw.append((mutations.noise(draw, 40), mutations.noise(draw, 40_000)))
    draw.shuffle(raw)
    return raw


def _signature(draw: random.Random, name: str, body: bytes) -> list[tuple[str, str]]:
    """Return the headers of a request that is signed rightly, or nearly so."""
    import hmac

    digest = hmac.new(_SECRET.encode(), body, "sha256").hexdigest()
    if draw.random() < 0.3:
        digest = mutations.spoil_text(draw, digest)
    match name:
        case "github":
            return [("x-hub-signature-256", f"sha256={digest}"), ("x-github-delivery", digest[:9])]
        case "stripe":
            return [("stripe-signature", f"t={mutations.number(draw)},v1={digest}")]
        case _:
            return [("webhook-id", mutations.text(draw, "msg_1")), ("idempotency-key", "again")]


def _messages(draw: random.Random, body: bytes) -> list[dict[str, Any]]:
    places = sorted(draw.randint(0, len(body)) for _ in range(draw.choice((0, 0, 1, 3))))
    pieces = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
    found: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    found[-1]["more_body"] = False
    if draw.random() < 0.1:
        found.insert(draw.randint(0, len(found)), {"type": "http.disconnect"})
    if draw.random() < 0.1:
        found.insert(0, {"type": "http.request", "more_body": True})
    return found


# --- judging --------------------------------------------------------------------------------


async def answer_of(app: WebhookApp, given: Given) -> int | None:
    """Return the status that a request is answered with, None for none; judge its form."""
    waiting, sent = list(given.messages), []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(dict(given.scope), receive, send)  # type: ignore[arg-type]
    if not sent:
        return None
    start, body = sent
    for name, value in start["headers"]:
        if not name or set(name + value) & set(b"\r\n\0") or name != name.lower():
            raise FoundError("broken", f"the header {name!r}: {value!r}")
    if body.get("more_body") or len(body["body"]) > 1000:
        raise FoundError("broken", f"the response {body!r:.300}")
    return int(start["status"])


def _is_named(given: Given) -> bool:
    """Tell whether the sender names the delivery, so that it may have come before."""
    names = {name.decode("latin-1").lower() for name, _ in given.scope["headers"]}
    return not names.isdisjoint(name.lower() for name in DELIVERY_HEADERS)


def _look_at(given: Given) -> None:
    """Do with a request what a body does."""
    headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in given.scope["headers"]]
    body = b"".join(message.get("body", b"") for message in given.messages)
    found = WebhookRequest("POST", "http://x/", headers, body)
    found.text()
    repr(found)
    with suppress(ValueError):  # as documented
        found.json()
    again = WebhookRequest.from_data(json.loads(json.dumps(found.to_data())))
    if again != found:
        raise FoundError("corrupt", "the request changed on its way through the journal")


@contextmanager
def _web(place: Path) -> Iterator[tuple[Make, Judge]]:
    accepted = 0
    seen.clear()
    verifiers = {
        "github": HmacVerifier.github(_SECRET), "standard": HmacVerifier.standard("c2VjcmV0" * 4),
        "stripe": HmacVerifier.stripe(_SECRET), "slack": HmacVerifier.slack(_SECRET),
    }  # fmt: skip
    with open_runtime(place / "app.db") as (rt, wait):
        app = webhooks(rt, verifiers=verifiers, body_max=BODY_MAX)
        for name in ("free", *verifiers):
            seen[name] = []
            wait(rt.start(taking, name, None if name == "free" else name))
        wait(rt.settled())

        def judge(given: Given) -> None:
            nonlocal accepted
            before = sum(map(len, seen.values()))
            status = wait(answer_of(app, given))
            wait(rt.settled())
            came = sum(map(len, seen.values())) - before
            if status is not None and status not in DOCUMENTED:
                raise FoundError("broken", f"answered with {status}")
            # A client that leaves when its body is complete is recorded and not answered.
            if came and status is not None and not 200 <= status < 300:
                raise FoundError("corrupt", f"answered with {status}, and recorded")
            if not came and status in {200, 202} and not _is_named(given):
                raise FoundError("lost", f"answered with {status}, and not recorded")
            accepted += came
            _look_at(given)

        yield request, judge
        if accepted != sum(map(len, seen.values())):
            raise FoundError("lost", "not every request that was accepted came to the body")
        if len(set(seen["free"])) != len(seen["free"]):
            raise FoundError("duplicated", f"one delivery twice: {_digest(seen['free'])}")


def _digest(ids: list[str]) -> str:
    return hashlib.sha256(repr(ids).encode()).hexdigest()


WEB = Target("http", 150, _web)
