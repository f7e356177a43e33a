"""Requests and responses as values: what they hold, how they are recorded, what is refused."""

from __future__ import annotations

import json
import pickle
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import WebhookRequest, WebhookResponse
from durable._surface.headers import Headers

# --- requests -----------------------------------------------------------------------------

requests = st.builds(
    WebhookRequest,
    st.text(),
    st.text(),
    st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=4).map(Headers),
    st.binary(),
    st.text(),
)


@settings(max_examples=40)
@given(requests)
def test_request_comes_back_as_it_was_recorded(request: WebhookRequest) -> None:
    """As plain data that JSON can hold, and from a pickle."""
    data = json.loads(json.dumps(request.to_data()))
    for copy in (WebhookRequest.from_data(data), pickle.loads(pickle.dumps(request))):
        assert copy == request
        assert copy.headers.pairs == request.headers.pairs


def test_headers_are_found_in_any_case_of_letters() -> None:
    """The first of several counts as the value; all of them are kept."""
    request = WebhookRequest("POST", "", [("X-Tag", "one"), ("x-tag", "two"), ("Other", "")])
    assert request.header("X-TAG") == request.headers["x-tag"] == "one"
    assert request.headers.get_all("x-Tag") == ["one", "two"]
    assert list(request.headers) == ["x-tag", "other"]
    assert request.header("missing") is None
    assert request.header("missing", "plain") == "plain"
    assert "OTHER" in request.headers
    assert 7 not in request.headers


def test_requests_written_by_hand_take_dicts_and_text() -> None:
    """Tests of users write requests down."""
    request = WebhookRequest("POST", "", {"a": "b"}, '{"paid": true}')
    assert request.headers == Headers([("A", "b")])
    assert request.json() == {"paid": True}
    assert WebhookRequest("POST", "").id != WebhookRequest("POST", "").id


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("", "grüße".encode(), "grüße"),
        ("text/plain; charset=ISO-8859-1", "grüße".encode("latin-1"), "grüße"),
        ("text/plain; boundary=x; Charset = 'utf-16'", "grüße".encode("utf-16"), "grüße"),
        ("text/plain; charset=none-such", b"plain", "plain"),
        ("text/plain; charset=zlib", b"plain", "plain"),
        ("text/plain; charset=\x00", b"plain", "plain"),
        ("text/plain", b"\xff", "\ufffd"),
    ],
)
def test_text_is_read_in_the_charset_of_the_request(
    content_type: str, body: bytes, text: str
) -> None:
    """Or in UTF-8; what cannot be read becomes a replacement, never an error."""
    assert WebhookRequest("POST", "", {"content-type": content_type}, body).text() == text


@pytest.mark.parametrize("charset", ["punycode", "idna", "unicode_escape", "utf-7"])
def test_charsets_that_are_programs_are_not_used(charset: str) -> None:
    """Some of them take quadratic time."""
    headers = {"content-type": f"text/plain; charset={charset}"}
    assert WebhookRequest("POST", "", headers, b"a-b+AGE-\\x41").text() == "a-b+AGE-\\x41"


DEEP = [
    b"[" * 100 + b"]" * 100,
    b'{"a":' * 100 + b"1" + b"}" * 100,
    b'"' + b"[" * 5000 + b'"',
    b'["' + b"[{" * 500 + b'\\"\\\\", [1]]',
    b"[" + b"[]," * 1000 + b"[]]",
]
TOO_DEEP = [
    b"[" * 101 + b"]" * 101,
    b'{"a":' * 101 + b"1" + b"}" * 101,
    b"[" * 100_000 + b"]" * 100_000,
    json.dumps([[]] * 200 + [json.loads("[" * 102 + "]" * 102)]).encode(),
    ("[" * 101 + "]" * 101).encode("utf-16"),
]


def test_json_may_nest_a_hundred_deep() -> None:
    """Brackets in strings do not count."""
    for body in DEEP:
        assert WebhookRequest("POST", "", {}, body).json() == json.loads(body)


@pytest.mark.parametrize("body", TOO_DEEP, ids=len)
def test_json_that_nests_deeper_is_refused(body: bytes) -> None:
    """At the same depth wherever the stack happens to end, so that a replay finds the same."""
    with pytest.raises(ValueError, match="nests deeper than 100"):
        WebhookRequest("POST", "", {}, body).json()


NO_JSON = [
    b'"' + b'\\"' * 400_000,
    b'"\\' * 300_000,
    b"[" * 10**6,
    b"[" + b"[]," * 300_000,
    b"\xff",
    b"",
]


@pytest.mark.parametrize("body", NO_JSON, ids=range(6))
def test_what_is_no_json_is_refused_in_short_time(body: bytes) -> None:
    """However it is made: a megabyte takes no seconds of work."""
    began = time.process_time()
    with pytest.raises(ValueError):
        WebhookRequest("POST", "", {}, body).json()
    assert time.process_time() - began < 3.0


def test_nothing_of_a_request_shows() -> None:
    """Its `repr` goes into logs and tracebacks, where no secret belongs."""
    request = WebhookRequest("POST", "http://SECRET", {"auth": "SECRET"}, b"SECRET", "SECRET")
    assert "SECRET" not in repr(request) + str(request) + repr(request.headers)
    response = WebhookResponse("SECRET", headers={"x": "SECRET"})
    assert "SECRET" not in repr(response) + f"{response}"


# --- responses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_as", "status", "body", "content_type"),
    [
        (204, 204, b"", None),
        ("grüße", 200, "grüße".encode(), "text/plain; charset=utf-8"),
        (b"\x00", 200, b"\x00", "application/octet-stream"),
        ({"ok": True}, 200, b'{"ok":true}', "application/json"),
        (["a"], 200, b'["a"]', "application/json"),
        (WebhookResponse("no", 500, {"content-type": "x/y"}), 500, b"no", "x/y"),
    ],
)
def test_plain_values_stand_for_responses(
    given_as: Any, status: int, body: bytes, content_type: str | None
) -> None:
    """A status, text, bytes, JSON."""
    response = WebhookResponse.of(given_as)
    assert (response.status, response.body) == (status, body)
    assert response.headers.get("content-type") == content_type


@pytest.mark.parametrize("body", [b"", b"text", b"\xff\x00"])
def test_response_comes_back_as_it_was_recorded(body: bytes) -> None:
    """As plain data that JSON can hold, and from a pickle."""
    response = WebhookResponse(body, 201, [("x", "1"), ("x", "2")])
    data = json.loads(json.dumps(response.to_data()))
    for copy in (WebhookResponse.from_data(data), pickle.loads(pickle.dumps(response))):
        assert copy == response


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"status": 99}, "99"),
        ({"status": 101}, "101"),
        ({"status": 600}, "600"),
        ({"status": True}, "True"),
        ({"status": "200"}, "'200'"),
        ({"body": "x", "status": 204}, "no body"),
        ({"body": b"x" * (2**20 + 1)}, "the limit is 1,048,576"),
        ({"headers": {"a b": "c"}}, "'a b'"),
        ({"headers": {"": "c"}}, "''"),
        ({"headers": {"x": "a\r\nSet-Cookie: b"}}, "'x'"),
        ({"headers": {"x": "a\x00"}}, "'x'"),
        ({"headers": {"x": "\u20ac"}}, "'x'"),
        ({"headers": {"Content-Length": "5"}}, "'Content-Length'"),
        ({"headers": {"transfer-encoding": "chunked"}}, "'transfer-encoding'"),
        ({"headers": [("x", str(n)) for n in range(65)]}, "64"),
    ],
)
def test_response_that_cannot_be_sent_is_refused_where_it_is_made(
    arguments: dict[str, Any], named: str
) -> None:
    """With what is wrong about it, and before anything is recorded."""
    with pytest.raises(ValueError, match=named):
        WebhookResponse(**arguments)


@pytest.mark.parametrize("given_as", [None, 3.5, True, object(), {1, 2}])
def test_what_stands_for_no_response_is_refused(given_as: Any) -> None:
    """The error says what would."""
    with pytest.raises(TypeError, match="give a WebhookResponse"):
        WebhookResponse.of(given_as)
    with pytest.raises(TypeError, match="give bytes or text"):
        WebhookResponse(None)  # type: ignore[arg-type]
