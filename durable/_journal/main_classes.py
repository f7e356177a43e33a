"""Classes and functions of the started script, under the name that an import uses.

In ``python shop.py`` the class `Order` is ``__main__.Order``; in a program that does
``import shop`` it is ``shop.Order``. Both may work on one journal, so a script's pickles
hold a call, ``of_main("shop", "Order")``, and a script takes what others wrote as
``shop.Order`` from itself, instead of importing a second copy of its own file.

Invariants: loading never imports the script, because a script without a guard would start
once more. Where ``__main__`` has no name (a notebook, the prompt, ``python -c``), and for
values without such classes, pickles are those of `pickle`, byte for byte.

Does not concern local classes and lambdas: these go with their code, see `codec`.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Container
from functools import reduce
from types import FunctionType
from typing import Any

from durable._base.main_name import name_of_main

__all__ = ["MAIN", "cure_of", "dump_main", "dumps", "loads", "of_main", "reduce_main"]

MAIN = b"__main__"
_name = name_of_main()
SCRIPT = None if _name == "__main__" else _name
"""The script's import name; None if nobody can import it."""

_encoded = (SCRIPT or "").encode("utf-8", "surrogatepass")
# How pickle writes a module's name, from the name's length on.
_MARK = b"\x8c" + bytes([len(_encoded)]) + _encoded if 0 < len(_encoded) < 256 else None


class UnknownClassError(LookupError):
    """A class or function of a script that this program is not and has not imported."""

    def __init__(self, script: str, qualname: str) -> None:
        super().__init__(f"{script}.{qualname} is not known in this program")
        self.script = script


def of_main(script: str, qualname: str) -> object:
    """Return what a pickle calls by the name of a script and the name in it.

    Journals hold the name of this function and of its module: both must stay.

    Raises:
        UnknownClassError: this program neither is that script nor has imported it.
    """
    modules = [sys.modules.get(script), sys.modules.get("__main__")]
    if script == SCRIPT:
        modules.reverse()
    for module in modules:
        try:
            return _look_up(module, qualname)
        except AttributeError:
            continue
    raise UnknownClassError(script, qualname)


def reduce_main(obj: Any, table: Container[type] = copyreg.dispatch_table) -> Any:
    """Return how to pickle what is found in the script; NotImplemented for all else.

    Args:
        obj: any object that a pickler asks its `reducer_override` about.
        table: the types which the pickler has an own way for.
    """
    if SCRIPT is None or getattr(obj, "__module__", None) != "__main__" or type(obj) in table:
        return NotImplemented
    if isinstance(obj, (type, FunctionType)):
        name = obj.__qualname__
    else:
        # Constants, cached functions and type variables may say that a name is all of them.
        name = obj.__reduce_ex__(5)
        if not isinstance(name, str):
            return name
    try:
        found = _look_up(sys.modules.get("__main__"), name)
    except AttributeError:
        return NotImplemented
    return (of_main, (SCRIPT, name)) if found is obj else NotImplemented


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        return reduce_main(obj)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == SCRIPT:
            return _look_up(sys.modules.get("__main__"), name)
        return super().find_class(module, name)


def dump_main(value: object) -> bytes:
    """Return the pickle of a value that refers to the script, protocol 5."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def dumps(value: object) -> bytes:
    """Return the pickle of any value, protocol 5."""
    pickled = pickle.dumps(value, 5)
    if SCRIPT is not None and pickled.find(MAIN) >= 0:
        return dump_main(value)
    return pickled


def loads(pickled: bytes) -> Any:
    """Load a pickle; what others call by the script's import name is taken from the script."""
    # A script that was imported as well has two of each class, and pickles tell them apart.
    if _MARK is not None and pickled.find(_MARK) >= 0 and SCRIPT not in sys.modules:
        return _Unpickler(io.BytesIO(pickled)).load()
    return pickle.loads(pickled)


def cure_of(error: BaseException, text: str) -> str:
    """Return what to do about a pickle that cannot be loaded, given the error and its text."""
    if isinstance(error, UnknownClassError):
        return (
            f"it belongs to the script {error.script!r}: import {error.script} in this program "
            "before it opens the journal, then resume"
        )
    if isinstance(error, AttributeError) and repr(sys.modules.get("__main__")) in text:
        return (
            "its class belongs to the program that was started then (its __main__): start that "
            "one again, or import the class here under this name, then resume"
        )
    return "if a class or module was renamed, leave an alias under its old name, then resume"


def _look_up(module: object, qualname: str) -> object:
    return reduce(getattr, qualname.split("."), module)
