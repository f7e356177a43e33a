"""What attributes may be: the checks that pairs of key and value must pass.

Attributes are plain text that listings filter by. They are checked wherever they come in,
before anything is recorded: at the start of a run, in a body, in a step, in a filter.
"""

from __future__ import annotations

from collections.abc import Mapping

from durable._replay.attributes import ATTRIBUTES_MAX

ATTRIBUTE_CHARS_MAX = 256
RESERVED = "$"


def check_attributes(value: object) -> tuple[tuple[str, str], ...]:
    """Return attributes as sorted pairs.

    Raises:
        TypeError, ValueError: not texts, or over the limits; the message names the key.
    """
    pairs = _mapping(value)
    for key, text in pairs.items():
        _check_key(key)
        _check_value(key, text)
    return tuple(sorted((_plain(key), _plain(text)) for key, text in pairs.items()))


def check_changes(value: object) -> dict[str, str | None]:
    """Return changes of attributes, in the order of their keys; None removes one.

    Raises:
        TypeError, ValueError: as for `check_attributes`.
    """
    changes = _mapping(value)
    for key, text in changes.items():
        _check_key(key)
        if text is not None:
            _check_value(key, text)
    plain = {_plain(k): None if text is None else _plain(text) for k, text in changes.items()}
    return dict(sorted(plain.items()))


def _mapping(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(
            f"attributes={_shown(value)} must be a mapping of text to text, such as "
            '{"order": "A-17"}'
        )
    if len(value) > ATTRIBUTES_MAX:
        raise ValueError(
            f"attributes: {len(value)} are too many, a run keeps up to {ATTRIBUTES_MAX}"
        )
    return dict(value)


def _check_key(key: object) -> None:
    if not isinstance(key, str):
        raise TypeError(f"attributes: the key {_shown(key)} is not a text; write {str(key)!r}")
    _check_text(f"the key {_shown(key)}", key)
    if key.startswith(RESERVED):
        raise ValueError(
            f"attributes: the key {_shown(key)} begins with {RESERVED!r}, which is reserved: "
            "choose another one"
        )


def _check_value(key: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(
            f"attributes: the value {_shown(value)} of {key!r} is not a text; "
            f"write {_shown(str(value))}"
        )
    _check_text(f"the value {_shown(value)} of {key!r}", value)


def _check_text(what: str, text: str) -> None:
    if not 0 < len(text) <= ATTRIBUTE_CHARS_MAX:
        raise ValueError(
            f"attributes: {what} has {len(text)} characters; 1 to {ATTRIBUTE_CHARS_MAX} are kept"
        )
    if not is_text(text):
        raise ValueError(
            f"attributes: {what} holds a NUL or half of a surrogate pair, which is no text: "
            "leave it out"
        )


def is_text(value: str) -> bool:
    """Tell whether SQLite and UTF-8 can hold it: no NUL, and no half of a surrogate pair."""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _plain(text: str) -> str:
    return str.__str__(text)  # of an enumeration's member, the text that it is


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
