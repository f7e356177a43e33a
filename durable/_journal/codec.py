"""Values to bytes and back: what a payload column of the journal holds.

Owns the payload format. The first byte says how to read the rest:

    0x80  the pickle itself, protocol 5, classes and functions by reference (a pickle
          begins with 0x80 anyway: so plain data costs nothing over pickle)
    "c"   a pickle with code in it: 1 byte n, n bytes "cpython 3.11 cloudpickle 3.1.2",
          then what cloudpickle wrote
    "j"   JSON in UTF-8
    "N"   None
    0xff  sealed for its place in one journal, see `seals`; to be opened before it comes here
    "x"   transformed (encrypted, compressed): 1 byte n, n bytes name of the transform,
          then its output, which decodes to a whole payload, first byte included

Code by value is tried only where a reference fails (lambdas, local classes), and its
stamp is compared *before* loading: foreign bytecode does not raise, it kills the
interpreter. Classes of ``__main__`` go by reference, so that a script or a notebook
cell that runs again finds its own class, and whoever imports a script does, too (see
`main_classes`).

JSON holds exactly what JSON can hold. A tuple, a NaN, an int key would come back as
something else, so they are refused with their path; and a JSON codec never unpickles.

Does not checksum (the journal's rows do), and does not authenticate: whoever can write
the journal can run code as its owner, unless its rows are sealed (see `seals`).
"""

from __future__ import annotations

import functools
import io
import logging
import pickle
import sys
from collections.abc import Callable
from pickle import dumps
from typing import Literal

from durable._base.signals import is_from_signal
from durable._journal.exact_json import dump_json, load_json
from durable._journal.exceptions import REFERENCE, dump_referring, reduce_error
from durable._journal.heads import (
    Transform,
    check_transform,
    open_seal,
    seal,
    split_head,
    write_head,
)
from durable._journal.locate import (
    Root,
    cure_for,
    is_depth_error,
    largest,
    locate,
    type_name,
)
from durable._journal.main_classes import cure_of, loads, reduce_main
from durable._journal.seals import is_sealed, key_id_of, no_key, signed_part
from durable.errors import PayloadDecodeError, PayloadTooLargeError, SerializationError

__all__ = ["Codec", "Transform"]

_log = logging.getLogger("durable")

_PICKLE, _CODE, _JSON, _TRANSFORMED, _NONE = b"\x80", b"c", b"j", b"x", b"N"
_HEAD, _FRAME = b"\x80\x05", 0x95
_SHORT = 60_000  # pickle begins a second frame at 64 KiB
_MIN_MAX_BYTES = 4096
_PYTHON = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


class Codec:
    """Encodes and decodes payloads.

    Args:
        format: ``"pickle"`` (default: nearly everything, exact) or ``"json"`` (None, bool,
            int, finite float, str, list, dict with str keys; refuses the rest, and
            never unpickles, not even payloads recorded before the change of format).
        transform: compression, for instance, of every payload; None for none. Payloads
            recorded before it was set remain readable.
        warn_bytes: log one warning per codec for a payload above this size. Default 256 KB.
        max_bytes: refuse payloads above this size. Default 16 MB, at least 4 KB.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        ``codec.decode(codec.encode({"cents": 4200})) == {"cents": 4200}``
    """

    def __init__(
        self,
        *,
        format: Literal["pickle", "json"] = "pickle",
        transform: Transform | None = None,
        warn_bytes: int = 256 * 1024,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        if format not in ("pickle", "json"):
            raise ValueError(f'format={format!r} is unknown; use "pickle" or "json"')
        if max_bytes < _MIN_MAX_BYTES:
            raise ValueError(f"max_bytes={max_bytes} is too small; use at least {_MIN_MAX_BYTES}")
        if transform is not None:
            check_transform(transform)
        self.format = format
        self.transform = transform
        self.warn_bytes = warn_bytes
        self.max_bytes = max_bytes
        self._pickles = format == "pickle"
        self._size_check = min(warn_bytes, max_bytes)

    def encode(self, value: object, root: Root = "value") -> bytes:
        """The payload for one value.

        Args:
            value: what to store.
            root: how the error shall call it, such as ``"result"``; None for a call.

        Raises:
            SerializationError: it cannot be stored; `path` says which part of it.
            PayloadTooLargeError: it is larger than `max_bytes`.
        """
        # One level, on purpose: every argument and result of every step passes here.
        if not self._pickles:
            payload = _JSON + dump_json(value, root)
        elif value is None:
            payload = _NONE
        else:
            try:
                payload = dumps(value, 5)
                if payload.find(REFERENCE) >= 0:
                    payload = dump_referring(value)
            except BaseException as error:  # a value's own code may raise anything
                payload = _pack_code(value, root, error)
            # A frame is for readers of files, and takes 9 bytes. Short pickles have but one.
            if 10 < len(payload) < _SHORT and payload[2] == _FRAME:
                payload = _HEAD + payload[11:]
            # A class may pickle itself through cloudpickle: then its code needs a stamp.
            # (`find`, because `in` takes the bytes for a number first and raises inside.)
            if (
                payload.find(b"cloudpickle") >= 0
                and payload[:1] == _PICKLE
                and _carries_code(payload)
            ):
                payload = _code_head() + payload
        if self.transform is not None:
            payload = seal(_TRANSFORMED, self.transform, payload)
        if len(payload) > self._size_check:
            self._check_size(len(payload), value, root)
        return payload

    def encode_call(self, args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
        """The payload for the arguments of a call; paths are ``args[0]``, ``kwargs["x"]``.

        Raises:
            SerializationError, PayloadTooLargeError: as for `encode`.
        """
        return self.encode((args, kwargs), None)

    def decode(self, payload: bytes) -> object:
        """The value of a payload.

        Raises:
            PayloadDecodeError: whatever the reason: a class is missing, the code in it
                belongs to another Python, the bytes are damaged.
        """
        if payload[:1] == _PICKLE and self._pickles:
            return _load(payload)
        if payload == _NONE:
            return None
        return self._decode_other(payload)

    def decode_call(self, payload: bytes) -> tuple[tuple[object, ...], dict[str, object]]:
        """The `(args, kwargs)` of a payload made by `encode_call`.

        Raises:
            PayloadDecodeError: as for `decode`, or the payload holds no call.
        """
        call = self.decode(payload)
        if isinstance(call, (tuple, list)) and len(call) == 2:
            args, kwargs = call
            if isinstance(args, (tuple, list)) and isinstance(kwargs, dict):
                return tuple(args), kwargs
        raise PayloadDecodeError(f"the payload holds a {type_name(call)}, not a call's arguments")

    def preview(self, payload: bytes) -> object:
        """What a payload holds, for people; never runs or imports anything, never raises.

        Plain data comes back as it is (cut where it is large), dates, decimals and UUIDs
        too; everything else is an inert `StandIn` whose `repr` reads like a call.
        """
        from durable._journal.preview import StandIn, preview_json, preview_pickle

        try:
            if is_sealed(payload):
                return self._preview_sealed(payload)
            if payload[:1] == _TRANSFORMED:
                name, _ = split_head(payload)
                if self.transform is None or name != self.transform.tag:
                    return StandIn(f"sealed by transform {name!r}, {len(payload)} bytes")
                return self.preview(open_seal(self.transform, payload))
            if payload[:1] == _JSON:
                return preview_json(payload[1:])
            if payload == _NONE:
                return None
            body = split_head(payload)[1] if payload[:1] == _CODE else payload
            return preview_pickle(body)
        except Exception:
            return StandIn(f"unreadable payload, {len(payload)} bytes")

    def _preview_sealed(self, payload: bytes) -> object:
        from durable._journal.preview import StandIn

        try:
            body = signed_part(payload)
        except PayloadDecodeError:
            size = len(payload)
            return StandIn(f"sealed with the key {key_id_of(payload)}, {size} bytes")
        return None if body is None else self.preview(body)

    def _check_size(self, size: int, value: object, root: Root) -> None:
        path = largest(value, root, _weigh)
        if size > self.max_bytes:
            raise PayloadTooLargeError(
                f"{path} takes {size:,} bytes in the journal, the limit is {self.max_bytes:,}; "
                "keep large data in a file or a store and pass its name, or raise max_bytes",
                path,
            )
        _log.warning(
            "%s takes %s bytes in the journal (warning from %s); large values slow every replay: "
            "pass a file name or an id instead. Further large values are not reported.",
            path,
            f"{size:,}",
            f"{self.warn_bytes:,}",
        )
        self._size_check = self.max_bytes

    def _decode_other(self, payload: bytes) -> object:
        head = payload[:1]
        if is_sealed(payload):
            raise no_key(payload)
        if head == _TRANSFORMED:
            return self.decode(open_seal(self.transform, payload))
        if head == _JSON:
            return load_json(payload[1:])
        if head in (_PICKLE, _CODE) and not self._pickles:
            raise PayloadDecodeError(
                'the payload is a pickle, and a codec with format="json" never unpickles; '
                'finish such runs with format="pickle"'
            )
        if head == _CODE:
            return _load_code(payload)
        raise PayloadDecodeError(
            f"the payload begins with {head!r}, which this version of durable cannot read"
        )


def form_of(payload: bytes) -> str:
    """Return in a word how a payload is encoded, without looking into it."""
    known = {
        _PICKLE: "pickle", _CODE: "code", _JSON: "json", _TRANSFORMED: "sealed",
        _NONE: "none", b"\xff": "sealed",
    }  # fmt: skip
    return known.get(payload[:1], "unknown")


# --- pickles --------------------------------------------------------------------------


def _pack_code(value: object, root: Root, first: BaseException) -> bytes:
    """What a plain pickle refused, with its code."""
    if isinstance(first, MemoryError) or is_from_signal(first):
        raise first
    if is_depth_error(first):
        raise _refuse(value, root, first) from first
    try:
        return _code_head() + _dump_code(value)
    except BaseException as error:
        if isinstance(error, MemoryError) or is_from_signal(error):
            raise
        raise _refuse(value, root, error) from error


def _dump_code(value: object) -> bytes:
    buffer = io.BytesIO()
    _code_pickler()(buffer, protocol=5).dump(value)
    return buffer.getvalue()


@functools.cache
def _code_pickler() -> Callable[..., pickle.Pickler]:
    # Imported here: most programs never store code, and the import is not free.
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: object) -> object:
            if isinstance(obj, (io.IOBase, memoryview)):
                # cloudpickle would quietly store a file's contents, or bytes for a view.
                raise pickle.PicklingError(f"cannot pickle {type(obj).__name__!r} object")
            if isinstance(obj, BaseException):
                return reduce_error(obj)
            if (reduced := reduce_main(obj, self.dispatch_table)) is not NotImplemented:
                return reduced
            if getattr(obj, "__module__", None) == "__main__" and _found_by_name(obj):
                return NotImplemented
            return super().reducer_override(obj)

    return Pickler


def _found_by_name(obj: object) -> bool:
    found: object = sys.modules.get("__main__")
    for part in getattr(obj, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is obj


def _carries_code(payload: bytes) -> bool:
    import pickletools

    for _, argument, _ in pickletools.genops(payload):
        if argument == "cloudpickle.cloudpickle":
            return True
        if isinstance(argument, bytes) and b"cloudpickle.cloudpickle" in argument:
            return True
    return False


def _storable(value: object) -> BaseException | None:
    """Why `value` cannot be stored, or None."""
    try:
        _weigh(value)
    except BaseException as error:
        if is_from_signal(error):
            raise
        return error
    return None


def _weigh(value: object) -> int:
    try:
        return len(dumps(value, 5))
    except BaseException as error:
        if is_depth_error(error) or is_from_signal(error):
            raise
        return len(_dump_code(value))


def _refuse(value: object, root: Root, error: BaseException) -> SerializationError:
    path, culprit = locate(value, root, _storable, descend=not is_depth_error(error))
    if is_depth_error(error):
        return SerializationError(
            f"{path} is nested too deeply to be stored (the recursion limit is "
            f"{sys.getrecursionlimit()}); flatten it, for example into a list of records",
            path,
        )
    reason = _storable(culprit) or error
    return SerializationError(
        f"{path} cannot be stored: it is a {type_name(culprit)} "
        f"({type(reason).__name__}: {_text(reason)}); {cure_for(culprit)}",
        path,
    )


def _load(payload: bytes) -> object:
    try:
        return loads(payload)
    except BaseException as error:
        # Anything can come out of somebody's __setstate__, SystemExit included.
        if is_from_signal(error):
            raise
        text = _text(error)
        raise PayloadDecodeError(
            f"a recorded value cannot be loaded: {type(error).__name__}: {text}; "
            f"{cure_of(error, text)}"
        ) from error


def _load_code(payload: bytes) -> object:
    stamp, body = split_head(payload)
    python, _, version = stamp.partition(" cloudpickle ")
    if python != _PYTHON:
        raise _wrong_stamp(python, _PYTHON)
    try:
        import cloudpickle
    except ImportError as error:
        raise _wrong_stamp(f"cloudpickle {version}", "no cloudpickle") from error
    if _minor(version) != _minor(cloudpickle.__version__):
        raise _wrong_stamp(f"cloudpickle {version}", f"cloudpickle {cloudpickle.__version__}")
    return _load(bytes(body))


def _wrong_stamp(recorded: str, have: str) -> PayloadDecodeError:
    return PayloadDecodeError(
        f"the payload holds code recorded by {recorded}, this is {have}; such code is never "
        f"loaded. Open the journal with {recorded}, or store data instead of lambdas and "
        "local classes (importable ones cross versions)"
    )


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _code_head() -> bytes:
    import cloudpickle

    return write_head(_CODE, f"{_PYTHON} cloudpickle {cloudpickle.__version__}")


def _text(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException as odd:
        if is_from_signal(odd):
            raise
        return "(no message)"
