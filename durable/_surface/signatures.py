"""Verifiers: is a request really from whom it claims to be?

Owns `HmacVerifier` and what a verifier is: a function from a `WebhookRequest` to a verdict.
False refuses it, True accepts it, and text accepts it and names the delivery, so that
a captured request that is sent again is recorded once.

Digests are compared in constant time, every secret and every signature of a request, and a
refusal does not say what was wrong. Secrets are in no `repr` and in no error.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256
from typing import Literal, NamedTuple

from durable._base.clock import Clock, SystemClock
from durable._surface.messages import WebhookRequest

Verdict = bool | str
Verifier = Callable[[WebhookRequest], Verdict | Awaitable[Verdict]]
Secret = str | bytes

ALGORITHMS = ("sha256", "sha512", "sha384", "sha1")
SIGNATURES_MAX = 8  # of one request: senders that change their secret send two
TOLERANCE_SECONDS = 300.0

_STRIPE, _SLACK = "Stripe-Signature", "X-Slack-Signature"
_SECONDS = re.compile(r"[0-9]{1,12}")


class _Claim(NamedTuple):
    """What a request says about itself.

    `signed` are the bytes that its signatures are about, `seconds` the time they name. `key`
    names the delivery where the signature covers a name; else None.
    """

    signed: bytes
    signatures: Sequence[str]
    seconds: str | None = None
    key: str | None = None


class HmacVerifier:
    """Checks that whoever sent a request knows a shared secret.

    Args:
        secret: what the sender signs with: text or bytes; or several, while it changes.
        header: the one that carries the signature.
        algorithm: ``"sha256"`` (default), ``"sha512"``, ``"sha384"`` or ``"sha1"``.
        prefix: of the signature in the header, such as ``"sha256="``. Default empty.
        encoding: of the signature: ``"hex"`` (default) or ``"base64"``.
        timestamp_header: carries the time in seconds since 1970, and is part of what is
            signed: the time, a full stop, the body. Default None: the body alone is signed.
        tolerance: how many seconds the time may be off, either way. Default 300.
        clock: a seam for tests.

    Raises:
        ValueError, TypeError: no secret, or an empty one, as of a variable that is not
            set; an unknown algorithm or encoding; a tolerance that is no positive number.

    Where a time is signed, an old request is refused, and one that is sent again within the
    tolerance counts as the same delivery. Schemes of known senders: `github`, `standard`
    (Standard Webhooks: Svix, OpenAI and others), `stripe`, `slack`.

    Example:
        >>> verifier = HmacVerifier("s3cret", header="X-Signature", encoding="base64")
        >>> verifier(WebhookRequest("POST", "", {"X-Signature": "AAAA"}, b"{}"))
        False
    """

    def __init__(
        self,
        secret: Secret | Iterable[Secret],
        *,
        header: str,
        algorithm: str = "sha256",
        prefix: str = "",
        encoding: Literal["hex", "base64"] = "hex",
        timestamp_header: str | None = None,
        tolerance: float = TOLERANCE_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm is {algorithm!r}: give one of {', '.join(ALGORITHMS)}")
        if encoding not in ("hex", "base64"):
            raise ValueError(f'encoding is {encoding!r}: give "hex" or "base64"')
        self._secrets = [_bytes(each) for each in _several(secret)]
        self._algorithm = algorithm
        self._prefix = prefix
        self._encoding = encoding
        self._tolerance = _checked_tolerance(tolerance)
        self._clock = clock or SystemClock()
        self._claim: Callable[[WebhookRequest], _Claim | None] = lambda request: _plain_claim(
            request, header, timestamp_header
        )
        self._scheme = header

    # --- the schemes of known senders ----------------------------------------------------

    @classmethod
    def github(cls, secret: Secret | Iterable[Secret]) -> HmacVerifier:
        """Return a verifier for GitHub: ``X-Hub-Signature-256: sha256=...``.

        It names no time, so what was captured once can be sent again; `X-GitHub-Delivery`
        tells deliveries apart, but is not signed.

        Example:
            ``webhooks(verify=HmacVerifier.github(os.environ["GITHUB_SECRET"]))``
        """
        return cls(secret, header="X-Hub-Signature-256", prefix="sha256=")

    @classmethod
    def standard(
        cls,
        secret: Secret | Iterable[Secret],
        *,
        tolerance: float = TOLERANCE_SECONDS,
        clock: Clock | None = None,
    ) -> HmacVerifier:
        """Return a verifier for Standard Webhooks: `Webhook-Id`, `-Timestamp`, `-Signature`.

        Args:
            secret: ``whsec_`` and base64, as the sender shows it; or the bytes.

        Example:
            ``HmacVerifier.standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")``
        """
        keys = [_standard_key(each) for each in _several(secret)]
        made = cls(
            keys, header="Webhook-Signature", prefix="v1,", encoding="base64",
            tolerance=tolerance, clock=clock,
        )  # fmt: skip
        made._claim = _standard_claim
        return made

    @classmethod
    def stripe(
        cls,
        secret: Secret | Iterable[Secret],
        *,
        tolerance: float = TOLERANCE_SECONDS,
        clock: Clock | None = None,
    ) -> HmacVerifier:
        """Return a verifier for Stripe: ``Stripe-Signature: t=...,v1=...``.

        Example:
            ``HmacVerifier.stripe(os.environ["STRIPE_SECRET"])``
        """
        made = cls(secret, header=_STRIPE, tolerance=tolerance, clock=clock)
        made._claim = _stripe_claim
        return made

    @classmethod
    def slack(
        cls,
        secret: Secret | Iterable[Secret],
        *,
        tolerance: float = TOLERANCE_SECONDS,
        clock: Clock | None = None,
    ) -> HmacVerifier:
        """Return a verifier for Slack: ``X-Slack-Signature: v0=...`` and its timestamp.

        Example:
            ``HmacVerifier.slack(os.environ["SLACK_SIGNING_SECRET"])``
        """
        made = cls(secret, header=_SLACK, prefix="v0=", tolerance=tolerance, clock=clock)
        made._claim = _slack_claim
        return made

    # --- the check ---------------------------------------------------------------------------

    def __call__(self, request: WebhookRequest) -> Verdict:
        """Return whether the request is signed; text that names its delivery if a time is."""
        claim = self._claim(request)
        if claim is None or not self._is_fresh(claim.seconds):
            return False
        given = [
            self._read(signature)
            for signature in claim.signatures[:SIGNATURES_MAX]
            if signature.startswith(self._prefix)
        ]
        right = [self._sign(secret, claim.signed) for secret in self._secrets]
        # Not `any` over a generator: all are compared, whichever fits.
        fits = [hmac.compare_digest(mine, theirs) for mine in right for theirs in given]
        if not any(fits):
            return False
        if claim.key is not None:
            return claim.key
        return True if claim.seconds is None else sha256(claim.signed).hexdigest()

    def _read(self, signature: str) -> bytes:
        bare = signature.removeprefix(self._prefix)
        return _utf8(bare.lower() if self._encoding == "hex" else bare)

    def _sign(self, secret: bytes, signed: bytes) -> bytes:
        digest = hmac.digest(secret, signed, self._algorithm)
        return digest.hex().encode() if self._encoding == "hex" else b64encode(digest)

    def _is_fresh(self, seconds: str | None) -> bool:
        if seconds is None:
            return True
        if not _SECONDS.fullmatch(seconds):
            return False
        return abs(self._clock.wall_us() / 1e6 - int(seconds)) <= self._tolerance

    def __repr__(self) -> str:
        return f"<HmacVerifier {self._scheme}>"


# --- what the schemes sign ------------------------------------------------------------------


def _one(request: WebhookRequest, name: str) -> str | None:
    """Return a header that came once: of two, nobody knows which one the sender has signed."""
    values = request.headers.get_all(name)
    return values[0].strip() if len(values) == 1 else None


def _plain_claim(request: WebhookRequest, header: str, timed: str | None) -> _Claim | None:
    signature = _one(request, header)
    if signature is None:
        return None
    if timed is None:
        return _Claim(request.body, [signature])
    seconds = _one(request, timed)
    return None if seconds is None else _timed(request, seconds, [signature])


def _timed(request: WebhookRequest, seconds: str, signatures: Sequence[str]) -> _Claim:
    return _Claim(_utf8(seconds) + b"." + request.body, signatures, seconds)


def _standard_claim(request: WebhookRequest) -> _Claim | None:
    names = ("Webhook-Id", "Webhook-Timestamp", "Webhook-Signature")
    if all(_one(request, name) is None for name in names):
        names = ("Svix-Id", "Svix-Timestamp", "Svix-Signature")  # what they were called before
    key, seconds, signatures = (_one(request, name) for name in names)
    if key is None or seconds is None or signatures is None:
        return None
    claim = _timed(request, seconds, signatures.split())
    return claim._replace(signed=_utf8(key) + b"." + claim.signed, key=key)


def _stripe_claim(request: WebhookRequest) -> _Claim | None:
    parts = [part.strip().partition("=") for part in (_one(request, _STRIPE) or "").split(",")]
    times = [value for name, _, value in parts if name == "t"]
    signatures = [value for name, _, value in parts if name == "v1"]
    return _timed(request, times[0], signatures) if len(times) == 1 else None


def _slack_claim(request: WebhookRequest) -> _Claim | None:
    signature, seconds = (_one(request, name) for name in (_SLACK, "X-Slack-Request-Timestamp"))
    if signature is None or seconds is None:
        return None
    return _Claim(b"v0:" + _utf8(seconds) + b":" + request.body, [signature], seconds)


def _utf8(text: str) -> bytes:
    return text.encode(errors="replace")


# --- secrets ----------------------------------------------------------------------------------


def _several(secret: Secret | Iterable[Secret]) -> list[Secret]:
    several = [secret] if isinstance(secret, (str, bytes)) else list(secret)
    if not several:
        raise ValueError("there is no secret: give one, or several while it changes")
    return several


def _bytes(secret: Secret) -> bytes:
    if not isinstance(secret, (str, bytes)):
        raise TypeError(f"a secret is text or bytes, not {type(secret).__name__}")
    if not secret:
        # Everybody can sign with an empty one.
        raise ValueError("the secret is empty: is the variable set from which it comes?")
    return secret.encode() if isinstance(secret, str) else secret


def _standard_key(secret: Secret) -> bytes:
    if not isinstance(secret, str):
        return secret
    try:
        return b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        raise ValueError(
            "the secret is no base64: give it as the sender shows it (whsec_...), or as bytes"
        ) from None


def _checked_tolerance(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise ValueError(f"tolerance is {seconds!r}: give a number of seconds above 0")
    return float(seconds)


assert set(ALGORITHMS) <= hashlib.algorithms_guaranteed
