"""Exceptions inside values: pickled so that the same ones come back.

`pickle` calls an exception's class with the message that its `__init__` has handed on. A
class that wants something else cannot be loaded then, or comes back with another text, as
in "only only 0 lamps left left". Such exceptions go as their type, arguments and
attributes instead, past their `__init__`; all others as `pickle` has them.

Invariant: whether an exception comes back is found out when it is stored, by loading it,
so that nothing is recorded that cannot be read.

Does not concern how a step or a run has failed: see `failure`, which keeps more.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from durable._base.signals import is_from_signal
from durable._journal.main_classes import dumps, loads, reduce_main
from durable.errors import _rebuild

__all__ = ["REFERENCE", "dump_referring", "is_same_error", "pickles_as_usual", "reduce_error"]

# What every pickle has that refers to a class or a function (STACK_GLOBAL).
REFERENCE = b"\x93"


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        return reduce_error(obj) if isinstance(obj, BaseException) else reduce_main(obj)


def dump_referring(value: object) -> bytes:
    """Return the pickle of a value with classes in it, protocol 5."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def reduce_error(error: BaseException) -> Any:
    """Return how to pickle an exception; NotImplemented where `pickle`'s own way will do."""
    grouped = isinstance(error, BaseExceptionGroup)  # its members are asked about, each
    if grouped or not pickles_as_usual(error) or _comes_back(error):
        return NotImplemented
    return _rebuild, (type(error), error.args), vars(error)


def pickles_as_usual(error: BaseException) -> bool:
    """Tell whether type, arguments and attributes are all that an exception is made of."""
    kind = type(error)
    if kind.__reduce_ex__ is not object.__reduce_ex__:
        return False
    if kind.__reduce__ is OSError.__reduce__:  # it holds its number and file elsewhere
        return getattr(error, "errno", None) is None
    return kind.__reduce__ is BaseException.__reduce__


def is_same_error(back: object, error: BaseException) -> bool:
    """Tell whether an exception that was loaded is like the one that was pickled."""
    return (
        type(back) is type(error)
        and len(back.args) == len(error.args)
        and all(map(_alike, back.args, error.args))
        # The default text is made of the arguments, and may show the address of one.
        and (type(error).__str__ is BaseException.__str__ or str(back) == str(error))
    )


def _comes_back(error: BaseException) -> bool:
    try:
        return is_same_error(loads(dumps(error)), error)
    except BaseException as cause:  # somebody's code: it may raise anything
        if is_from_signal(cause):
            raise
        return False


def _alike(back: object, original: object) -> bool:
    if type(back) is not type(original):
        return False
    if type(original).__eq__ is object.__eq__:
        return True  # compares by identity: a copy can never be equal
    return bool(back == original) or repr(back) == repr(original)
