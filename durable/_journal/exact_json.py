"""JSON payloads that come back as what went in, or are refused.

Owns the check that a value is made of nothing but None, bool, int, finite float, str,
list and dict with str keys, exact types only: what `json` would quietly change (tuples,
NaN, int keys, subclasses such as enums) is refused, and the error names its path.

Does not add the first byte of the payload: the codec does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import cast

from durable._journal.locate import Root, key_text, roots, type_name
from durable.errors import PayloadDecodeError, SerializationError

__all__ = ["dump_json", "load_json"]

_INT_BITS_MAX = 14_000  # json writes ints of up to 4300 digits


def dump_json(value: object, root: Root) -> bytes:
    """`value` (or, with root None, the `(args, kwargs)` of a call) as UTF-8.

    Raises:
        SerializationError: JSON cannot hold it exactly; `path` says which part.
    """
    if root is None:
        args, kwargs = cast("tuple[tuple[object, ...], dict[str, object]]", value)
        value = [list(args), kwargs]
    try:
        found = _locate_not_json(value, root)
        if found is None:
            # surrogatepass: what a str can hold comes back, lone surrogates too.
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            return text.encode("utf-8", "surrogatepass")
    except RecursionError as error:
        path = root or "args"
        raise SerializationError(
            f"{path} is nested too deeply to be stored, or contains itself", path
        ) from error
    path, culprit = found
    raise SerializationError(
        f"{path} cannot be stored as JSON without changing it: it is {culprit}; "
        'convert it (for example str(value) or list(value)), or use format="pickle"',
        path,
    )


def load_json(body: bytes) -> object:
    """The value of `body`.

    Raises:
        PayloadDecodeError: it is not JSON.
    """
    try:
        value: object = json.loads(body.decode("utf-8", "surrogatepass"))
    except Exception as error:
        raise PayloadDecodeError(f"the payload is not the JSON it claims to be: {error}") from error
    return value


def _locate_not_json(value: object, root: Root) -> tuple[str, str] | None:
    """The path and description of the first part that JSON cannot hold exactly.

    Raises:
        RecursionError: nested too deeply, or cyclic.
    """
    if root is not None:
        found = _not_json(value)
        return None if found is None else (root + "".join(reversed(found[1])), found[0])
    assert isinstance(value, list)  # [args, kwargs]
    for name, part in roots(value, None):
        found = _not_json(part)
        if found is not None:
            return name + "".join(reversed(found[1])), found[0]
    return None


def _not_json(value: object) -> tuple[str, list[str]] | None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return None
    if kind is list:
        return _not_json_items(enumerate(cast("list[object]", value)))
    if kind is dict:
        pairs = cast("dict[object, object]", value)
        odd = next((key for key in pairs if type(key) is not str), None)
        if odd is not None or None in pairs:
            return f"a dict with the {type_name(odd)} key {key_text(odd)}", []
        return _not_json_items(pairs.items())
    return _odd_number(value) if kind in (int, float) else (f"a {type_name(value)}", [])


def _not_json_items(items: Iterable[tuple[object, object]]) -> tuple[str, list[str]] | None:
    for key, item in items:
        found = _not_json(item)
        if found is not None:
            found[1].append(f"[{key_text(key)}]")
            return found
    return None


def _odd_number(value: object) -> tuple[str, list[str]] | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"the float {value}", []
    if isinstance(value, int) and value.bit_length() > _INT_BITS_MAX:
        return "an int of thousands of digits", []
    return None
