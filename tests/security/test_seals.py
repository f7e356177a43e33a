"""Seals by themselves: their form, what they are bound to, their nonces and comparisons."""

from __future__ import annotations

import ast
import inspect
import random

import pytest

from durable import Codec
from durable._journal import seals
from durable._journal.keys import Key, KeyRing
from durable._journal.seals import Seals, is_sealed, place_of_chunk, place_of_event
from durable._replay.events import Event, EventKind
from durable.errors import JournalCorruptError, JournalError, PayloadDecodeError
from tests.security.rig import KEY, OTHER_KEY

JOURNAL = "ab" * 16
EVENT = Event(7, EventKind.STEP_COMPLETED, 3, "charge", 1_000, None, b"\x80\x05K\x01.")
BOTH = pytest.mark.parametrize("hide", [True, False], ids=["encrypted", "signed"])


def sealing(*keys: bytes, hide: bool = True, journal: str = JOURNAL) -> Seals:
    """The seals of a journal."""
    return Seals(KeyRing(map(Key, keys), hide=hide), journal)


@BOTH
@pytest.mark.parametrize("payload", [None, b"", b"N", b"x" * 100_000, b"\x80\x05K\x01."])
def test_what_was_sealed_is_opened(hide: bool, payload: bytes | None) -> None:
    """And tells itself from all that is not sealed; its length is that of the payload."""
    ours, event = sealing(KEY, hide=hide), EVENT._replace(payload=payload)
    sealed = ours.seal_event("one", event)
    assert is_sealed(sealed.payload)
    assert sealed._replace(payload=None) == event._replace(payload=None)
    assert ours.open_event("one", sealed) == event
    longer = 38 if hide and payload is not None else 42
    assert len(sealed.payload or b"") - len(payload or b"") == longer
    if hide and len(payload or b"") > 4:
        assert payload not in (sealed.payload or b"")


def test_no_other_payload_begins_like_a_sealed_one() -> None:
    """Neither that of a codec nor a text."""
    for codec in (Codec(), Codec(format="json")):
        for value in (None, 1, "x", {"a": [1.5]}):
            assert not is_sealed(codec.encode(value))
    assert not any(is_sealed(chr(code).encode()) for code in range(0xD800))


def test_places_are_told_apart_however_their_parts_are_cut() -> None:
    """What ends in one name cannot begin the next."""
    places = {
        place_of_event("ab", EVENT._replace(name="c")),
        place_of_event("a", EVENT._replace(name="bc")),
        place_of_event("abc", EVENT._replace(name="")),
        place_of_event("ab", EVENT._replace(name="c", due=0)),
        place_of_chunk("ab", "c", 7, 1, 3, 1),
        place_of_chunk("a", "bc", 7, 1, 3, 1),
        place_of_chunk("abc", "", 7, 1, 3, 1),
    }
    assert len(places) == 7


@BOTH
def test_a_seal_is_good_for_one_journal_run_and_key(hide: bool) -> None:
    """With the same key another journal has other seals."""
    sealed = sealing(KEY, hide=hide).seal_event("one", EVENT)
    for other, run_id in ((sealing(KEY, hide=hide), "two"), (sealing(KEY, journal="cd"), "one")):
        with pytest.raises(JournalCorruptError, match=f"event 7 of run {run_id} is not authentic"):
            other.open_event(run_id, sealed)
    assert is_sealed(sealing(OTHER_KEY, hide=hide).open_event("one", sealed).payload)
    assert sealing(OTHER_KEY, KEY, hide=not hide).open_event("one", sealed) == EVENT


@BOTH
def test_no_bit_of_a_seal_can_be_changed(hide: bool) -> None:
    """Each bit of a sealed payload, one after the other; in the key's id it is not opened."""
    ours = sealing(KEY, hide=hide)
    sealed = ours.seal_event("one", EVENT)
    assert sealed.payload is not None
    for bit in range(8 * len(sealed.payload)):
        changed = bytearray(sealed.payload)
        changed[bit // 8] ^= 1 << bit % 8
        forged = sealed._replace(payload=bytes(changed))
        if 2 <= bit // 8 < 10:
            assert ours.open_event("one", forged) == forged
        else:
            with pytest.raises(JournalCorruptError):
                ours.open_event("one", forged)


def test_random_bytes_are_never_opened(seed: int) -> None:
    """Of any length and beginning; nothing but the two errors comes of them."""
    chance, ours = random.Random(seed), sealing(KEY)
    head = bytes.fromhex(Key(KEY).id)
    for _ in range(3000):
        body = chance.randbytes(chance.randrange(80))
        payload = chance.choice([b"", b"\xff", b"\xff\x01" + head, b"\xff\x02" + head]) + body
        try:
            opened = ours.open(b"place", payload)
        except JournalCorruptError:
            continue
        assert is_sealed(opened)
        with pytest.raises(PayloadDecodeError, match="not at hand"):
            Codec().decode(opened or b"")


def test_nonces_do_not_come_twice() -> None:
    """Among 20,000 seals of the same payload for the same place."""
    ours = sealing(KEY)
    sealed = {ours.seal(b"place", b"x") for _ in range(20_000)}
    assert len({payload[10:22] for payload in sealed}) == 20_000
    ones = [int.from_bytes(payload[10:22], "big").bit_count() for payload in sealed]
    assert 47 < sum(ones) / len(ones) < 49


def test_what_is_compared_with_a_key_is_compared_in_constant_time() -> None:
    """The one comparison of a MAC is `compare_digest`; ciphertexts are the library's business."""
    tree = ast.parse(inspect.getsource(seals))
    compared = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and "mac" in ast.unparse(node).casefold()
    ]
    assert compared == []
    assert "hmac.compare_digest(mac, " in inspect.getsource(seals)


def test_without_a_key_nothing_is_sealed() -> None:
    """Nor is anything sealed twice, which would hide that its key is missing."""
    with pytest.raises(JournalError, match="no key is at hand"):
        sealing().seal(b"place", b"x")
    foreign = sealing(OTHER_KEY).seal(b"place", b"x")
    with pytest.raises(PayloadDecodeError, match=Key(OTHER_KEY).id):
        sealing(KEY).seal(b"place", foreign)


@pytest.mark.parametrize("kind", EventKind)
def test_only_what_the_journal_shows_anyway_stays_legible(kind: EventKind) -> None:
    """Attributes, which are columns too, and the names of runs and requests."""
    sealed = sealing(KEY).seal_event("one", EVENT._replace(kind=kind, payload=b"SENTINEL"))
    legible = {"attr_set", "attr_noted", "run_continued", "run_rewound"}
    assert (b"SENTINEL" in (sealed.payload or b"")) == (kind.label in legible)
