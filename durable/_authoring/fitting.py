"""Whether a value is of an annotated type, and what it becomes to be of it.

Owns the rules by which payloads are checked before they are recorded. What is of the type
already stays the very same object. Plain data, as it comes from JSON, is turned into what
was asked for where that is beyond doubt: a dict into a dataclass, a TypedDict or a pydantic
model, a list into a tuple or set, a text into a date, UUID, Decimal or Path, a value into
its Enum member, an int into a float. Nothing else is converted: "5" is no int, 1 no bool.

A value that fitted once fits again unchanged. pydantic is never imported here: its models
are known by their methods.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin

from durable._authoring.fits import (
    SIMPLE,
    Check,
    Fields,
    Make,
    fit_enum,
    fit_instance,
    fit_items,
    fit_literal,
    fit_mapping,
    fit_model,
    fit_record,
    fit_tuple,
    fit_typed_dict,
    fit_union,
)
from durable.errors import HookPayloadError

Fit = Callable[[object], object]


def fitter(annotation: object, where: str = "") -> Fit | None:
    """Return a function that makes values of the annotated type, None if any value goes.

    Args:
        annotation: a class, or anything that stands behind a colon; None for any value.
        where: how the messages begin, such as ``"mailbox 'in'"``.

    The function raises `HookPayloadError` for a value that does not fit.

    Raises:
        TypeError: the annotation says nothing that a value could be held against.
    """
    if annotation is None or annotation is Any or annotation is object:
        return None
    check = _Builder().build(annotation)

    def fit(value: object) -> object:
        try:
            return check(value, "payload")
        except HookPayloadError as error:
            if not where:
                raise
            raise HookPayloadError(f"{where}: {error}", error.path) from error.__cause__

    return fit


def type_text(annotation: object) -> str:
    """Return an annotation as people write it."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__qualname__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


# --- from annotations to checks --------------------------------------------------------------

_SEQUENCES: dict[object, tuple[Make, type]] = {
    list: (list, list), set: (set, set), frozenset: (frozenset, frozenset),
    Sequence: (list, Sequence), Collection: (list, Collection), Iterable: (list, Collection),
    AbstractSet: (set, AbstractSet),
}  # fmt: skip


class _Builder:
    """Builds the check of one annotation; classes that contain themselves are built once."""

    def __init__(self) -> None:
        self._fields: dict[object, Fields] = {}

    def build(self, annotation: Any) -> Check:
        """Return the check of an annotation.

        Raises:
            TypeError: it cannot be checked.
        """
        if isinstance(annotation, (str, typing.ForwardRef)):
            raise _no_type(annotation, "give the class itself, not its name")
        if _is_hashable(annotation) and annotation in SIMPLE:
            return SIMPLE[annotation]
        origin = get_origin(annotation)
        if origin is not None:
            return self._generic(annotation, origin, get_args(annotation))
        if isinstance(annotation, type):
            return self._class(annotation)
        return self._wrapped(annotation)

    def _wrapped(self, annotation: Any) -> Check:
        if (inner := getattr(annotation, "__supertype__", None)) is not None:  # NewType
            return self.build(inner)
        if (inner := getattr(annotation, "__value__", None)) is not None:  # type X = ...
            return self.build(inner)
        if isinstance(annotation, dataclasses.InitVar):
            return self.build(annotation.type)
        if isinstance(annotation, typing.TypeVar):
            return self.build(annotation.__bound__ or Any)
        raise _no_type(annotation, "use a class or a type annotation")

    def _generic(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Check:
        if origin in (Union, types.UnionType):
            parts = [self.build(each) for each in args]
            return partial(fit_union, parts, type_text(annotation))
        if origin is Literal:
            return partial(fit_literal, args)
        if origin in (typing.Annotated, *_QUALIFIERS):
            return self.build(args[0])
        if origin is tuple:
            if len(args) == 2 and args[1] is Ellipsis:
                return partial(fit_items, tuple, tuple, self.build(args[0]))
            return partial(fit_tuple, [self.build(each) for each in args])
        if origin in _SEQUENCES:
            make, cls = _SEQUENCES[origin]
            return partial(fit_items, make, cls, self.build(args[0]))
        if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
            return partial(fit_mapping, self.build(args[0]), self.build(args[1]))
        if isinstance(origin, type) and (dataclasses.is_dataclass(origin) or _is_model(origin)):
            return self._class(annotation if _is_model(origin) else origin)
        raise _no_type(annotation, "use a class, or lists, dicts and unions of them")

    def _class(self, cls: Any) -> Check:
        if _is_model(cls):
            return partial(fit_model, cls)
        if typing.is_typeddict(cls):
            return partial(fit_typed_dict, self._fields_of(cls, None, _required_keys(cls)))
        if issubclass(cls, enum.Enum):
            return partial(fit_enum, cls)
        if dataclasses.is_dataclass(cls):
            return partial(fit_record, cls, self._fields_of(cls, *_dataclass_fields(cls)))
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            required = frozenset(cls._fields) - frozenset(cls._field_defaults)
            return partial(fit_record, cls, self._fields_of(cls, cls._fields, required))
        if getattr(cls, "_is_protocol", False) and not getattr(cls, "_is_runtime_protocol", False):
            raise _no_type(cls, "decorate the protocol with @runtime_checkable")
        return partial(fit_instance, cls)

    def _fields_of(
        self, cls: Any, names: Collection[str] | None, required: frozenset[str]
    ) -> Fields:
        if cls in self._fields:
            return self._fields[cls]
        fields = self._fields[cls] = Fields(cls.__qualname__)
        try:
            hints = typing.get_type_hints(cls)
        except NameError as error:
            raise _no_type(cls, f"{error}: define what its fields name in the module") from error
        chosen = hints if names is None else {name: hints.get(name, Any) for name in names}
        fields.parts = {name: self.build(hint) for name, hint in chosen.items()}
        fields.required = required
        return fields


_QUALIFIERS = tuple(
    getattr(typing, name)
    for name in ("Required", "NotRequired", "ReadOnly")
    if hasattr(typing, name)
)


def _required_keys(cls: Any) -> frozenset[str]:
    # Where annotations are texts, the class itself does not know what is NotRequired.
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:  # told where the types of the fields are looked up
        return frozenset()
    marks = {name: _qualifiers(hint) for name, hint in hints.items()}
    return frozenset(
        name
        for name, marked in marks.items()
        if typing.Required in marked
        or (name in cls.__required_keys__ and typing.NotRequired not in marked)
    )


def _qualifiers(hint: Any) -> set[object]:
    found: set[object] = set()
    while (origin := get_origin(hint)) in (typing.Annotated, *_QUALIFIERS):
        found.add(origin)
        hint = get_args(hint)[0]
    return found


def _dataclass_fields(cls: Any) -> tuple[list[str], frozenset[str]]:
    """Return what its constructor takes by name, and what of it has no default."""
    given = inspect.signature(cls).parameters.values()
    taken = [p for p in given if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in taken], frozenset(p.name for p in taken if p.default is p.empty)


def _is_model(cls: object) -> bool:
    return isinstance(cls, type) and callable(getattr(cls, "model_validate", None))


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _no_type(annotation: object, cure: str) -> TypeError:
    return TypeError(f"{type_text(annotation)!r} cannot be the type of a payload: {cure}")
