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
import json
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin
from uuid import UUID

from durable.errors import HookPayloadError

Fit = Callable[[object], object]
_Make = Callable[[Any], object]
_Check = Callable[[Any, str], object]  # a value and its path; returns what it becomes


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


def _misfit(value: object, path: str, needed: str) -> HookPayloadError:
    shown = reprlib.repr(value)  # short, whatever it is
    return HookPayloadError(f"{path} is {shown} ({type(value).__name__}), but {needed}", path)


def _inside(path: str, key: object) -> str:
    return f"{path}[{json.dumps(key) if isinstance(key, str) else reprlib.repr(key)}]"


# --- simple types -----------------------------------------------------------------------


def _any(value: object, path: str) -> object:
    return value


def _none(value: object, path: str) -> object:
    if value is not None:
        raise _misfit(value, path, "it must be None")
    return None


def _instance(cls: type, value: object, path: str) -> object:
    if not isinstance(value, cls):
        raise _misfit(value, path, f"it must be a {cls.__qualname__}")
    return value


def _int(value: object, path: str) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _misfit(value, path, "it must be an int")
    return value


def _float(value: object, path: str) -> object:
    if isinstance(value, float):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise _misfit(value, path, "it must be a float")
    return _converted(float, int, value, path)


def _date(value: object, path: str) -> object:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    return _converted(date.fromisoformat, str, value, path)


def _converted(make: _Make, source: Any, value: object, path: str) -> object:
    cls = getattr(make, "__self__", make)
    name = getattr(cls, "__qualname__", str(cls))
    if not isinstance(value, source) or isinstance(value, bool):
        raise _misfit(value, path, f"it must be a {name}")
    try:
        return make(value)
    except (ValueError, ArithmeticError) as error:
        raise _misfit(value, path, f"no {name} can be made of it: {error}") from error


def _from(cls: type, make: _Make, source: Any) -> _Check:
    def check(value: object, path: str) -> object:
        return value if isinstance(value, cls) else _converted(make, source, value, path)

    return check


_SIMPLE: dict[object, _Check] = {
    Any: _any,
    object: _any,
    None: _none,
    type(None): _none,
    int: _int,
    float: _float,
    date: _date,
    datetime: _from(datetime, datetime.fromisoformat, str),
    time: _from(time, time.fromisoformat, str),
    UUID: _from(UUID, UUID, str),
    Decimal: _from(Decimal, Decimal, str | int),
    Path: _from(Path, Path, str),
}


def _literal(choices: tuple[object, ...], value: object, path: str) -> object:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    raise _misfit(value, path, f"it must be one of {', '.join(map(repr, choices))}")


def _enum(cls: type[enum.Enum], value: object, path: str) -> object:
    if isinstance(value, cls):
        return value
    for member in cls:
        if type(member.value) is type(value) and member.value == value:
            return member
    known = ", ".join(repr(member.value) for member in cls)
    raise _misfit(value, path, f"{cls.__qualname__} has only {known}")


# --- what is made of parts ----------------------------------------------------------------


def _items(make: _Make, cls: type, part: _Check, given: object, path: str) -> object:
    is_right = isinstance(given, cls)
    # JSON has but one sequence, the list; and a text is no sequence of values.
    if isinstance(given, (str, bytes)) or not (is_right or isinstance(given, (list, tuple))):
        raise _misfit(given, path, f"it must be a {cls.__name__}")
    items = list(cast("Iterable[object]", given))
    fitted = [part(item, f"{path}[{at}]") for at, item in enumerate(items)]
    if is_right and all(map(_same, fitted, items)):
        return given
    return _collected(make, fitted, given, path)


def _collected(make: _Make, fitted: list[object], value: object, path: str) -> object:
    try:
        return make(fitted)
    except TypeError as error:  # what cannot be hashed is in no set
        raise _misfit(value, path, f"its items must do in a set: {error}") from error


def _same(one: object, other: object) -> bool:
    return one is other


def _tuple(parts: Sequence[_Check], value: Any, path: str) -> object:
    if not isinstance(value, (tuple, list)):
        raise _misfit(value, path, "it must be a tuple")
    if len(value) != len(parts):
        raise _misfit(value, path, f"it must have {len(parts)} items, not {len(value)}")
    fitted = [
        part(v, f"{path}[{at}]") for at, (part, v) in enumerate(zip(parts, value, strict=True))
    ]
    keep = isinstance(value, tuple) and all(map(_same, fitted, value))
    return value if keep else tuple(fitted)


def _mapping(key: _Check, part: _Check, value: Any, path: str) -> object:
    if not isinstance(value, Mapping):
        raise _misfit(value, path, "it must be a dict")
    fitted = {key(k, f"a key of {path}"): part(v, _inside(path, k)) for k, v in value.items()}
    same = all(map(_same, fitted, value)) and all(map(_same, fitted.values(), value.values()))
    return value if same else fitted


def _union(parts: Sequence[_Check], needed: str, value: object, path: str) -> object:
    errors: list[HookPayloadError] = []
    found: list[object] = []
    for part in parts:
        try:
            fitted = part(value, path)
        except HookPayloadError as error:
            errors.append(error)
            continue
        if fitted is value:  # of this type already: better than any conversion
            return value
        found.append(fitted)
    if found:
        return found[0]
    if value is not None and len(errors) - (_none in parts) == 1:
        raise next(e for part, e in zip(parts, errors, strict=False) if part is not _none)
    raise _misfit(value, path, f"it must be {needed}")


@dataclasses.dataclass
class _Fields:
    """The fields of a class or TypedDict: filled in late, because types may contain themselves."""

    name: str
    parts: dict[str, _Check] = dataclasses.field(default_factory=dict)
    required: frozenset[str] = frozenset()

    def fit(self, value: Mapping[object, object], path: str) -> dict[str, object]:
        """Return the fields with what they become."""
        for key in value:
            if key not in self.parts:
                known = ", ".join(map(repr, self.parts)) or "none"
                raise HookPayloadError(
                    f"{path} has the unknown field {key!r}: {self.name} has {known}", path
                )
        if missing := [name for name in self.parts if name in self.required and name not in value]:
            raise HookPayloadError(
                f"{path} lacks the field {missing[0]!r}, which {self.name} needs",
                _inside(path, missing[0]),
            )
        return {str(k): self.parts[str(k)](v, _inside(path, k)) for k, v in value.items()}


def _record(cls: Any, fields: _Fields, value: object, path: str) -> object:
    """A dataclass or a named tuple, made of a dict."""
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise _misfit(value, path, f"it must be a {fields.name}, or a dict of its fields")
    given = fields.fit(value, path)
    try:
        return cls(**given)
    except Exception as error:
        raise _misfit(value, path, f"no {fields.name} can be made of it: {error}") from error


def _typed_dict(fields: _Fields, value: object, path: str) -> object:
    if not isinstance(value, Mapping):
        raise _misfit(value, path, f"it must be a dict with the fields of {fields.name}")
    fitted = fields.fit(value, path)
    return value if all(map(_same, fitted.values(), value.values())) else fitted


def _model(cls: Any, value: object, path: str) -> object:
    """A pydantic model, which has its own rules."""
    if isinstance(value, cls):
        return value
    try:
        return cls.model_validate(value)
    except ValueError as error:
        told = getattr(error, "errors", None)
        first = told()[0] if callable(told) else {"loc": (), "msg": str(error)}
        where = path + "".join(_inside("", part) for part in first["loc"])
        needed = f"{where} does not fit {cls.__qualname__}: {first['msg']}"
        raise HookPayloadError(needed, where) from error


# --- from annotations to checks --------------------------------------------------------------

_SEQUENCES: dict[object, tuple[_Make, type]] = {
    list: (list, list), set: (set, set), frozenset: (frozenset, frozenset),
    Sequence: (list, Sequence), Collection: (list, Collection), Iterable: (list, Collection),
    AbstractSet: (set, AbstractSet),
}  # fmt: skip


class _Builder:
    """Builds the check of one annotation; classes that contain themselves are built once."""

    def __init__(self) -> None:
        self._fields: dict[object, _Fields] = {}

    def build(self, annotation: Any) -> _Check:
        """Return the check of an annotation.

        Raises:
            TypeError: it cannot be checked.
        """
        if isinstance(annotation, (str, typing.ForwardRef)):
            raise _no_type(annotation, "give the class itself, not its name")
        if _is_hashable(annotation) and annotation in _SIMPLE:
            return _SIMPLE[annotation]
        origin = get_origin(annotation)
        if origin is not None:
            return self._generic(annotation, origin, get_args(annotation))
        if isinstance(annotation, type):
            return self._class(annotation)
        return self._wrapped(annotation)

    def _wrapped(self, annotation: Any) -> _Check:
        if (inner := getattr(annotation, "__supertype__", None)) is not None:  # NewType
            return self.build(inner)
        if (inner := getattr(annotation, "__value__", None)) is not None:  # type X = ...
            return self.build(inner)
        if isinstance(annotation, typing.TypeVar):
            return self.build(annotation.__bound__ or Any)
        raise _no_type(annotation, "use a class or a type annotation")

    def _generic(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> _Check:
        if origin in (Union, types.UnionType):
            parts = [self.build(each) for each in args]
            return partial(_union, parts, type_text(annotation))
        if origin is Literal:
            return partial(_literal, args)
        if origin in (typing.Annotated, *_QUALIFIERS):
            return self.build(args[0])
        if origin is tuple:
            if len(args) == 2 and args[1] is Ellipsis:
                return partial(_items, tuple, tuple, self.build(args[0]))
            return partial(_tuple, [self.build(each) for each in args])
        if origin in _SEQUENCES:
            make, cls = _SEQUENCES[origin]
            return partial(_items, make, cls, self.build(args[0]))
        if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
            return partial(_mapping, self.build(args[0]), self.build(args[1]))
        if isinstance(origin, type) and (dataclasses.is_dataclass(origin) or _is_model(origin)):
            return self._class(annotation if _is_model(origin) else origin)
        raise _no_type(annotation, "use a class, or lists, dicts and unions of them")

    def _class(self, cls: Any) -> _Check:
        if _is_model(cls):
            return partial(_model, cls)
        if typing.is_typeddict(cls):
            required = frozenset(cls.__required_keys__)
            return partial(_typed_dict, self._fields_of(cls, None, required))
        if issubclass(cls, enum.Enum):
            return partial(_enum, cls)
        if dataclasses.is_dataclass(cls):
            return partial(_record, cls, self._fields_of(cls, *_dataclass_fields(cls)))
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            required = frozenset(cls._fields) - frozenset(cls._field_defaults)
            return partial(_record, cls, self._fields_of(cls, cls._fields, required))
        if getattr(cls, "_is_protocol", False) and not getattr(cls, "_is_runtime_protocol", False):
            raise _no_type(cls, "decorate the protocol with @runtime_checkable")
        return partial(_instance, cls)

    def _fields_of(
        self, cls: Any, names: Collection[str] | None, required: frozenset[str]
    ) -> _Fields:
        if cls in self._fields:
            return self._fields[cls]
        fields = self._fields[cls] = _Fields(cls.__qualname__)
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
