"""Verifiers: right, wrong, missing, old and repeated signatures, for every scheme."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable

import pytest

from durable import WebhookRequest
from durable._surface.signatures import HmacVerifier
from durable.testing import VirtualClock
from tests.web.rig import PATH, Desk, app_for, serving

CLOCK = VirtualClock()
NOW = CLOCK.wall_us() // 1_000_000
SECRET = "s3cret"
WHSEC = "whsec_" + b64encode(b"k" * 24).decode()
BODY = b'{"paid": true}'

Headers = dict[str, str]
Signer = Callable[..., Headers]


def digest(secret: bytes, signed: bytes, algorithm: str = "sha256") -> bytes:
    """Return the signature of some bytes."""
    return hmac.new(secret, signed, getattr(hashlib, algorithm)).digest()


def github(body: bytes = BODY, secret: str = SECRET, **rest: int) -> Headers:
    """Sign as GitHub does."""
    return {"X-Hub-Signature-256": "sha256=" + digest(secret.encode(), body).hex()}


def standard(body: bytes = BODY, secret: str = WHSEC, at: int = NOW, key: str = "e1") -> Headers:
    """Sign as Standard Webhooks says."""
    signed = f"{key}.{at}.".encode() + body
    signature = b64encode(digest(b64decode(secret.removeprefix("whsec_")), signed)).decode()
    return {
        "Webhook-Id": key,
        "Webhook-Timestamp": str(at),
        "Webhook-Signature": f"v1a,AAAA v1,{signature}",
    }


def stripe(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> Headers:
    """Sign as Stripe does."""
    signature = digest(secret.encode(), f"{at}.".encode() + body).hex()
    return {"Stripe-Signature": f"t={at},v0=00,v1={signature}"}


def slack(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> Headers:
    """Sign as Slack does."""
    signature = digest(secret.encode(), f"v0:{at}:".encode() + body).hex()
    return {"X-Slack-Request-Timestamp": str(at), "X-Slack-Signature": f"v0={signature}"}


def own(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> Headers:
    """Sign in a scheme of one's own."""
    signature = digest(secret.encode(), f"{at}.".encode() + body, "sha512")
    return {"X-Time": str(at), "X-Signature": b64encode(signature).decode()}


SCHEMES: dict[str, tuple[HmacVerifier, Signer]] = {
    "github": (HmacVerifier.github(SECRET), github),
    "standard": (HmacVerifier.standard(WHSEC, clock=CLOCK), standard),
    "stripe": (HmacVerifier.stripe(SECRET, clock=CLOCK), stripe),
    "slack": (HmacVerifier.slack(SECRET, clock=CLOCK), slack),
    "own": (
        HmacVerifier(
            SECRET, header="X-Signature", algorithm="sha512", encoding="base64",
            timestamp_header="X-Time", clock=CLOCK,
        ),
        own,
    ),
}  # fmt: skip
TIMED = [name for name in SCHEMES if name != "github"]


def judge(scheme: str, headers: Headers, body: bytes = BODY) -> bool | str:
    """Return a verifier's verdict."""
    verdict = SCHEMES[scheme][0](WebhookRequest("POST", "", headers, body))
    assert isinstance(verdict, (bool, str))
    return verdict


@pytest.mark.parametrize("scheme", SCHEMES)
def test_right_signature_is_accepted(scheme: str) -> None:
    """As the sender's own documentation computes it."""
    sign = SCHEMES[scheme][1]
    assert judge(scheme, sign())
    assert judge(scheme, sign(b""), b"")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_wrong_or_missing_signature_is_refused(scheme: str) -> None:
    """Another body, another secret, a header missing, empty, doubled or full of junk."""
    sign = SCHEMES[scheme][1]
    right = sign()
    other = "whsec_" + b64encode(b"x" * 24).decode() if scheme == "standard" else "other"
    assert judge(scheme, right, BODY + b" ") is False
    assert judge(scheme, sign(secret=other)) is False
    assert judge(scheme, {}) is False
    for name, value in right.items():
        for wrong in ("", ",", "=", "\xff\xfe", "v1,", "sha256=", "t=,v1=", "0" * 5000, value[:-2]):
            assert not judge(scheme, right | {name: wrong}), (name, wrong)
        rest = {n: v for n, v in right.items() if n != name}
        assert judge(scheme, rest) is False
        doubled = WebhookRequest("POST", "", [*right.items(), (name, value)], BODY)
        assert SCHEMES[scheme][0](doubled) is False


@pytest.mark.parametrize("scheme", TIMED)
@pytest.mark.parametrize("off", [-301, 301, -(10**6), 10**9, -NOW])
def test_old_and_future_signatures_are_refused(scheme: str, off: int) -> None:
    """What was captured is of no use after five minutes."""
    assert judge(scheme, SCHEMES[scheme][1](at=NOW + off)) is False
    assert judge(scheme, SCHEMES[scheme][1](at=NOW + (300 if off > 0 else -300)))


@pytest.mark.parametrize("scheme", TIMED)
def test_signed_time_cannot_be_exchanged(scheme: str) -> None:
    """The time is part of what is signed."""
    old, new = SCHEMES[scheme][1](at=NOW - 1000), SCHEMES[scheme][1]()
    for name, value in new.items():
        assert not judge(scheme, old | {name: value}) or {**old, name: value} == new


@pytest.mark.parametrize("scheme", TIMED)
def test_request_sent_again_names_the_same_delivery(scheme: str) -> None:
    """So that it is recorded once; another one has another name."""
    sign = SCHEMES[scheme][1]
    first = judge(scheme, sign())
    assert isinstance(first, str)
    assert judge(scheme, sign() | {"Idempotency-Key": "other"}) == first
    later = standard(key="e2") if scheme == "standard" else sign(at=NOW + 1)
    assert judge(scheme, later) not in (first, False)


def test_secret_may_be_changed_while_requests_come() -> None:
    """The old one and the new one both count; and of several signatures one is enough."""
    verifier = HmacVerifier.stripe(["old", "new"], clock=CLOCK)
    for secret in ("old", "new"):
        assert verifier(WebhookRequest("POST", "", stripe(secret=secret), BODY))
    assert not verifier(WebhookRequest("POST", "", stripe(secret="other"), BODY))
    first, second = (stripe(secret=each)["Stripe-Signature"] for each in ("other", SECRET))
    both = f"{first},{second.rpartition(',')[2]}"
    assert SCHEMES["stripe"][0](WebhookRequest("POST", "", {"stripe-signature": both}, BODY))


def test_known_example_of_github_is_accepted() -> None:
    """The values of GitHub's own documentation."""
    verifier = HmacVerifier.github("It's a Secret to Everybody")
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    request = WebhookRequest("POST", "", {"X-Hub-Signature-256": signature}, b"Hello, World!")
    assert verifier(request) is True


def test_known_example_of_standard_webhooks_is_accepted() -> None:
    """The values of the specification's own libraries."""
    clock = VirtualClock(wall_us=1_614_265_330 * 1_000_000)
    verifier = HmacVerifier.standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", clock=clock)
    headers = {
        "svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "svix-timestamp": "1614265330",
        "svix-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    request = WebhookRequest("POST", "", headers, b'{"test": 2432232314}')
    assert verifier(request) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: HmacVerifier.github(""), "is empty"),
        (lambda: HmacVerifier.github([]), "no secret"),
        (lambda: HmacVerifier.github(["a", b""]), "is empty"),
        (lambda: HmacVerifier.github(None), "None|iterable"),
        (lambda: HmacVerifier.github([None]), "NoneType"),
        (lambda: HmacVerifier.standard("whsec_!!"), "no base64"),
        (lambda: HmacVerifier.standard("whsec_"), "is empty"),
        (lambda: HmacVerifier("a", header="x", algorithm="md5"), "'md5'"),
        (lambda: HmacVerifier("a", header="x", encoding="base32"), "'base32'"),
        (lambda: HmacVerifier("a", header="x", tolerance=0), "tolerance is 0"),
        (lambda: HmacVerifier("a", header="x", tolerance=float("nan")), "tolerance is nan"),
    ],
)
def test_verifier_that_would_check_nothing_is_refused(
    make: Callable[[], object], named: str
) -> None:
    """An empty secret is the usual one: a variable that was not set."""
    with pytest.raises((ValueError, TypeError), match=named) as refused:
        make()
    assert "whsec" not in str(refused.value).replace("(whsec_...)", "")


def test_secrets_do_not_show() -> None:
    """Neither in a `repr` nor in what an error says."""
    assert "s3cret" not in repr(HmacVerifier.github("s3cret"))
    with pytest.raises(ValueError) as refused:
        HmacVerifier.standard("s3cret!")
    assert "s3cret" not in str(refused.value)


async def test_server_tells_apart_what_is_signed() -> None:
    """Over HTTP: right 202, wrong and missing 401 and not recorded."""
    desk = Desk()
    async with serving(app_for(desk, verify=SCHEMES["stripe"][0])) as site:
        good = await site.client.post(PATH, content=BODY, headers=stripe())
        again = await site.client.post(PATH, content=BODY, headers=stripe())
        wrong = await site.client.post(PATH, content=BODY, headers=stripe(secret="x"))
        missing = await site.client.post(PATH, content=BODY)
        late = await site.client.post(PATH, content=BODY, headers=stripe(at=NOW - 600))
    statuses = [r.status_code for r in (good, again, wrong, missing, late)]
    assert statuses == [202, 202, 401, 401, 401]
    assert desk.received[0].id == desk.received[1].id
    assert desk.named == [True, True]
    assert wrong.text == missing.text == late.text
