"""Seals: payloads encrypted or authenticated, each for its own place in one journal.

Owns the form of a sealed payload and what it is bound to. It begins with the byte 0xff,
which begins no other payload (and no text), then:

    1  encrypted: key id (8), nonce (12), AES-256-GCM ciphertext with its tag (16)
    2  signed: key id (8), HMAC-SHA256 (32), the payload as it is
    3  signed, and there is no payload: key id (8), HMAC-SHA256 (32)

Every row of a history or a stream is sealed, those without a payload too, so that none can
be added, changed or moved. Bound are the head above and all columns of the row, with the
run's public id; each journal has keys of its own, derived from the given ones and its id.
Events that are about the journal itself (attributes, which are columns as well, and the id
of the next run) are signed and never encrypted.

Invariant: `open` gives bytes that were sealed with a key at hand for that very place, or
the sealed payload as it is when its key is not at hand, or raises. A payload that is still
sealed cannot be decoded: `Codec.decode` refuses it.

It cannot notice that the newest rows of a run were cut off, nor that the whole file was
replaced by an older copy of itself.
"""

from __future__ import annotations

import hmac
import importlib.util
import os
import struct
from collections.abc import Callable
from typing import Any

from durable._journal.checksum import NO_DUE
from durable._journal.keys import ID_BYTES, Key, KeyRing
from durable._replay.events import Event, EventKind
from durable.errors import JournalCorruptError, JournalError, PayloadDecodeError

SEALED = 0xFF
_ENCRYPTED, _SIGNED, _EMPTY = 1, 2, 3
_HEAD, _NONCE, _MAC = 2 + ID_BYTES, 12, 32
_LEAST = _HEAD + 28  # of a nonce and a tag

# About the journal itself, and needed by those who look at it without a key.
_LEGIBLE = frozenset(
    {EventKind.ATTR_SET, EventKind.ATTR_NOTED, EventKind.RUN_CONTINUED, EventKind.RUN_REWOUND}
)

_EVENT, _CHUNK = struct.Struct("<cqqqqqI").pack, struct.Struct("<cqqqqII").pack
_REQUEST = struct.Struct("<cq").pack


# --- places -----------------------------------------------------------------------------


def place_of_event(run_id: str, event: Event) -> bytes:
    """Return what the seal of an event is bound to."""
    seq, kind, ref, name, at, due, _ = event
    run = run_id.encode()
    head = _EVENT(b"E", seq, kind, ref, at, NO_DUE if due is None else due, len(run))
    return head + run + name.encode()


def place_of_chunk(
    run_id: str, stream: str, index: int, kind: int, step: int, attempt: int
) -> bytes:
    """Return what the seal of a chunk is bound to."""
    run, name = run_id.encode(), stream.encode()
    return _CHUNK(b"C", index, kind, step, attempt, len(run), len(name)) + run + name


def place_of_request(run: int, kind: str) -> bytes:
    """Return what the seal of a request's reason is bound to."""
    return _REQUEST(b"R", run) + kind.encode()


# --- what is known of a sealed payload without its key ------------------------------------


def is_sealed(payload: bytes | None) -> bool:
    """Tell whether a payload is (still) sealed."""
    return payload is not None and payload[:1] == b"\xff"


def key_id_of(payload: bytes) -> str:
    """Return the id of the key that has sealed a payload."""
    return payload[2:_HEAD].hex()


def signed_part(payload: bytes) -> bytes | None:
    """Return what a signed payload holds, unchecked: to be shown, never to be decoded.

    Raises:
        PayloadDecodeError: it is encrypted.
    """
    if payload[1:2] == bytes([_SIGNED]):
        return payload[_HEAD + _MAC :]
    if payload[1:2] == bytes([_EMPTY]):
        return None
    raise no_key(payload)


def without_signature(event: Event) -> Event:
    """Return an event with what is signed in it, unchecked: to be looked at, never decoded."""
    if event.payload is None or not is_sealed(event.payload):
        return event
    try:
        return event._replace(payload=signed_part(event.payload))
    except PayloadDecodeError:
        return event


def no_key(payload: bytes) -> PayloadDecodeError:
    """Return the error for a payload whose key is not at hand."""
    return PayloadDecodeError(
        f"it is sealed with the key {key_id_of(payload)}, which is not at hand: open the journal "
        f"with this key, Runtime(..., encryption=Encryption(...)){_and_package(payload)}"
    )


def _and_package(payload: bytes) -> str:
    if payload[1:2] == bytes([_ENCRYPTED]) and importlib.util.find_spec("cryptography") is None:
        return ", where 'durable[crypto]' is installed"
    return ""


def text_of(payload: bytes) -> str:
    """Return the text that a payload is.

    Raises:
        PayloadDecodeError: its key is not at hand.
    """
    if is_sealed(payload):
        raise no_key(payload)
    return payload.decode()


# --- sealing and opening ------------------------------------------------------------------


class _Bound:
    """A key as one journal uses it."""

    def __init__(self, key: Key, journal_id: str, encrypts: Callable[[bytes], Any] | None) -> None:
        name = journal_id.encode()
        self.id = bytes.fromhex(key.id)
        self.signing = hmac.digest(key.secret, b"durable seal, signing " + name, "sha256")
        encrypting = hmac.digest(key.secret, b"durable seal, encrypting " + name, "sha256")
        self.cipher = None if encrypts is None else encrypts(encrypting)


def _keyless() -> JournalError:
    return JournalError(
        "the journal is sealed and no key is at hand, so nothing can be recorded: open "
        "it with its key, Runtime(..., encryption=Encryption(...))"
    )


class Seals:
    """The seals of one journal.

    Args:
        ring: the keys at hand; it may be empty.
        journal_id: of the journal.

    Attributes:
        ring, journal_id: as given.
    """

    def __init__(self, ring: KeyRing, journal_id: str) -> None:
        self.ring = ring
        self.journal_id = journal_id
        self._hide = ring.hide
        cipher = _cipher() if ring.keys else None
        self._bound = {
            bytes.fromhex(key.id): _Bound(key, journal_id, cipher) for key in ring.keys.values()
        }
        self._newest = next(iter(self._bound.values()), None)
        if self._newest is not None:
            self._encrypted_head = bytes([SEALED, _ENCRYPTED]) + self._newest.id
            self._signed_head = bytes([SEALED, _SIGNED]) + self._newest.id
            self._empty_head = bytes([SEALED, _EMPTY]) + self._newest.id

    def __repr__(self) -> str:
        return f"<Seals {self.ring!r}>"

    def has_key(self, key_id: str) -> bool:
        """Tell whether a key is at hand."""
        return key_id in self.ring.keys

    def check_key(self) -> None:
        """Raise unless something can be sealed.

        Raises:
            JournalError: no key is at hand.
        """
        if self._newest is None:
            raise _keyless()

    def is_newest(self, payload: bytes | None, *, legible: bool = False) -> bool:
        """Tell whether a payload is sealed as `seal` would seal it now."""
        if payload is None or self._newest is None:
            return False
        hidden = self._hide and not legible
        wanted = self._encrypted_head if hidden else self._signed_head
        return payload[:_HEAD] in {self._empty_head, wanted}

    def seal(self, place: bytes, payload: bytes | None, *, legible: bool = False) -> bytes:
        """Return a payload sealed for a place, with the newest key.

        Raises:
            JournalError: no key is at hand.
            PayloadDecodeError: the payload is sealed, with a key that is not at hand.
        """
        newest = self._newest
        if newest is None:
            raise _keyless()
        if payload is None:
            return self._empty_head + _mac(newest, self._empty_head, place, b"")
        if payload[:1] == b"\xff":
            raise no_key(payload)
        if self._hide and not legible:
            assert newest.cipher is not None
            head, nonce = self._encrypted_head, os.urandom(_NONCE)
            sealed: bytes = newest.cipher.encrypt(nonce, payload, head + place)
            return head + nonce + sealed
        head = self._signed_head
        return head + _mac(newest, head, place, payload) + payload

    def open(self, place: bytes, payload: bytes | None) -> bytes | None:
        """Return what was sealed for a place; the payload itself if its key is not at hand.

        Raises:
            JournalCorruptError: it was not sealed for this place, or not at all.
        """
        if payload is None or payload[:1] != b"\xff" or len(payload) < _LEAST:
            raise JournalCorruptError("it was written without the journal's key")
        bound = self._bound.get(payload[2:_HEAD])
        form = payload[1]
        if bound is None or (form == _ENCRYPTED and bound.cipher is None):
            return payload
        if form == _ENCRYPTED:
            return _decrypted(bound.cipher, place, payload)
        mac, body = payload[_HEAD : _HEAD + _MAC], payload[_HEAD + _MAC :]
        right = form in (_SIGNED, _EMPTY) and (form == _SIGNED or not body)
        if not hmac.compare_digest(mac, _mac(bound, payload[:_HEAD], place, body)) or not right:
            raise JournalCorruptError(_FORGED)
        return body if form == _SIGNED else None

    def seal_event(self, run_id: str, event: Event) -> Event:
        """Return an event with its payload sealed."""
        seq, kind, ref, name, at, due, payload = event
        place = place_of_event(run_id, event)
        sealed = self.seal(place, payload, legible=kind in _LEGIBLE)
        return Event(seq, kind, ref, name, at, due, sealed)

    def open_event(self, run_id: str, event: Event) -> Event:
        """Return an event with its payload opened; see `open`.

        Raises:
            JournalCorruptError: it is not authentic; it is named.
        """
        seq, kind, ref, name, at, due, payload = event
        try:
            opened = self.open(place_of_event(run_id, event), payload)
        except JournalCorruptError as error:
            raise not_authentic(f"event {seq} of run {run_id}", error) from None
        return Event(seq, kind, ref, name, at, due, opened)


_FORGED = "it was changed, or belongs to another place"


def not_authentic(what: str, why: JournalCorruptError) -> JournalCorruptError:
    """Return the error for a row that `Seals.open` has refused, with what it is."""
    return JournalCorruptError(
        f"{what} is not authentic: {why}. Nothing of it was loaded; restore the journal from a "
        "backup"
    )


def is_legible(kind: int) -> bool:
    """Tell whether events of this kind are signed only."""
    return kind in _LEGIBLE


def _mac(bound: _Bound, head: bytes, place: bytes, body: bytes) -> bytes:
    size = len(place).to_bytes(4, "little")
    return hmac.digest(bound.signing, b"".join((head, size, place, body)), "sha256")


def _decrypted(cipher: Any, place: bytes, payload: bytes) -> bytes:
    nonce, body = payload[_HEAD : _HEAD + _NONCE], payload[_HEAD + _NONCE :]
    try:
        opened: bytes = cipher.decrypt(nonce, body, payload[:_HEAD] + place)
    except Exception as error:  # which it is, only an import could tell
        if type(error).__name__ != "InvalidTag":
            raise
        raise JournalCorruptError(_FORGED) from None
    return opened


def _cipher() -> Callable[[bytes], Any] | None:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:  # who needs it is told so, by `Encryption` and `no_key`
        return None
    return AESGCM
