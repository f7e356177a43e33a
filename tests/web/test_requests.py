"""Requests over a real server: what is let through, what is refused, and how."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from durable import WebhookRequest, WebhookResponse
from durable.errors import (
    HookNotFoundError,
    JournalError,
    PayloadTooLargeError,
    RuntimeClosedError,
)
from tests.web.rig import PATH, TOKEN, WAIT, Desk, Webhook, app_for, post, serving, status_of

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


# --- what a webhook receives ------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
async def test_request_of_every_usual_method_is_received(method: str) -> None:
    """And is answered with 202, with an empty body."""
    desk = Desk()
    async with serving(app_for(desk)) as site:
        response = await site.client.request(method, PATH)
    assert (response.status_code, response.content) == (202, b"")
    assert [request.method for request in desk.received] == [method]


async def test_request_arrives_as_it_was_sent() -> None:
    """Method, URL with its query, headers with duplicates, and the bytes of the body."""
    desk = Desk()
    headers = [("X-Tag", "one"), ("X-Tag", "two"), ("X-Odd", b"gr\xfc\xdfe")]
    async with serving(app_for(desk)) as site:
        url = f"{PATH}?a=1&b=%20x"
        await site.client.post(url, content=b"\x00\xff", headers=headers)
    (request,) = desk.received
    assert (request.method, request.body) == ("POST", b"\x00\xff")
    assert request.url == f"http://127.0.0.1:{site.port}{PATH}?a=1&b=%20x"
    assert request.headers.get_all("x-tag") == ["one", "two"]
    assert request.header("X-ODD") == "grüße"


async def test_response_is_what_the_webhook_answers() -> None:
    """Status, headers and body; a HEAD request gets the same without the body."""
    desk = Desk(answer=WebhookResponse("tea", 418, {"x-pot": "blue", "cache-control": "public"}))
    async with serving(app_for(desk)) as site:
        full = await site.client.get(PATH)
        head = await site.client.head(PATH)
    assert (full.status_code, full.text, full.headers["x-pot"]) == (418, "tea", "blue")
    assert full.headers["cache-control"] == "public"
    assert (head.status_code, head.content, head.headers["x-pot"]) == (418, b"", "blue")


async def test_compressed_body_is_delivered_compressed() -> None:
    """Nothing is ever unpacked here, so a bomb stays as small as it was sent."""
    desk = Desk()
    async with serving(app_for(desk)) as site:
        headers = {"content-encoding": "gzip"}
        await site.client.post(PATH, content=b"\x1f\x8bnot really", headers=headers)
    assert desk.received[0].body == b"\x1f\x8bnot really"


async def test_chunked_body_is_put_together() -> None:
    """A body without a declared length is fine below the limit."""
    desk = Desk()

    async def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 100

    async with serving(app_for(desk)) as site:
        response = await site.client.post(PATH, content=chunks())
    assert response.status_code == 202
    assert desk.received[0].body == b"x" * 10_000


# --- what leads nowhere -----------------------------------------------------------------

STRANGE_PATHS = [
    "/", "", "/.well-known/workflow/v1/webhook", "/.well-known/workflow/v1/webhook/",
    PATH + "//", PATH + "x", PATH[:-1], PATH + "/more", PATH.upper(), "/x" + PATH,
    PATH[:-1] + "%00", PATH[:-1] + "%2F", PATH[:-1] + "%C3%A9", PATH[:-1] + "%ff%fe", PATH + "%0a",
    "//.well-known" + PATH, "/x/.." + PATH, PATH + "/.",
    PATH.replace(TOKEN, "B" * 43), PATH.replace(TOKEN, "B" * 4000),
    "/.well-known/workflow/v2/webhook/" + TOKEN,
]  # fmt: skip


async def test_all_that_leads_nowhere_gets_the_same_404() -> None:
    """Unknown, ended, malformed: status, headers and body are equal, but for the date."""
    desk = Desk()
    async with serving(app_for(desk)) as site:
        paths = [path.encode().decode("latin-1") for path in STRANGE_PATHS]
        answers = {
            _dateless(await site.raw(post(path or "x", b"x" * 50, "Content-Length: 50")))
            for path in paths
        }
        desk.trouble = HookNotFoundError(TOKEN)  # it ended while the body came
        answers.add(_dateless(await site.raw(post(PATH, b"x" * 50, "Content-Length: 50"))))
    assert len(answers) == 1, answers
    assert status_of(answers.pop()) == 404
    assert desk.received == []


def _dateless(answer: bytes) -> bytes:
    return re.sub(rb"date: .*\r\n", b"", answer)


async def test_body_for_an_unknown_token_is_not_read() -> None:
    """Who does not know a token cannot make us hold anything."""
    async with serving(app_for(Desk(webhooks={}))) as site:
        head = post(PATH, b"", f"Content-Length: {10**9}")
        assert status_of(await site.raw(head)) == 404


async def test_options_are_told_without_a_delivery() -> None:
    """The answer does not depend on the token."""
    desk = Desk()
    async with serving(app_for(desk, methods=["POST"])) as site:
        for token in (TOKEN, "B" * 43):
            response = await site.client.options(PATH.replace(TOKEN, token))
            assert (response.status_code, response.headers["allow"]) == (204, "OPTIONS, POST")
    assert desk.received == []


@pytest.mark.parametrize("method", ["TRACE", "BREW", "GET"])
async def test_other_methods_are_refused(method: str) -> None:
    """Those that nobody asked for, and those that the application leaves out."""
    desk = Desk()
    async with serving(app_for(desk, methods=["POST"])) as site:
        response = await site.client.request(method, PATH)
    assert (response.status_code, response.headers["allow"]) == (405, "OPTIONS, POST")
    assert desk.received == []


# --- limits -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 1001])
async def test_body_may_be_as_large_as_the_limit(size: int) -> None:
    """One byte more is 413, before any of it is read."""
    desk = Desk()
    async with serving(app_for(desk, body_max=1000)) as site:
        response = await site.client.post(PATH, content=b"x" * size)
    assert response.status_code == (202 if size == 1000 else 413)
    assert len(desk.received) == (size == 1000)


async def test_declared_length_over_the_limit_is_refused_before_the_body_is_sent() -> None:
    """The answer comes though not one byte of the body does."""
    desk = Desk()
    async with serving(app_for(desk)) as site:
        assert status_of(await site.raw(post(PATH, b"", "Content-Length: 2000000000"))) == 413
    assert desk.received == []


async def test_chunked_body_over_the_limit_is_refused_on_the_way() -> None:
    """A body that declares no length, and never ends."""
    desk = Desk()
    async with serving(app_for(desk, body_max=10_000)) as site:
        chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
        head = post(PATH, b"", "Transfer-Encoding: chunked")
        assert status_of(await site.raw(head, chunk, chunk, chunk)) == 413
    assert desk.received == []


async def test_body_that_does_not_come_in_time_is_given_up() -> None:
    """Also one that comes byte by byte: the time is for the whole of it."""
    desk = Desk()
    async with serving(app_for(desk, timeout=0.2)) as site:
        assert status_of(await site.raw(post(PATH, b"x", "Content-Length: 100"))) == 408
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(post(PATH, b"", "Content-Length: 100000"))
        answer = asyncio.create_task(reader.readline())
        async with asyncio.timeout(WAIT):
            while not answer.done():
                writer.write(b"x")
                await asyncio.sleep(0.01)  # sleeps: the client drips
        assert status_of(answer.result()) == 408
        writer.close()
    assert desk.received == []


MANY = [f"x-{n}: 1" for n in range(101)]
LARGE = [f"x-{n}: {'y' * 900}" for n in range(40)]


@pytest.mark.parametrize("headers", [MANY, LARGE, ["x: " + "y" * 33_000]], ids=range(3))
async def test_too_many_or_too_large_headers_are_refused(headers: list[str]) -> None:
    """By number or by size, before the token is looked up."""
    desk = Desk()
    async with serving(app_for(desk)) as site:
        answer = await site.raw(post(PATH, b"", *headers))
    assert status_of(answer) == 431
    assert desk.received == []


async def test_more_requests_than_the_limit_are_told_to_come_again() -> None:
    """A flood of slow senders does not fill the memory; the others go on."""
    desk = Desk(hold=asyncio.Event())
    async with serving(app_for(desk, requests_max=2)) as site:
        first = [asyncio.create_task(site.client.post(PATH)) for _ in range(3)]
        done, pending = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        refused = next(iter(done)).result()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        desk.hold.set()
        assert [(await each).status_code for each in pending] == [202, 202]
        assert (await site.client.post(PATH)).status_code == 202


# --- clients that leave -----------------------------------------------------------------


async def test_client_that_leaves_within_its_body_has_sent_nothing() -> None:
    """Half a request is none."""
    desk = Desk()
    async with serving(app_for(desk)) as site:
        await site.raw(post(PATH, b"half", "Content-Length: 100"), read=False)
        assert (await site.client.post(PATH, content=b"whole")).status_code == 202
    assert [request.body for request in desk.received] == [b"whole"]


async def test_client_that_leaves_after_its_body_is_recorded_all_the_same() -> None:
    """Some senders never wait for an answer."""
    desk = Desk(hold=asyncio.Event())
    async with serving(app_for(desk)) as site:
        await site.raw(post(PATH, b"whole", "Content-Length: 5"), read=False)
        desk.hold.set()
        async with asyncio.timeout(WAIT):
            while not desk.received:
                await asyncio.sleep(0)
    assert desk.received[0].body == b"whole"


async def test_client_that_leaves_is_not_waited_for_any_more() -> None:
    """A manual answer that nobody will read is given up, and the place is free again."""
    waiting: list[asyncio.Task[Any]] = []

    def never() -> asyncio.Task[Any]:
        waiting.append(asyncio.create_task(asyncio.Event().wait()))
        return waiting[-1]

    desk = Desk(answer=never)
    async with serving(app_for(desk, requests_max=1)) as site:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(post(PATH, b"", "Content-Length: 0"))
        async with asyncio.timeout(WAIT):
            while not waiting:
                await asyncio.sleep(0)
            writer.close()
            while not waiting[0].done():
                await asyncio.sleep(0)
        desk.answer = WebhookResponse("next")
        assert (await site.client.post(PATH)).text == "next"
    assert waiting[0].cancelled()


# --- trouble ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        (JournalError("the disk is full"), 503),
        (RuntimeClosedError("closed"), 503),
        (PayloadTooLargeError("too large"), 413),
        (ZeroDivisionError("SENTINEL"), 500),
    ],
)
async def test_trouble_is_never_answered_with_success(
    trouble: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The sender is told to come again, or not; and nothing of ours is told to it."""
    async with serving(app_for(Desk(trouble=trouble))) as site:
        response = await site.client.post(PATH, content=b"SENTINEL-BODY")
    assert response.status_code == status
    assert "SENTINEL" not in response.text + caplog.text
    assert TOKEN not in caplog.text


async def test_nothing_of_a_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither by us nor by the server, not even at the lowest level."""
    caplog.set_level(logging.DEBUG, "durable")
    request = WebhookRequest("POST", "http://SENTINEL", {"x": "SENTINEL"}, b"SENTINEL")
    logging.getLogger("durable").warning("%r %r", request, request.headers)

    def verify(request: WebhookRequest) -> bool:
        raise ValueError(f"SENTINEL {request.body!r}")

    async with serving(app_for(Desk(), verify=verify)) as site:
        response = await site.client.post(PATH, content=b"SENTINEL")
    assert response.status_code == 500
    assert "ValueError at" in caplog.text
    assert "SENTINEL-" not in caplog.text
    assert "SENTINEL" not in caplog.text.replace("SENTINEL {request.body!r}", "")


# --- names of deliveries ----------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["Webhook-Id", "Idempotency-Key", "X-GitHub-Delivery", "svix-id"]
)
async def test_delivery_is_named_by_its_senders_header(header: str) -> None:
    """So that the same delivery is told when it is sent again."""
    desk = Desk()
    async with serving(app_for(desk)) as site:
        await site.client.post(PATH, headers={header: "evt_1"})
        await site.client.post(PATH)
        await site.client.post(PATH, headers={header: "x" * 5000})
    assert desk.received[0].id == "evt_1"
    assert desk.named == [True, False, True]
    assert len(desk.received[2].id) < 100


async def test_delivery_may_be_named_by_a_function() -> None:
    """For senders that put the name into the body; one without it is refused."""
    desk = Desk()
    name = lambda request: request.json()["id"]  # noqa: E731
    async with serving(app_for(desk, delivery_id=name)) as site:
        assert (await site.client.post(PATH, json={"id": "evt_1"})).status_code == 202
        assert (await site.client.post(PATH, content=b"{")).status_code == 400
        assert (await site.client.post(PATH, json={})).status_code == 400
    assert [request.id for request in desk.received] == ["evt_1"]
    assert desk.named == [True]


# --- verifiers --------------------------------------------------------------------------


async def test_wrong_signature_is_refused_before_anything_is_recorded() -> None:
    """By the verifier for all, which may be async."""

    async def verify(request: WebhookRequest) -> bool:
        return request.body == b"right"

    desk = Desk()
    async with serving(app_for(desk, verify=verify)) as site:
        assert (await site.client.post(PATH, content=b"wrong")).status_code == 401
        assert (await site.client.post(PATH, content=b"right")).status_code == 202
    assert len(desk.received) == 1


async def test_webhook_chooses_its_verifier_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """One that is unknown here lets nothing pass, and says so in the log."""
    desk = Desk({TOKEN: Webhook("mine"), "B" * 43: Webhook("other")})
    app = app_for(desk, verifiers={"mine": lambda request: request.body == b"right"})
    async with serving(app) as site:
        assert (await site.client.post(PATH, content=b"wrong")).status_code == 401
        assert (await site.client.post(PATH, content=b"right")).status_code == 202
        unknown = await site.client.post(PATH.replace(TOKEN, "B" * 43))
    assert unknown.status_code == 503
    assert "asks for the verifier 'other'" in caplog.text
    assert len(desk.received) == 1


async def test_name_that_was_signed_counts_more_than_a_header() -> None:
    """Whoever repeats a captured request may add any header, but sign none."""
    desk = Desk()
    async with serving(app_for(desk, verify=lambda request: "signed")) as site:
        await site.client.post(PATH, headers={"Idempotency-Key": "other"})
    assert desk.received[0].id == "signed"
