"""How a single value is held against a single type: the checks that `fitting` puts together.

Each takes a value and its path, such as ``payload["items"][2]``, and returns what the value
becomes: the very same object where it is of the type already. It raises `HookPayloadError`
with the path, the value in short, and what it must be.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from durable.errors import HookPayloadError

Make = Callable[[Any], object]
Check = Callable[[Any, str], object]  # a value and its path; returns what it becomes


def _misfit(value: object, path: str, needed: str) -> HookPayloadError:
    shown = reprlib.repr(value)  # short, whatever it is
    return HookPayloadError(f"{path} is {shown} ({type(value).__name__}), but {needed}", path)


def _inside(path: str, key: object) -> str:
    return f"{path}[{json.dumps(key) if isinstance(key, str) else reprlib.repr(key)}]"


# --- simple types -----------------------------------------------------------------------


def _any(value: object, path: str) -> object:
    return value


def fit_none(value: object, path: str) -> object:
    """Nothing but None."""
    if value is not None:
        raise _misfit(value, path, "it must be None")
    return None


def fit_instance(cls: type, value: object, path: str) -> object:
    """An object of a class."""
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


def _converted(make: Make, source: Any, value: object, path: str) -> object:
    cls = getattr(make, "__self__", make)
    name = getattr(cls, "__qualname__", str(cls))
    if not isinstance(value, source) or isinstance(value, bool):
        raise _misfit(value, path, f"it must be a {name}")
    try:
        return make(value)
    except (ValueError, ArithmeticError) as error:
        raise _misfit(value, path, f"no {name} can be made of it: {error}") from error


def _from(cls: type, make: Make, source: Any) -> Check:
    def check(value: object, path: str) -> object:
        return value if isinstance(value, cls) else _converted(make, source, value, path)

    return check


SIMPLE: dict[object, Check] = {
    Any: _any,
    object: _any,
    None: fit_none,
    type(None): fit_none,
    int: _int,
    float: _float,
    date: _date,
    datetime: _from(datetime, datetime.fromisoformat, str),
    time: _from(time, time.fromisoformat, str),
    UUID: _from(UUID, UUID, str),
    Decimal: _from(Decimal, Decimal, str | int),
    Path: _from(Path, Path, str),
}


def fit_literal(choices: tuple[object, ...], value: object, path: str) -> object:
    """One of some values."""
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    raise _misfit(value, path, f"it must be one of {', '.join(map(repr, choices))}")


def fit_enum(cls: type[enum.Enum], value: object, path: str) -> object:
    """A member of an enum, or its value."""
    if isinstance(value, cls):
        return value
    for member in cls:
        if type(member.value) is type(value) and member.value == value:
            return member
    known = ", ".join(repr(member.value) for member in cls)
    raise _misfit(value, path, f"{cls.__qualname__} has only {known}")


# --- what is made of parts ----------------------------------------------------------------


def fit_items(make: Make, cls: type, part: Check, given: object, path: str) -> object:
    """A collection of values of one type."""
    is_right = isinstance(given, cls)
    # JSON has but one sequence, the list; and a text is no sequence of values.
    if isinstance(given, (str, bytes)) or not (is_right or isinstance(given, (list, tuple))):
        raise _misfit(given, path, f"it must be a {cls.__name__}")
    items = list(cast("Iterable[object]", given))
    fitted = [part(item, f"{path}[{at}]") for at, item in enumerate(items)]
    if is_right and all(map(_same, fitted, items)):
        return given
    return _collected(make, fitted, given, path)


def _collected(make: Make, fitted: list[object], value: object, path: str) -> object:
    try:
        return make(fitted)
    except TypeError as error:  # what cannot be hashed is in no set
        raise _misfit(value, path, f"its items must do in a set: {error}") from error


def _same(one: object, other: object) -> bool:
    return one is other


def fit_tuple(parts: Sequence[Check], value: Any, path: str) -> object:
    """So many values, each of its type."""
    if not isinstance(value, (tuple, list)):
        raise _misfit(value, path, "it must be a tuple")
    if len(value) != len(parts):
        raise _misfit(value, path, f"it must have {len(parts)} items, not {len(value)}")
    fitted = [
        part(v, f"{path}[{at}]") for at, (part, v) in enumerate(zip(parts, value, strict=True))
    ]
    keep = isinstance(value, tuple) and all(map(_same, fitted, value))
    return value if keep else tuple(fitted)


def fit_mapping(key: Check, part: Check, value: Any, path: str) -> object:
    """Keys of one type, values of another."""
    if not isinstance(value, Mapping):
        raise _misfit(value, path, "it must be a dict")
    fitted = {key(k, f"a key of {path}"): part(v, _inside(path, k)) for k, v in value.items()}
    same = all(map(_same, fitted, value)) and all(map(_same, fitted.values(), value.values()))
    return value if same else fitted


def fit_union(parts: Sequence[Check], needed: str, value: object, path: str) -> object:
    """What fits one of several types; rather as it is than converted."""
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
    if value is not None and len(errors) - (fit_none in parts) == 1:
        raise next(e for part, e in zip(parts, errors, strict=False) if part is not fit_none)
    raise _misfit(value, path, f"it must be {needed}")


@dataclasses.dataclass
class Fields:
    """The fields of a class or TypedDict: filled in late, because types may contain themselves."""

    name: str
    parts: dict[str, Check] = dataclasses.field(default_factory=dict)
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


def fit_record(cls: Any, fields: Fields, value: object, path: str) -> object:
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


def fit_typed_dict(fields: Fields, value: object, path: str) -> object:
    """A dict with given fields."""
    if not isinstance(value, Mapping):
        raise _misfit(value, path, f"it must be a dict with the fields of {fields.name}")
    fitted = fields.fit(value, path)
    return value if all(map(_same, fitted.values(), value.values())) else fitted


def fit_model(cls: Any, value: object, path: str) -> object:
    """A pydantic model, which has its own rules."""
    if isinstance(value, cls):
        return value
    try:
        return cls.model_validate(value)
    except Exception as error:
        told = getattr(error, "errors", None)
        first = told()[0] if callable(told) else {"loc": (), "msg": str(error)}
        where = path + "".join(_inside("", part) for part in first["loc"])
        needed = f"{where} does not fit {cls.__qualname__}: {first['msg']}"
        raise HookPayloadError(needed, where) from error
