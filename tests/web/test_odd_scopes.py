"""What servers may hand over, however odd: one answer, never an exception, nothing half."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.web.rig import PATH, Desk, app_for

STATUSES = {202, 204, 400, 401, 404, 405, 408, 413, 431, 503}
BODY_MAX = 64

names = st.one_of(
    st.sampled_from([b"content-length", b"host", b"webhook-id", b"Idempotency-Key", b"", b"\xff"]),
    st.binary(max_size=12),
)
values = st.one_of(
    st.sampled_from([b"", b"0", b"5", b"-1", b"+5", b"1_0", b"65", b"9" * 30, b"\xc2\xb2", b"5 "]),
    st.binary(max_size=30),
)
scopes = st.fixed_dictionaries(
    {
        "type": st.just("http"),
        "method": st.sampled_from(["POST", "GET", "HEAD", "OPTIONS", "post", "", "\udcff"]),
        "path": st.one_of(st.just(PATH), st.text(max_size=70), st.just(PATH + "\udcff")),
        "headers": st.lists(st.tuples(names, values), max_size=6),
    },
    optional={
        "root_path": st.sampled_from(["", "/", "/hooks", PATH, "\udcff"]),
        "raw_path": st.one_of(st.none(), st.binary(max_size=20)),
        "query_string": st.binary(max_size=40),
        "scheme": st.sampled_from(["http", "https", ""]),
        "server": st.sampled_from([None, ("::1", 80), ("/run/x.sock", None)]),
        "http_version": st.sampled_from(["1.0", "1.1", "2", "3"]),
    },
)
chunks = st.fixed_dictionaries(
    {"type": st.just("http.request")},
    optional={
        "body": st.one_of(st.none(), st.binary(max_size=40)),
        "more_body": st.sampled_from([True, True, False, None]),
    },
)
gone = st.just({"type": "http.disconnect"})


async def ask(scope: Any, messages: list[Any]) -> tuple[list[Any], Desk]:
    """Hand a scope and messages to the application; return what it sends, and the desk."""
    desk, sent, left = Desk(), [], iter(messages)

    async def receive() -> Any:
        return next(left, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    await app_for(desk, body_max=BODY_MAX)(scope, receive, send)
    return sent, desk


@settings(max_examples=300)
@given(scopes, st.lists(st.one_of(chunks, gone), max_size=6))
def test_any_request_gets_one_whole_answer_or_has_left(scope: Any, messages: list[Any]) -> None:
    """And what is recorded is no more than what was sent, within the limit."""
    sent, desk = asyncio.run(ask(scope, messages))
    for request in desk.received:
        assert len(request.body) <= BODY_MAX
        assert request.to_data()
        assert 1 <= len(request.id) <= 256
        assert request.id.isprintable()
    if not sent:
        assert not desk.received
        return
    start, body = sent
    assert start["type"] == "http.response.start"
    assert start["status"] in STATUSES
    assert body["type"] == "http.response.body"
    lengths = [int(value) for name, value in start["headers"] if name == b"content-length"]
    assert scope["method"] == "HEAD" or sum(lengths) == len(body["body"])
    assert (start["status"] == 202) == bool(desk.received)
    for name, value in start["headers"]:
        assert isinstance(name, bytes)
        assert isinstance(value, bytes)
        assert b"\n" not in value
